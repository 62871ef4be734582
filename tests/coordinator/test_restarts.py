"""Who is told what when processes come again: of a client, of the coordinator, or of all, at an earlier round."""

import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fedps.config import Job
from fedps.coordinator.coordinator import Coordinator
from fedps.coordinator.resuming import STATE
from fedps.errors import JobError
from fedps.types import ClientInfo
from fedps.wire.messages import Refused
from tests.conftest import MakeJob
from tests.coordinator.callers import Caller, Events, kill_all, later, started, with_keys

DONE = ClientInfo(samples=5, trained=5, seconds=1.0, loss=0.5)


@pytest.fixture
def job(make_job: MakeJob) -> Job:
    made = make_job(epochs=9, with_coordinator=True, client_selector="round_robin", clients_per_round=2)
    return with_keys(made, worker_num=3)


def callers(coordinator: Coordinator, instance: str = "p") -> list[Caller]:
    return [Caller(coordinator, name, instance) for name in "abc"]


def play(all_: list[Caller], rounds: range) -> None:
    """Let all report some rounds, as having trained where they were told to."""
    for round_ in rounds:
        states = [caller.told[-1].state if caller.told else "JOIN" for caller in all_]
        for caller, state in zip(all_, states, strict=True):
            caller.report(round_, DONE if round_ and state == "JOIN" else ClientInfo(samples=5))


def told(all_: list[Caller]) -> list[list[tuple[int, str]]]:
    return [[(t.round, t.state) for t in caller.told] for caller in all_]


def turns(coordinator: Coordinator) -> dict[str, list[int]]:
    return {c: [t.round for t in ts] for c, ts in coordinator._planner.history.turns.items()}


# A client's process


def test_a_new_process_takes_the_olds_place_at_once_and_is_told_the_open_round(job: Job) -> None:
    events: Events = []
    coordinator = started(with_keys(job, client_selector="all"), events)
    a, b, c = callers(coordinator)
    play([a, b, c], range(2))
    a.report(2, DONE)
    for done in (0, 1):  # it knows nothing, or has a checkpoint
        b, older = Caller(coordinator, "b", f"knows {done}"), b
        assert older.hung_up and not b.told
        b.report(done)
        assert told([b]) == [[(2, "JOIN")]]
    coordinator.tick(later(0))
    assert len(a.told) == 2  # who was told again is waited for
    c.report(2, DONE)
    b.report(2, DONE)
    assert [caller.told[-1].round for caller in (a, b, c)] == [3, 3, 3]
    assert turns(coordinator) == {"a": [1, 2], "b": [1, 2], "c": [1, 2]}
    assert not [e for e in events if e["event"] in ("lost", "left_behind")]


@pytest.mark.parametrize("done", [0, 1, 2])
def test_what_the_old_process_had_reported_counts_and_is_not_trained_again(job: Job, done: int) -> None:
    events: Events = []
    coordinator = started(with_keys(job, client_selector="all"), events)
    a, b, c = callers(coordinator)
    play([a, b, c], range(2))
    b.report(2, DONE)
    b = Caller(coordinator, "b", "new")
    b.report(done, DONE if done == 2 else ClientInfo(samples=5))
    assert not b.told
    a.report(2, DONE)
    c.report(2, DONE)
    assert told([a, b, c]) == [
        [(1, "JOIN"), (2, "JOIN"), (3, "JOIN")],
        [(3, "JOIN")],
        [(1, "JOIN"), (2, "JOIN"), (3, "JOIN")],
    ]
    assert turns(coordinator) == {"a": [1, 2], "b": [1, 2], "c": [1, 2]}
    assert all(t.trained == 5 and not t.late for ts in coordinator._planner.history.turns.values() for t in ts)


def test_a_new_process_costs_the_others_no_more_than_the_old_one_would(job: Job) -> None:
    coordinator = started(with_keys(job, client_selector="all", selector={"deadline": 20.0}), [])
    a, b, c = callers(coordinator)
    play([a, b, c], range(2))
    a.report(2, DONE)
    c.report(2, DONE)
    b = Caller(coordinator, "b", "new")
    b.report(1)
    coordinator.tick(later(19))
    assert len(a.told) == 2
    coordinator.tick(later(21))  # since the round was opened, not since it came
    assert a.told[-1].round == c.told[-1].round == 3 and told([b]) == [[(2, "JOIN")]]
    b.report(2, DONE)
    play([a, c], range(3, 4))
    assert b.told[-1].round == 4


def test_who_knows_nothing_of_an_older_round_waits_for_the_next_and_who_knows_more_is_refused(job: Job) -> None:
    coordinator = started(with_keys(job, client_selector="all"), [])
    a, b, c = callers(coordinator)
    play([a, b, c], range(1))
    b.connection.closed()
    a.report(1, DONE)
    c.report(1, DONE)
    coordinator.tick(later(11))  # b is lost, and round 2 is open
    b = Caller(coordinator, "b", "new")
    b.report(7)
    assert (
        isinstance(b.replies[-1], Refused)
        and "reports round 7, and was last assigned to round 1" in b.replies[-1].reason
    )
    b.report(0)
    assert not b.told
    play([a, c], range(2, 3))
    assert told([b]) == [[(3, "JOIN")]]


def test_a_new_process_of_a_client_that_has_finished_hears_it_again_if_it_was_there(job: Job) -> None:
    coordinator = started(with_keys(job, epochs=1), [])
    all_ = callers(coordinator)
    play(all_, range(2))
    assert [caller.told[-1].state for caller in all_] == ["FINISH"] * 3
    again = Caller(coordinator, "a", "new")
    again.report(1)
    assert told([again]) == [[(2, "FINISH")]] and not coordinator.members.here


# The coordinator's


def test_new_processes_with_checkpoints_go_on_with_the_round_that_the_record_has(job: Job, tmp_path: Path) -> None:
    calm, broken = tmp_path / "calm", tmp_path / "broken"
    calm.mkdir()
    broken.mkdir()
    through = callers(started(job, [], run_dir=calm))
    play(through, range(5))
    play(callers(started(job, [], run_dir=broken)), range(3))
    for done in (2, 3):  # the record is at 3: told again, or counted
        coordinator = started(job, [], run_dir=broken)
        all_ = callers(coordinator, f"processes of {done}")
        play(all_, range(done, done + 1))
    assert [caller.told[-1].round for caller in all_] == [4, 4, 4]
    play(all_, range(4, 5))
    assert [t[-2:] for t in told(all_)] == [t[-2:] for t in told(through)]


def test_one_without_a_checkpoint_waits_where_others_go_on(job: Job, tmp_path: Path) -> None:
    play(callers(started(with_keys(job, client_selector="all"), [], run_dir=tmp_path)), range(3))
    coordinator = started(with_keys(job, client_selector="all"), [], run_dir=tmp_path)
    a, b, c = callers(coordinator, "new")
    a.report(0)
    assert not a.told  # is it all anew?
    b.report(2)
    c.report(2)
    assert told([a, b, c]) == [[], [(3, "JOIN")], [(3, "JOIN")]]
    b.report(3, DONE)
    c.report(3, DONE)
    assert told([a])[0] == [(4, "JOIN")] and turns(coordinator)["a"] == [1, 2, 3]
    assert [t.late for t in coordinator._planner.history.turns["a"]] == [False, False, True]  # type: ignore[index]


def test_a_run_goes_on_though_the_one_that_was_in_it_is_lost_again(job: Job, tmp_path: Path) -> None:
    play(callers(started(with_keys(job, client_selector="all"), [], run_dir=tmp_path)), range(2))
    coordinator = started(with_keys(job, client_selector="all"), [], run_dir=tmp_path)
    Caller(coordinator, "a").connection.closed()
    coordinator.tick(later(11))
    b, c = Caller(coordinator, "b", "new"), Caller(coordinator, "c", "new")
    play([b, c], range(1))
    assert told([b, c]) == [[(2, "JOIN")]] * 2


def test_who_was_lost_before_is_not_waited_for_after(job: Job, tmp_path: Path) -> None:
    coordinator = started(with_keys(job, client_selector="all"), [], run_dir=tmp_path)
    a, b, c = callers(coordinator)
    play([a, b, c], range(1))
    c.connection.closed()
    coordinator.tick(later(11))
    play([a, b], range(1, 2))
    for at in (None, 2):
        again = started(with_keys(job, client_selector="all"), [], run_dir=tmp_path, resume_at=at)
        a, b = Caller(again, "a"), Caller(again, "b")
        a.report(2, DONE)
        b.report(2, DONE)
        waits = len(a.told) == 0
        assert waits == (at == 2), "where all are started anew, it is"


@pytest.mark.parametrize("at", [0, 2, 3])
def test_a_run_may_be_taken_back_to_an_earlier_round(job: Job, tmp_path: Path, at: int) -> None:
    first = callers(started(job, [], run_dir=tmp_path))
    play(first, range(4))
    for _ in range(2):  # the second time, what was behind it is gone
        coordinator = started(job, [], run_dir=tmp_path, resume_at=at)
        assert coordinator.round.number == at
        assert all(round_ < at for ts in turns(coordinator).values() for round_ in ts)
        kill_all()
        with closing(sqlite3.connect(tmp_path / STATE)) as db:
            assert db.execute("SELECT max(number) FROM rounds").fetchone() == (at,)
    again = callers(started(job, [], run_dir=tmp_path), "new")
    for caller, before in zip(again, first, strict=True):
        caller.replies.extend(before.told[:at])
    play(again, range(at, 4))
    assert told(again) == told(first)


def test_a_round_that_is_not_kept_is_named(job: Job, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"the state of round 2 is not kept; nor is any other: put back what lay there"):
        started(job, [], run_dir=tmp_path, resume_at=2)
    play(callers(started(job, [], run_dir=tmp_path)), range(6))
    with pytest.raises(JobError, match="the state of round 2 is not kept; those of rounds 0, 3, 4, 5, 6 are"):
        started(job, [], run_dir=tmp_path, resume_at=2)


# Two at once, and disks that forget


def test_a_second_coordinator_in_the_same_folder_is_refused_while_the_first_lives(job: Job, tmp_path: Path) -> None:
    started(job, [], run_dir=tmp_path)
    with pytest.raises(JobError, match="another coordinator is at work in this folder: end it first"):
        Coordinator(job, lambda event: None, run_dir=tmp_path)
    other = "import sys, pathlib; from fedps.coordinator.resuming import Memory; Memory(pathlib.Path(sys.argv[1]))"
    found = subprocess.run([sys.executable, "-c", other, str(tmp_path)], capture_output=True, text=True, check=False)
    assert f"{tmp_path}: another coordinator is at work" in found.stderr
    kill_all()
    started(job, [], run_dir=tmp_path)


def test_a_job_may_start_from_a_run_that_is_under_way(job: Job, tmp_path: Path) -> None:
    before, now = tmp_path / "before", tmp_path / "now"
    (before / "model" / "2").mkdir(parents=True)
    now.mkdir()
    running = Coordinator(job, lambda event: None, run_dir=before)
    try:
        play(callers(running), range(3))
        warm = Coordinator(with_keys(job, warmup_model_path=before / "model" / "2"), lambda event: None, run_dir=now)
        assert turns(warm) == {"a": [-2, -1], "b": [-2], "c": [-1]}
        warm.close()
    finally:
        running.close()


def settled(job: Job, folder: Path) -> tuple[Any, ...]:
    """Return what a coordinator finds in a folder."""
    coordinator = started(job, [], run_dir=folder)
    state = coordinator.members.records({}), coordinator._planner.selector.state(), turns(coordinator)
    kill_all()
    return coordinator.round.number, *state


def test_no_bit_that_a_disk_changes_goes_unseen(job: Job, tmp_path: Path) -> None:
    coordinator = started(job, [], run_dir=tmp_path)
    play(callers(coordinator), range(4))
    kill_all()
    path = tmp_path / STATE
    good, whole, rng, refused = path.read_bytes(), settled(job, tmp_path), random.Random(0), 0
    used = [at for at, byte in enumerate(good) if byte]
    for _ in range(300):
        bad = bytearray(good)
        bad[rng.choice(used)] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        try:
            assert settled(job, tmp_path) == whole  # in what is not used
        except JobError as error:
            assert str(path) in str(error) and "put a copy of it back, or remove it" in str(error)
            refused += 1
    assert refused > 50
    for size in (1, 100, 4096, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(JobError, match="is no coordinator's state: "):
            started(job, [], run_dir=tmp_path)


def test_a_newer_versions_state_is_refused_by_name(job: Job, tmp_path: Path) -> None:
    play(callers(started(job, [], run_dir=tmp_path)), range(2))
    kill_all()
    with closing(sqlite3.connect(tmp_path / STATE)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(JobError, match="its version is 99, and this fedps reads 1"):
        started(job, [], run_dir=tmp_path)
