"""Tables whose rows are given, and those that are frozen, on a server."""

from pathlib import Path

import numpy as np
import pytest

from fedps.server.server import ParameterServer
from fedps.types import NO_KEYS, Init, Rule, TableSpec
from fedps.wire.messages import Done, Join, Push, Refused, Seed
from tests.conftest import MakeJob
from tests.server.callers import BIAS, Caller

GIVEN = TableSpec("rows", "sparse", (6, 2), Rule("adagrad"), Init("given", 17.0))
FROZEN = TableSpec("stays", "sparse", (6, 2), Rule("add"), Init("given", 4.0), frozen=True)
ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)


@pytest.fixture
def server(make_job: MakeJob, tmp_path: Path) -> ParameterServer:
    server = ParameterServer(make_job(sync_mode="async", server_num=2), 0, tmp_path / "run", lambda event: None)
    server.members.expect(2)
    return server


def joined(server: ParameterServer, name: str) -> Caller:
    caller = Caller(server, name)
    assert isinstance(caller.ask(Join((GIVEN, FROZEN, BIAS), 0)), Done)
    assert isinstance(caller.ask(Seed("bias"), np.zeros((1, 3), np.float32)), Done)
    return caller


def kind_of(answer: object) -> str:
    assert isinstance(answer, Refused), answer
    return answer.kind


def test_of_a_given_row_the_first_offer_stays_and_none_is_made_up(server: ParameterServer) -> None:
    one, other = joined(server, "a"), joined(server, "b")
    assert isinstance(one.ask(Seed("rows", 0), ROWS[0:4:2]), Done)
    assert isinstance(other.ask(Seed("rows", 2), -ROWS[2:6:2]), Done)  # from row 2 on, every second one
    assert one.rows(0, 2, 4) == [[0, 1], [4, 5], [-8, -9]]
    [(_, keys, block)] = [t for n, t in server.shard.store.export(changed=True).items() if n == "rows"]
    assert keys.tolist() == [0, 2, 4], "the first save has them"
    assert block[:, :2].tolist() == [[0, 1], [4, 5], [-8, -9]]


def test_a_row_whose_start_never_came_is_not_made_up(server: ParameterServer) -> None:
    one = joined(server, "a")
    pushed = (np.array([2]), np.ones((1, 2), np.float32), NO_KEYS, np.zeros((1, 3), np.float32))
    assert kind_of(one.ask(Push(("rows", "bias"), 1, 0), *pushed)) == "mismatch"
    assert len(server.shard.store.export()["rows"][1]) == 0


@pytest.mark.parametrize(
    ("seed", "rows"),
    [
        (Seed("rows", 1), ROWS[:1]),
        (Seed("rows", 4), ROWS[:2]),
        (Seed("rows", 0), ROWS.reshape(4, 3)),
        (Seed("rows", -2), ROWS[:1]),
        (Seed("rows", 0), ROWS[:1] * np.float32(np.nan)),
    ],
    ids=["of another shard", "past the end", "of another width", "before the first", "a NaN"],
)
def test_a_start_that_does_not_fit_is_refused(seed: Seed, rows: object, server: ParameterServer) -> None:
    one = joined(server, "a")
    assert kind_of(one.ask(seed, rows)) in ("mismatch", "not_finite")
    assert len(server.shard.store.export()["rows"][1]) == 0


def test_a_frozen_table_takes_no_push_and_none_is_due_of_it(server: ParameterServer) -> None:
    one = joined(server, "a")
    one.ask(Seed("rows", 0), ROWS[::2])
    one.ask(Seed("stays", 0), ROWS[::2])
    change = (np.array([2]), np.ones((1, 2), np.float32))
    bias = (NO_KEYS, np.zeros((1, 3), np.float32))
    assert kind_of(one.ask(Push(("rows", "stays", "bias"), 1, 0), *change, *change, *bias)) == "mismatch"
    assert isinstance(one.ask(Push(("rows", "bias"), 1, 0), *change, *bias), Done)
    assert server.shard.store.pull("stays", np.array([2])).tolist() == [[4, 5]]
