"""Dense tensors larger than a message: they are cut, and stand on the servers as if they had not been."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from fedps.config.job import LimitSettings
from fedps.net.compressing import NOTHING, Compression
from fedps.net.inprocess import LocalChannel, LocalServer
from fedps.net.shards import Shards
from fedps.server.server import ParameterServer
from fedps.table.store import Store
from fedps.types import NO_KEYS, Init, Keys, Rows, Rule, TableName, TableSpec, Values
from fedps.wire.frame import Limits
from fedps.wire.messages import Done, Message, Pull, Push, Refused, Seed
from tests.conftest import MakeJob
from tests.greeting import hello
from tests.server.callers import BIAS, ROWS, Caller, ones

WAIT = 20.0
RULE = Rule("adam", 0.1)
ITEM = TableSpec("item", "sparse", (100_000, 8), RULE, Init("normal", 0.0, 1.0))
WIDE = TableSpec("wide", "dense", (700, 500), RULE)  # 1.4 MB, where a message has 1 MiB
LONG = TableSpec("long", "dense", (150_000,), RULE)
SMALL = TableSpec("small", "dense", (7,), RULE)
SPECS, MIB = (WIDE, ITEM, LONG, SMALL), 1 << 20
KEYS: Keys = np.arange(0, 60_000, 2)
Changes = dict[TableName, Rows]


def drawn(seed: int) -> Changes:
    rng = np.random.default_rng(seed)
    shapes = {s.name: (len(KEYS) if s.kind == "sparse" else 1, s.dim) for s in SPECS}
    values = {n: rng.normal(0.1, 1.0, shape).astype(np.float32) for n, shape in shapes.items()}
    return {n: Rows(KEYS if n == "item" else NO_KEYS, v) for n, v in values.items()}


class Client:
    """One client of so many real servers, with messages of 1 MiB or, to compare with, of 64."""

    def __init__(
        self, make_job: MakeJob, folder: Path, stack: ExitStack, mib: int, how: Compression = NOTHING, count: int = 1
    ) -> None:
        job = make_job(sync_mode="async", server_num=count)
        job = job.model_copy(update={"limits": LimitSettings(message_mib=mib)})
        servers = [ParameterServer(job, k, folder / "run", lambda event: None) for k in range(count)]
        locals_ = [stack.enter_context(closing(LocalServer(server))) for server in servers]
        channels = [LocalChannel(s, hello(job, "7"), Limits(message_bytes=mib << 20)) for s in locals_]
        self.shards = stack.enter_context(closing(Shards(channels, SPECS, WAIT, how)))
        self.shards.join()
        self.shards.seed({n: rows.values for n, rows in drawn(0).items() if n != "item"})

    def push(self, *seeds: int) -> None:
        for clock, seed in enumerate(seeds):
            assert self.shards.push(drawn(seed), clock).result(WAIT) == Done()

    def pull(self) -> Mapping[TableName, Values]:
        return self.shards.pull({s.name: KEYS if s.kind == "sparse" else NO_KEYS for s in SPECS}).result(WAIT)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.mark.parametrize("count", [1, 2])
def test_tensors_that_pass_a_message_are_trained_as_any_others(
    count: int, make_job: MakeJob, tmp_path: Path, stack: ExitStack
) -> None:
    store = Store()
    store.declare(SPECS)
    for name, rows in drawn(0).items():
        if name != "item":
            store.seed(name, rows.values)
    client = Client(make_job, tmp_path, stack, 1, count=count)
    for name, values in client.pull().items():
        np.testing.assert_array_equal(values, store.pull(name, drawn(0)[name].keys))
    client.push(1, 2)
    for seed in (1, 2):
        for name, rows in drawn(seed).items():
            store.push(name, rows.keys, rows.values)
    for name, values in client.pull().items():
        np.testing.assert_array_equal(values, store.pull(name, drawn(0)[name].keys))


@pytest.mark.parametrize("form", ["fp16", "bf16", "int8", "topk", "low_rank"])
@pytest.mark.parametrize("feedback", [True, False])
def test_a_tensor_that_is_cut_is_packed_as_well_as_a_whole_one(
    form: str, feedback: bool, make_job: MakeJob, tmp_path: Path, stack: ExitStack
) -> None:
    how = Compression(form, share=0.5, feedback=feedback)  # type: ignore[arg-type]
    lost: list[list[float]] = []
    for mib in (1, 64):
        client, due = Client(make_job, tmp_path, stack, mib, how), drawn(0)
        client.push(1, 2, 3)
        store = Store()
        store.declare(SPECS)
        for name in ("wide", "long"):
            store.seed(name, due[name].values)
            for seed in (1, 2, 3):
                store.push(name, NO_KEYS, drawn(seed)[name].values)
        found = client.pull()
        lost.append([float(np.abs(found[n] - store.pull(n, NO_KEYS)).mean()) for n in ("wide", "long")])
    np.testing.assert_allclose(lost[0], lost[1], rtol=0.1, atol=1e-4)


TALL = TableSpec("tall", "dense", (10, 4), Rule("add"))
FLOATS = np.ones((1, 40), np.float32)


def part(number: int, parts: int, *spans: tuple[int, int]) -> tuple[Message, list[object]]:
    """Return a part of a push of ones: rows and the bias in the first, and in each some floats of the tall tensor."""
    tables, arrays = ["tall"] * len(spans), list[object]()
    for first, end in spans:
        arrays += np.array([first, end]), FLOATS[:, first:end]
    if number == 0:
        tables += ["rows", "bias"]
        arrays += np.array([2]), ones(1), NO_KEYS, np.zeros((1, 3), np.float32)
    return Push(tuple(tables), 1, 0, part=number, parts=parts), arrays


WRONG: dict[str, list[tuple[Message, list[object]]]] = {
    "a gap": [part(0, 2, (0, 8)), part(1, 2, (12, 40))],
    "floats twice": [part(0, 2, (0, 8)), part(1, 2, (4, 40))],
    "floats before": [part(0, 2, (8, 40)), part(1, 2, (0, 8))],
    "the end missing": [part(0, 2, (0, 8)), part(1, 2, (8, 36))],
    "some alone": [part(0, 1, (0, 36))],
    "none of it": [part(0, 1)],
    "past the end": [part(0, 2, (0, 8)), part(1, 2, (8, 44))],
    "an empty piece": [part(0, 2, (0, 40)), part(1, 2, (40, 40))],
    "one key": [(Push(("tall",), 1, 0), [np.array([0]), FLOATS])],
    "other floats than are named": [(Push(("tall",), 1, 0), [np.array([0, 8]), FLOATS])],
}


@pytest.mark.parametrize("name", WRONG)
def test_pieces_that_do_not_make_up_the_tensor_are_refused(name: str, make_job: MakeJob, tmp_path: Path) -> None:
    server = ParameterServer(make_job(sync_mode="async"), 0, tmp_path / "run", lambda event: None)
    caller = Caller(server, "7").join(ROWS, BIAS, TALL)
    assert isinstance(caller.ask(Seed("tall"), np.zeros((1, 40), np.float32)), Done)
    refused = [a for push, arrays in WRONG[name] if isinstance(a := caller.ask(push, *arrays), Refused)]
    assert refused
    assert refused[0].kind in ("bad_keys", "mismatch")
    assert server.shard.store.pull("tall", NO_KEYS).sum() == 0
    for push, arrays in (part(0, 2, (0, 8)), part(1, 2, (8, 40))):
        assert isinstance(caller.ask(push, *arrays), Done)
    assert (server.shard.store.pull("tall", NO_KEYS) == 1).all()


@pytest.mark.parametrize("keys", [[0], [0, 41], [8, 8], [-1, 3], [9, 3], [0, 3, 5]])
def test_floats_that_a_tensor_has_not_are_no_answer(keys: list[int], make_job: MakeJob, tmp_path: Path) -> None:
    server = ParameterServer(make_job(sync_mode="async"), 0, tmp_path / "run", lambda event: None)
    caller = Caller(server, "7").join(ROWS, BIAS, TALL)
    caller.ask(Seed("tall"), np.zeros((1, 40), np.float32))
    answer = caller.ask(Pull(("tall",)), np.array(keys))
    assert isinstance(answer, Refused)
    assert answer.kind == "bad_keys"


def test_a_parameter_that_is_one_number_is_a_tensor_too(make_job: MakeJob, tmp_path: Path) -> None:
    server = ParameterServer(make_job(sync_mode="async"), 0, tmp_path / "run", lambda event: None)
    scale = TableSpec("scale", "dense", (), Rule("add"))
    caller = Caller(server, "7").join(ROWS, BIAS, scale)
    assert isinstance(caller.ask(Seed("scale"), np.full((1, 1), 2, np.float32)), Done)
    ticket = caller.send(Pull(("scale",)), NO_KEYS)
    assert [r.arrays[0].tolist() for r in caller.replies if r.ticket == ticket] == [[[2.0]]]
