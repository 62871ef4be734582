"""A server that gives one client other values than the others is found in the same round; an honest one is never accused."""

import random
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fedps.access.audit import verify
from fedps.access.conversation import Conversation
from fedps.access.same_table import LEAST, MOST, Seen, Witness, compare, read_seen
from fedps.config import Job, load_job
from fedps.errors import JobError, RefusedError
from fedps.events import events
from fedps.server.server import ParameterServer
from fedps.types import NO_KEYS, ClientId
from fedps.wire.messages import Values
from fedps.wire.pieces import Piece
from tests.access.deceived import Lie, Outcome, deceive, run
from tests.authorities import authority
from tests.launch.runs import write_job

CLIENTS = ("0", "1", "2")
ITEMS, TENSORS = "mlp_item.weight", ("mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "predict.weight", "predict.bias")
WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"server_num": 2},
    {"server_num": 3, "pull_compression": "fp16", "compression": "fp16"},
    {"sync_mode": "sync", "pull_compression": "bf16"},
    {"sync_mode": "round"},
    {"geo_merge": "heat", "geo_overlap": 2},
    {"geo_merge": "buffered", "server_num": 2},
    {"pace": "own", "quorum": 0.6},
    {"sync_mode": "round", "quorum": 0.6, "server_num": 2},
)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Job]:
    """Return a function that makes a job of three clients, on real sockets without certificates or, if asked to, with."""

    def job(certs: bool = False, **runner: Any) -> Job:
        path = write_job(tmp_path, with_coordinator=True, epochs=2, durability="none", **runner)
        if certs:
            if not (tmp_path / "certs").exists():
                authority(tmp_path / "certs", *CLIENTS, servers=3, coordinator=True)
            path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"security": {"certs": "certs"}}))
        return load_job(path)

    return job


def check_found(lie: Lie, outcome: Outcome, servers: int) -> None:
    """Make sure that a lie was found in its round, and all were told."""
    assert outcome.lies, lie
    *before, found = outcome.told(events.Compared)
    assert found.round == outcome.lied_in and not any(round_.differs for round_ in before)
    table = ITEMS if lie.table == ITEMS else "mlp.|predict."
    assert (
        re.search(rf"of table '({table})", found.differs)
        and " at clock " in found.differs
        and f"client {lie.victim!r}" in found.differs
    )
    assert any(found.differs.startswith(f"server {k} ") for k in range(servers))
    assert len(outcome.errors) == len(CLIENTS)
    for error in (outcome.failure, *outcome.errors.values()):
        assert isinstance(error, RefusedError) and error.kind == "differs" and found.differs in str(error)


def check_honest(outcome: Outcome) -> None:
    """Make sure that nobody was accused, though much was compared."""
    assert not outcome.errors and outcome.failure is None
    rounds = outcome.told(events.Compared)
    assert [round_.round for round_ in rounds] == [1, 2]
    assert all(round_.values > 200 and not round_.alone and not round_.differs for round_ in rounds)


@pytest.mark.parametrize(
    ("lie", "certs", "way"),
    [
        (Lie(ClientId("1"), ITEMS, 7), False, {"server_num": 2, "pull_compression": "bf16"}),
        (Lie(ClientId("2"), "mlp.0.weight", 100, round=2, once=True), True, {}),
    ],
    ids=["row", "float"],
)
def test_a_server_that_deceives_one_client_is_found_in_the_same_round(
    make: Callable[..., Job], tmp_path: Path, lie: Lie, certs: bool, way: dict[str, Any]
) -> None:
    job, folder = make(certs, **way), tmp_path / "run"
    check_found(lie, run(job, folder, partial(deceive, lie=lie)), job.runner.server_num)
    log = next((folder / "audit").glob("*.jsonl"))
    assert '"event":"compared"' in log.read_text() and f"client '{lie.victim}'" in log.read_text()
    assert not verify(folder)[1]


def test_a_server_that_names_another_process_to_one_client_is_told_of_or_ends_the_run(
    make: Callable[..., Job], tmp_path: Path
) -> None:
    def prepare(server: ParameterServer, outcome: Outcome) -> None:
        answer, edition = server._pulls._answer, server._pulls._edition

        def lie(conversation: Conversation, *args: Any) -> None:
            server._pulls._edition = (lambda: "another") if conversation.client == "1" else edition
            answer(conversation, *args)

        server._pulls._answer = lie  # type: ignore[method-assign, assignment]

    job = make()
    outcome = run(job, tmp_path / "told", prepare)
    assert [round_.alone for round_ in outcome.told(events.Compared)] == [["1"], ["1"]]
    assert "what servers gave client '1' can be compared with nobody's" in outcome.told(events.Note)[0].note
    assert not outcome.errors
    strict = job.model_copy(update={"security": job.security.model_copy(update={"same_table": True})})
    outcome = run(strict, tmp_path / "strict", prepare)
    assert isinstance(outcome.failure, RefusedError) and outcome.failure.kind == "differs"
    assert "round 1: what servers gave client '1' can be compared with nobody's" in str(outcome.failure)


def test_an_honest_server_is_not_accused_though_connections_break_and_who_is_late_is_left_behind(
    make: Callable[..., Job], tmp_path: Path
) -> None:
    outcome = run(make(server_num=2, quorum=0.6), tmp_path / "run", cut_every=60_000)
    check_honest(outcome)
    assert sum(done.retries for done in outcome.told(events.Done)) > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_lies_are_found(make: Callable[..., Job], tmp_path: Path) -> None:
    chance = random.Random(16)
    for number in range(100):
        way = WAYS[number % len(WAYS)]
        row = chance.random() < 0.5
        lie = Lie(
            ClientId(chance.choice(CLIENTS)), ITEMS if row else chance.choice(TENSORS), chance.randrange(1 << 16),
            round=chance.randint(1, 2), once=not row,
        )  # fmt: skip
        if not row:
            way = way | {"geo_merge": "adaptive"} if "geo_merge" in way else way
        check_found(lie, run(make(number % 10 == 0, **way), tmp_path / str(number), partial(deceive, lie=lie)), 3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_of_a_hundred_honest_runs_none_is_accused(make: Callable[..., Job], tmp_path: Path) -> None:
    chance = random.Random(17)
    for number in range(100):
        job = make(number % 10 == 0, **WAYS[number % len(WAYS)])
        check_honest(run(job, tmp_path / str(number), cut_every=chance.choice((0, 100_000, 200_000))))


# What a witness notes, and how it is compared.

A, B, C = ClientId("a"), ClientId("b"), ClientId("c")
DIM = 8
SECRET = bytes(range(16))


def noted(rows: dict[int, float], clock: int = 3, edition: str = "e", secret: bytes = SECRET, server: int = 0) -> Seen:
    """Return what a client reports that was given rows of one value each, by key."""
    witness = Witness(2)
    witness.begin(secret)
    give(witness, rows, clock, edition, server)
    seen = witness.report()
    assert isinstance(seen, Seen)
    return seen


def give(witness: Witness, rows: dict[int, float], clock: int = 3, edition: str = "e", server: int = 0) -> None:
    keys = np.array(list(rows), np.int64)
    values = np.repeat(np.array(list(rows.values()), np.float32)[:, None], DIM, 1)
    answer = Values(("items",), clock=clock, edition=edition)
    witness.note(server, answer, [Piece("items", keys, slice(None), values.shape)], [values])


def test_rows_that_both_pulled_are_compared_and_no_others() -> None:
    ours, theirs = noted({1: 0.5, 2: 0.25, 5: 1.0}), noted({2: 0.25, 3: 8.0, 5: 1.0})
    assert compare({A: ours, B: theirs}) == (2, [], "")
    assert compare({A: ours}) == (0, [A], "")


def test_a_difference_names_server_table_clock_and_both_sides() -> None:
    true, false = noted({1: 0.5, 2: 0.25}, server=4), noted({1: 0.5, 2: 0.25 + 2**-25}, server=4)
    found = compare({A: true, B: false, C: true})
    said = "server 4 has given other values of table 'items' at clock 3 to client 'b' than to clients 'a', 'c'"
    assert found == (2, [], said)


@pytest.mark.parametrize("other", [{"clock": 4}, {"edition": "f"}, {"server": 1}])
def test_what_is_of_another_time_or_server_is_not_compared(other: dict[str, Any]) -> None:
    assert compare({A: noted({1: 0.5}), B: noted({1: 0.75}, **other)}) == (0, [A, B], "")


def test_tags_tell_the_coordinator_no_ids() -> None:
    """Without the server's edition the secret alone makes none of them."""
    tags = [noted(dict.fromkeys(range(100), 0.0), edition=edition).tags for edition in ("e", "f")]
    assert not set(tags[0].tolist()) & set(tags[1].tolist())


def test_one_changed_bit_is_hardly_ever_missed() -> None:
    """And none is by all secrets: a server, which knows none, cannot choose one that is."""
    count, missed = 4000, 0
    for secret in range(5):
        ours = noted(dict.fromkeys(range(count), 1.0), secret=bytes([secret] * 16))
        theirs = noted(dict.fromkeys(range(count), 1.0 + 2**-23), secret=bytes([secret] * 16))
        missed += int((ours.digests == theirs.digests).sum())
    assert missed <= 5 * count >> 12


def test_of_much_a_sample_is_noted_that_is_the_same_for_all() -> None:
    witnesses = [Witness(2), Witness(2)]
    for witness, windows in zip(witnesses, (40, 30), strict=True):
        witness.begin(SECRET)
        for clock in range(windows):
            give(witness, dict.fromkeys(range(5000), 0.5), clock)
    ours, theirs = (witness.report() for witness in witnesses)
    assert isinstance(ours, Seen) and isinstance(theirs, Seen)
    assert LEAST / 2 < len(ours.tags) <= MOST
    assert len(set(ours.tags.tolist()) & set(theirs.tags.tolist())) > 0.9 * min(len(ours.tags) * 0.75, len(theirs.tags))
    assert sorted(set((ours.where // len(ours.places)).tolist())) == list(range(40))
    assert np.all(np.diff(ours.where) >= 0)


def test_a_tensor_is_noted_longer_than_rows() -> None:
    witness = Witness(2)
    witness.begin(SECRET)
    for clock in range(40):
        give(witness, dict.fromkeys(range(5000), 0.5), clock)
        whole = np.ones((1, 10), np.float32)
        answer = Values(("bias",), clock=clock, edition="e")
        witness.note(0, answer, [Piece("bias", NO_KEYS, slice(None), whole.shape)], [whole])
    seen = witness.report()
    assert isinstance(seen, Seen) and witness._below < 1 << 64
    assert (seen.where % 2 == [table for table, _ in seen.places].index("bias")).sum() == 40


def test_without_a_secret_nothing_is_noted() -> None:
    witness = Witness(2)
    give(witness, {1: 0.5})
    assert witness.report() == ((),)


def test_whatever_clock_a_server_says_can_be_noted() -> None:
    assert len(noted({1: 0.5}, clock=2**64 - 1).where) == 1


@pytest.mark.parametrize(
    "seen",
    [
        ((("t", 0),), np.array([-1]), np.array([5]), np.zeros(1, np.uint16)),
        ((("t", 0),), np.array([1, 2]), np.array([5]), np.zeros(1, np.uint16)),
        ((("t\n", 0),), np.array([1]), np.array([5]), np.zeros(1, np.uint16)),
        ((("t", -1),), np.array([1]), np.array([5]), np.zeros(1, np.uint16)),
        ((("t", 0),), *(np.zeros(MOST + 1, np.int64),) * 2, np.zeros(MOST + 1, np.uint16)),
    ],
)
def test_reports_that_make_no_sense_are_refused(seen: Any) -> None:
    with pytest.raises(RefusedError, match="what servers gave"):
        read_seen(*seen)


@pytest.mark.parametrize(
    ("runner", "told"),
    [
        ({"with_coordinator": False}, "it is the coordinator that compares: set runner.with_coordinator: true"),
        ({"with_coordinator": True, "sync_mode": "async"}, "where each push is applied at once, no two clients"),
        ({"with_coordinator": True, "geo_merge": "sum"}, "where each push is applied at once, no two clients"),
    ],
)
def test_a_job_that_asks_for_what_cannot_be_compared_is_refused(
    tmp_path: Path, runner: dict[str, Any], told: str
) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "0.csv").write_text("0,1,1\n")
    tree = {"runner": {"train_data_dir": "train", **runner}, "security": {"same_table": True}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(JobError, match=f"security.same_table: true: {told}"):
        load_job(tmp_path / "job.yaml")
