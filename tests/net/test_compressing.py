"""Pushes in fewer bytes: real servers end where plain pushes would, up to what the client still keeps."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from fedps.net.compressing import Compression, Compressor, Residual, compression_of
from fedps.net.inprocess import LocalChannel, LocalServer
from fedps.net.shards import Shards
from fedps.server.server import ParameterServer
from fedps.types import NO_KEYS, ClientId, Init, Rows, Rule, TableName, TableSpec
from fedps.wire.compress import unpack
from fedps.wire.frame import Limits
from fedps.wire.pieces import PART_ROWS
from tests.conftest import MakeJob
from tests.greeting import hello

ADD = Rule("add")
ITEM = TableSpec("item", "sparse", (50_000, 16), ADD, Init("constant", 0.0))
WEIGHT, BIAS = TableSpec("weight", "dense", (24, 16), ADD), TableSpec("bias", "dense", (16,), ADD)
SPECS = (ITEM, WEIGHT, BIAS)
WAIT = 20.0
LOSSY = ("fp16", "bf16", "int8", "topk", "low_rank")
KEYS = np.arange(0, 600, 3)
Changes = dict[TableName, Rows]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def joined(make_job: MakeJob, folder: Path, stack: ExitStack, how: Compression, count: int = 2) -> Shards:
    """Return a client of so many real servers, with everything at zero."""
    job = make_job(sync_mode="async", server_num=count)
    servers = [ParameterServer(job, k, folder / "run", lambda event: None) for k in range(count)]
    locals_ = [stack.enter_context(closing(LocalServer(server))) for server in servers]
    channels = [LocalChannel(server, hello(job, "7"), Limits()) for server in locals_]
    shards = stack.enter_context(closing(Shards(channels, SPECS, WAIT, how)))
    shards.join()
    shards.seed({s.name: np.zeros((1, s.dim), np.float32) for s in (WEIGHT, BIAS)})
    return shards


def drawn(rng: np.random.Generator, keys: NDArray[np.int64]) -> Changes:
    """Draw changes with a drift, so that what is lost for good would add up."""
    rows = rng.standard_normal((len(keys), 16)) * 0.1 + np.linspace(-1, 1, 16) * (1 + keys[:, None] % 5)
    return {
        "item": Rows(keys, rows.astype(np.float32)),
        "weight": Rows(NO_KEYS, rng.normal(0.2, 0.1, (1, 384)).astype(np.float32)),
        "bias": Rows(NO_KEYS, rng.normal(0.2, 0.1, (1, 16)).astype(np.float32)),
    }


def lost(shards: Shards, pushes: int) -> tuple[float, float]:
    """Push drawn changes; return the norms of what is missing at the servers, and of what should be there."""
    rng, due = np.random.default_rng(0), {s.name: np.zeros((1, s.dim)) for s in SPECS}
    for clock in range(pushes):
        changes = drawn(rng, KEYS)
        due = {name: sums + changes[name].values for name, sums in due.items()}
        shards.push(changes, clock).result(WAIT)
    found = shards.pull({"item": KEYS, "weight": NO_KEYS, "bias": NO_KEYS}).result(WAIT)
    missing = sum(float(((found[n] - sums) ** 2).sum()) for n, sums in due.items())
    return missing**0.5, sum(float((sums**2).sum()) for sums in due.values()) ** 0.5


@pytest.mark.parametrize("form", LOSSY)
def test_feedback_loses_nothing_over_time(form: str, make_job: MakeJob, tmp_path: Path, stack: ExitStack) -> None:
    """What is missing does not grow with the pushes; without feedback it does, for forms that are not right on average."""
    how = Compression(form, share=0.25, rank=2)  # type: ignore[arg-type]
    missing, whole = lost(joined(make_job, tmp_path, stack, how), 60)
    once, _ = lost(joined(make_job, tmp_path, stack, how), 15)
    assert missing < 2 * once + 1e-3 * whole
    without, _ = lost(joined(make_job, tmp_path, stack, how._replace(feedback=False)), 60)
    assert missing < without / (1.5 if form == "int8" else 2)


@pytest.mark.parametrize("form", LOSSY)
def test_what_was_sent_and_what_is_kept_are_the_whole(form: str) -> None:
    compressor = Compressor(Compression(form, rank=2), {s.name: s for s in SPECS})  # type: ignore[arg-type]
    rng, sent, due = np.random.default_rng(1), np.zeros((600, 16)), np.zeros((600, 16))
    for sequence in range(1, 40):
        keys = np.unique(rng.integers(0, 600, 200))
        changes = drawn(rng, keys)
        due[keys] += changes["item"].values
        rows = compressor.begin({"item": changes["item"]}, sequence)["item"]
        packed, arrays = compressor.pack("item", rows.keys, rows.values, 0)
        sent[rows.keys] += unpack(packed, arrays, (len(rows.keys), 16))
    everything, nothing = np.arange(600), np.zeros((600, 16), np.float32)
    left = Compressor.begin(compressor, {"item": Rows(everything, nothing)}, 40)["item"]
    if form == "topk":  # the rows that it leaves out stay kept
        assert len(left.keys) == 60
    else:
        np.testing.assert_allclose(sent + left.values, due, atol=1e-3)


@pytest.mark.parametrize("form", LOSSY)
def test_a_packed_push_is_smaller_and_the_same_each_time(
    form: str, make_job: MakeJob, tmp_path: Path, stack: ExitStack
) -> None:
    found: list[tuple[int, bytes]] = []
    for how in (Compression(), *[Compression(form)] * 2):  # type: ignore[arg-type]
        shards = joined(make_job, tmp_path, stack, how)
        before = shards.bytes_sent
        rng = np.random.default_rng(2)
        for clock in range(3):
            shards.push(drawn(rng, KEYS), clock).result(WAIT)
        found.append((shards.bytes_sent - before, shards.pull({"item": KEYS}).result(WAIT)["item"].tobytes()))
    assert found[1] == found[2]
    assert found[1][0] < 0.6 * found[0][0]


def test_each_client_and_each_push_rounds_by_its_own_chances() -> None:
    rows = Rows(KEYS[:1], np.linspace(0, 1, 16, dtype=np.float32)[None])
    found = set()
    for stream, sequence in (((0, 1), 1), ((0, 1), 2), ((0, 2), 1), ((5, 1), 1)):
        compressor = Compressor(Compression("int8", feedback=False, stream=stream), {"item": ITEM})
        compressor.begin({"item": rows}, sequence)
        found.add(compressor.pack("item", *rows, shard=0)[1][1].tobytes())
    assert len(found) == 4


def test_topk_sends_the_rows_of_largest_norm() -> None:
    compressor = Compressor(Compression("topk", share=0.1), {"item": ITEM})
    values = np.ones((200, 16), np.float32)
    values[[5, 77]] = 9
    [rows] = compressor.begin({"item": Rows(KEYS, values)}, 1).values()
    assert len(rows.keys) == 20
    assert {KEYS[5], KEYS[77]} <= set(rows.keys)
    assert (np.diff(rows.keys) > 0).all()


def test_a_large_push_is_packed_part_by_part(make_job: MakeJob, tmp_path: Path, stack: ExitStack) -> None:
    shards = joined(make_job, tmp_path, stack, Compression("int8"))
    keys = np.arange(4 * PART_ROWS + 10)
    changes = drawn(np.random.default_rng(3), keys)
    shards.push(changes, 0).result(WAIT)
    found = shards.pull({"item": keys}).result(WAIT)["item"]
    steps = np.abs(changes["item"].values).max(axis=1, keepdims=True) / 127
    assert (np.abs(found - changes["item"].values) <= 1.001 * steps).all()


@pytest.mark.parametrize(("form", "loss"), [("fp16", 2.0**-11), ("bf16", 2.0**-8)])
@pytest.mark.parametrize("count", [1, 2])
def test_pulled_rows_come_rounded_and_dense_tensors_whole(
    form: str, loss: float, count: int, make_job: MakeJob, tmp_path: Path, stack: ExitStack
) -> None:
    shards = joined(make_job, tmp_path, stack, Compression(pull=form), count)  # type: ignore[arg-type]
    keys = np.arange(2 * PART_ROWS)
    changes = drawn(np.random.default_rng(4), keys)
    shards.push(changes, 0).result(WAIT)
    before = shards.bytes_received
    found = shards.pull({"item": keys, "weight": NO_KEYS, "bias": NO_KEYS}).result(WAIT)
    assert found["weight"].tobytes() == changes["weight"].values.tobytes()
    assert found["bias"].tobytes() == changes["bias"].values.tobytes()
    due = changes["item"].values
    assert found["item"].dtype == np.float32
    assert found["item"].tobytes() != due.tobytes()
    assert (np.abs(found["item"] - due) <= np.maximum(loss * np.abs(due), 2.0**-25)).all()
    assert shards.bytes_received - before < 1.1 * (2 * due.size + 4 * 400)


def test_nothing_is_packed_unless_asked_for() -> None:
    rows = Rows(KEYS, np.ones((200, 16), np.float32))
    compressor = Compressor(Compression(), {"item": ITEM})
    assert compressor.begin({"item": rows}, 1)["item"] is rows
    assert compressor.pack("item", *rows, shard=0) == ("none", [rows.values])


def test_vectors_and_small_matrices_travel_plain_where_packing_would_not_pay() -> None:
    compressor = Compressor(Compression("low_rank", rank=4), {s.name: s for s in SPECS})
    for name, keys, shape in (("bias", NO_KEYS, (1, 16)), ("item", KEYS[:5], (5, 16)), ("item", KEYS[:0], (0, 16))):
        form, arrays = compressor.pack(name, keys, np.ones(shape, np.float32), 0)
        assert (form, [a.shape for a in arrays]) == ("none", [shape])
    form, arrays = compressor.pack("weight", NO_KEYS, np.ones((1, 384), np.float32), 0)
    assert (form, [a.shape for a in arrays]) == ("low_rank", [(24, 4), (16, 4)])


def test_kept_rows_are_found_again_by_their_keys() -> None:
    kept, due = Residual(1), np.zeros((50, 1), np.float32)
    rng = np.random.default_rng(0)
    for _ in range(100):
        keys = np.unique(rng.integers(0, 50, 5))
        assert np.array_equal(kept.read(keys), due[keys])
        due[keys] = rng.standard_normal((len(keys), 1)).astype(np.float32)
        kept.write(keys, due[keys])
    assert np.array_equal(kept.read(np.arange(50)), due)
    assert kept.read(np.arange(0)).shape == (0, 1)


def test_the_job_says_how(make_job: MakeJob) -> None:
    job = make_job(
        compression="topk", compression_share=0.5, compression_feedback=False, pull_compression="bf16", seed=3
    )
    how = compression_of(job, ClientId("7"))
    assert (how.push, how.pull, how.share, how.rank, how.feedback) == ("topk", "bf16", 0.5, 4, False)
    assert how.stream[0] == 3
    assert how.stream != compression_of(job, ClientId("8")).stream


@pytest.mark.parametrize("form", ["none", *LOSSY])
def test_feedback_is_there_where_it_is_needed_unless_the_job_says_otherwise(form: str, make_job: MakeJob) -> None:
    said = {flag: make_job(compression=form, compression_feedback=flag) for flag in (None, True, False)}
    found = {flag: compression_of(job, ClientId("7")).feedback for flag, job in said.items()}
    assert found == {None: form in ("topk", "low_rank"), True: True, False: False}


def test_every_form_of_the_job_is_tested() -> None:
    assert set(get_args(Compression.__annotations__["push"])) == {"none", *LOSSY}
