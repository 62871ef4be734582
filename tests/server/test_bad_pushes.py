"""R4: bad pushes among good ones are refused whole, counted, and named; the tables are those of the good ones alone."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count, cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedps.access.conversation import BURST
from fedps.server.server import ParameterServer
from fedps.types import NO_KEYS, Init, Rule, TableSpec
from fedps.wire.messages import Done, Push, Refused
from tests.conftest import MakeJob
from tests.events.kept import into
from tests.server.callers import BIAS, Caller, state

ROWS = TableSpec("rows", "sparse", (200_000, 4), Rule("adagrad"), Init("normal", 0.0, 1.0))
MANY = np.arange(0, 200_000, 2)  # all rows of shard 0 of 2
NO_CHANGE = np.zeros((1, 3), np.float32)
Said = tuple[Push, list[NDArray[Any]]]
Maker = Callable[[int, int], Said]  # a sequence and a clock make a push
WEIGHTS = cycle([0.0, -1.0, float("nan"), float("inf"), 1e-46, 1e300])
RATES = cycle([-1e-9, float("nan"), float("inf"), 101.0])


def plain(keys: object, values: object, sequence: int, clock: int, weight: float = 1.0, rate: float = 1.0) -> Said:
    arrays: list[NDArray[Any]] = [np.asarray(keys, np.int64), np.asarray(values, np.float32), NO_KEYS, NO_CHANGE]
    return Push(("rows", "bias"), sequence, clock, weight, rate=rate), arrays


def ones(rows: int, width: int = 4, value: float = 1.0) -> NDArray[np.float32]:
    return np.full((rows, width), value, np.float32)


def hidden_nan() -> NDArray[np.float32]:
    values = ones(len(MANY))
    values[-1, -1] = np.nan
    return values


HIDDEN = hidden_nan()
BAD: dict[str, tuple[str, Maker]] = {
    "a NaN in the last of 100,000 rows": ("not_finite", lambda s, c: plain(MANY, HIDDEN, s, c)),
    "finite, but infinite once squared": ("too_large", lambda s, c: plain([2], ones(1, value=1e38), s, c)),
    "a negative id": ("bad_keys", lambda s, c: plain([-2, 4], ones(2), s, c)),
    "id 2^63 - 1": ("bad_keys", lambda s, c: plain([2, 2**63 - 1], ones(2), s, c)),
    "an id twice": ("bad_keys", lambda s, c: plain([2, 4, 4], ones(3), s, c)),
    "unsorted ids": ("bad_keys", lambda s, c: plain([4, 2], ones(2), s, c)),
    "an id of another shard": ("bad_keys", lambda s, c: plain([2, 5], ones(2), s, c)),
    "rows of another width": ("mismatch", lambda s, c: plain([2], ones(1, 5), s, c)),
    "an unknown table": ("unknown_table", lambda s, c: (Push(("other",), s, c), [MANY[:1], ones(1)])),
    "a gap in the sequence": ("stale", lambda s, c: plain([2], ones(1), s + 1, c)),
    "an impossible weight": ("malformed", lambda s, c: plain([2], ones(1), s, c, next(WEIGHTS))),
    "an impossible rate": ("malformed", lambda s, c: plain([2], ones(1), s, c, rate=next(RATES))),
    "a table missing": ("mismatch", lambda s, c: (Push(("rows",), s, c), [MANY[:1], ones(1)])),
}
AHEAD: tuple[str, Maker] = ("stale", lambda s, c: plain([2], ones(1), s, c + 3))


class Run:
    """A server with two clients that train; one of them slips bad pushes in."""

    def __init__(self, make_job: MakeJob, folder: Path, mode: str) -> None:
        self.events: list[dict[str, object]] = []
        job = make_job(sync_mode=mode, server_num=2)
        self.server = ParameterServer(job, 0, folder / "run", into(self.events))
        self.server.members.expect(2)
        self._clients = [Caller(self.server, name).join(ROWS, BIAS) for name in ("mixed", "good")]
        self._rng, self._clock = np.random.default_rng(0), count()

    def train(self, bad: Iterator[tuple[str, Maker]], steps: int) -> None:
        """Let both clients push once a step, the first after a bad push if there is one left."""
        for step in range(steps):
            clock = next(self._clock)
            kind, make = next(bad, ("", None))
            for client in self._clients:
                if client is self._clients[0] and make is not None:
                    push, arrays = make(step + 1, clock)
                    answer = client.ask(push, *arrays)
                    assert isinstance(answer, Refused) and answer.kind == kind, answer
                keys = 2 * np.unique(self._rng.integers(0, 100, 20))
                values = self._rng.normal(size=(len(keys), 4))
                push, arrays = plain(keys, values, step + 1, clock)
                done = client.ask(push, *arrays)
                assert isinstance(done, Done) and not done.late
                client.replies.clear()


def compare(make_job: MakeJob, folder: Path, mode: str, times: int) -> None:
    """Run with and without the bad pushes; the tables must be the same to the bit."""
    kinds = list(BAD.values()) + ([AHEAD] if mode == "sync" else [])
    steps = len(kinds) * times
    spoiled, clean = Run(make_job, folder, mode), Run(make_job, folder, mode)
    spoiled.train(iter(kinds * times), steps)
    clean.train(iter(()), steps)
    for run in (spoiled, clean):
        found = run.server.shard.store.pull("rows", MANY)
        assert np.isfinite(found).all() and found.std() > 0
    np.testing.assert_array_equal(
        spoiled.server.shard.store.pull("rows", MANY), clean.server.shard.store.pull("rows", MANY)
    )
    assert state(spoiled.server, 1)[1] == state(clean.server, 1)[1]
    assert (spoiled.server.refusals.total, clean.server.refusals.total) == (steps, 0)
    spoiled.server.refusals.flush()
    refused: list[Any] = [e for e in spoiled.events if e["event"] == "refused"]
    assert {e["client"] for e in refused} == {"mixed"}
    told = Counter[str]()
    for event in refused:  # the first are told one by one, the rest in sums
        told[event["kind"]] += event.get("count", 1)
    assert told == Counter([kind for kind, _ in kinds] * times)
    assert [e["kind"] for e in refused[:BURST]] == ([kind for kind, _ in kinds] * times)[:BURST]


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_12_kinds_of_bad_pushes_a_hundred_times_each(make_job: MakeJob, tmp_path: Path, mode: str) -> None:
    compare(make_job, tmp_path, mode, 100)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["async", "sync"])
def test_12_kinds_of_bad_pushes_a_thousand_times_each(make_job: MakeJob, tmp_path: Path, mode: str) -> None:
    compare(make_job, tmp_path, mode, 1000)


def test_a_bad_push_that_is_let_in_would_be_found(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: without the bound on values, the table goes infinite for everybody."""
    monkeypatch.setattr("fedps.server.requests.MAX_VALUE", 1e100)
    with np.errstate(over="ignore"), pytest.raises(AssertionError):
        compare(make_job, tmp_path, "async", 1)


@pytest.mark.parametrize("rule", ["add", "sgd", "adagrad", "row_adagrad", "adam", "lazy_adam", "shared_adam"])
@pytest.mark.parametrize("mode", ["async", "sync", "round", "geo"])
def test_the_largest_values_leave_every_table_finite(make_job: MakeJob, tmp_path: Path, mode: str, rule: str) -> None:
    server = ParameterServer(make_job(sync_mode=mode), 0, tmp_path, lambda event: None)
    server.members.expect(2)
    wide = TableSpec("rows", "sparse", (10, 1000), Rule(rule))  # type: ignore[arg-type]
    clients = [Caller(server, name).join(wide, BIAS) for name in "ab"]
    for step in range(30):
        for client, weight in zip(clients, (1e9, 1e-6), strict=True):
            sign = (-1) ** (step // 10)
            push = Push(("rows", "bias"), step + 1, step, weight)
            done = client.ask(push, np.arange(2), ones(2, 1000, sign * 1e9), NO_KEYS, ones(1, 3, sign * 1e9))
            assert isinstance(done, Done)
    assert np.isfinite(server.shard.store.pull("rows", np.arange(10))).all()
    assert np.isfinite(server.shard.store.export()["rows"][2]).all()  # optimizer state too


@pytest.mark.parametrize("mode", ["geo", "round"])
def test_a_change_is_taken_whole(mode: str, make_job: MakeJob, tmp_path: Path) -> None:
    server = ParameterServer(make_job(sync_mode=mode), 0, tmp_path / "run", lambda event: None)
    caller = Caller(server, "a").join()
    (half, arrays), (whole, same) = plain([2], ones(1), 1, 0, rate=0.5), plain([2], ones(1), 1, 0)
    answer = caller.ask(half, *arrays)
    assert isinstance(answer, Refused) and answer.kind == "malformed"
    assert isinstance(caller.ask(whole, *same), Done)
