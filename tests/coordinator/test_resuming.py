"""A coordinator that is started again goes on where it was; a warm start knows what the run before had learned."""

import io
import os
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedps.config import Job
from fedps.config.sections.rounds import Simulation
from fedps.coordinator.coordinator import Coordinator
from fedps.coordinator.resuming import STATE, TURNS
from fedps.coordinator.selectors import AllClients, ClientSelectorBase
from fedps.errors import FedpsError, JobError
from fedps.simulation.traces import Trace, write_traces
from fedps.types import ClientId, ClientInfo
from tests.conftest import MakeJob
from tests.coordinator.callers import Caller, Events, started, with_keys
from tests.events.kept import into

DONE = ClientInfo(samples=5, trained=5, seconds=1.0, loss=0.5)


@pytest.fixture
def job(make_job: MakeJob) -> Job:
    made = make_job(epochs=9, with_coordinator=True, client_selector="round_robin", clients_per_round=1)
    return with_keys(made, worker_num=3)


class Remembers(AllClients):
    """Keeps what it is given, and gives back what it is told to."""

    kept: Any = None
    given: Any = None
    seen: Mapping[ClientId, Any] = {}

    def select(self) -> Any:
        self.seen = dict(self.history)
        return super().select()

    def state(self) -> Any:
        return self.kept

    def load_state(self, state: Any) -> None:
        if state == "bad":
            raise KeyError("rounds")
        self.given = state


def run(job: Job, folder: Path, rounds: int, selector: ClientSelectorBase | None = None) -> list[Caller]:
    """Let three clients go through some rounds, and leave the coordinator where it is."""
    coordinator = started(job, [], selector, folder)
    callers = [Caller(coordinator, name, f"process of {name}") for name in "abc"]
    for round_ in range(rounds):
        for caller in callers:
            trained = round_ > 0 and caller.told[-1].state == "JOIN"
            caller.report(round_, DONE if trained else ClientInfo(samples=5))
    return callers


def joined(callers: list[Caller]) -> list[list[int]]:
    return [[t.round for t in c.told if t.state == "JOIN"] for c in callers]


def test_a_restarted_coordinator_goes_on_with_the_round_and_the_selectors_state(job: Job, tmp_path: Path) -> None:
    assert joined(run(job, tmp_path, 2)) == [[1], [2], []]
    again = started(job, [], run_dir=tmp_path)
    a, b, c = (Caller(again, name, f"process of {name}") for name in "abc")
    assert again.round.number == 2
    a.report(2)
    c.report(1)  # the answer to it never came
    assert not a.told and [(t.round, t.state) for t in c.told] == [(2, "WAIT")]
    c.report(2)
    assert not a.told  # b trains still
    b.report(2, DONE)
    assert [[(t.round, t.state) for t in x.told][-1] for x in (a, b, c)] == [(3, "WAIT"), (3, "WAIT"), (3, "JOIN")]


def test_who_was_told_to_finish_before_hears_it_again(job: Job, tmp_path: Path) -> None:
    one = with_keys(job, epochs=1)
    run(one, tmp_path, 2)
    again = started(one, [], run_dir=tmp_path)
    callers = [Caller(again, name, f"process of {name}") for name in "abc"]
    for caller in callers:
        caller.report(1)
        assert [t.state for t in caller.told] == ["FINISH"]
        caller.connection.closed()
    assert again.over


def test_new_processes_begin_with_round_1_and_the_history_stays_known(job: Job, tmp_path: Path) -> None:
    run(job, tmp_path, 3)
    selector = Remembers(job)
    again = started(job, [], selector, tmp_path)
    callers = [Caller(again, name, "a new process") for name in "abc"]
    for caller in callers:
        caller.report(0)
    assert [t.round for c in callers for t in c.told] == [1, 1, 1]
    assert {c: [t.round for t in turns] for c, turns in selector.seen.items()} == {"a": [-2], "b": [-1]}
    assert selector.given == {"last": "c"}  # it has the name of the job's own


def test_a_warm_start_takes_up_history_and_state_of_the_run_before(job: Job, tmp_path: Path) -> None:
    before, now = tmp_path / "before", tmp_path / "now"
    (before / "model" / "2").mkdir(parents=True)
    now.mkdir()
    run(job, before, 3)
    warm = with_keys(job, warmup_model_path=before / "model" / "2")
    coordinator = started(warm, [], run_dir=now)
    callers = [Caller(coordinator, name, "new") for name in "abc"]
    for caller in callers:
        caller.report(0)
    assert joined(callers) == [[1], [], []] and coordinator.round.number == 1  # c was last
    assert (now / STATE).is_file()
    other = started(with_keys(warm, client_selector="all"), [])
    first = Caller(other, "a")
    first.report(0)
    assert other.round.number == 0  # another selector begins without a state, and waits for the others


def simulated(job: Job, folder: Path) -> Job:
    """Return the job on devices that are on and off in turn, so that the time of day matters."""
    traces = {ClientId(name): Trace(1.0, 1.0, period=10.0, online=((k, k + 4.0),)) for k, name in enumerate("abc")}
    write_traces(folder / "traces.json", traces, {})
    return job.model_copy(update={"simulation": Simulation(traces=folder / "traces.json")})


def clocked(job: Job, folder: Path, restarts: bool, instances: str = "p") -> list[tuple[int, float, float]]:
    """Let three simulated clients go through six rounds, and return what the clock said of each."""
    events: Events = []
    folder.mkdir(exist_ok=True)
    coordinator = Coordinator(job, into(events), io.StringIO(), run_dir=folder)
    callers = [Caller(coordinator, name, f"{instances}{name}") for name in "abc"]
    for round_ in range(7):
        if restarts and round_ in (2, 5):
            coordinator = Coordinator(job, into(events), io.StringIO(), run_dir=folder)
            told = [caller.told for caller in callers]
            callers = [Caller(coordinator, name, f"{instances}{name}") for name in "abc"]
            for caller, before in zip(callers, told, strict=True):
                caller.replies.extend(before)
        for caller, took in zip(callers, (3.5, 1.25, 2.5), strict=True):
            joins = round_ > 0 and caller.told[-1].state == "JOIN"
            info = ClientInfo(samples=5, trained=5, seconds=took, loss=0.5)
            caller.report(round_, info if joins else ClientInfo(samples=5))
    return [(e["round"], e["seconds"], e["clock"]) for e in events if e["event"] == "clock"]


def test_a_simulated_clock_goes_on_after_restarts(job: Job, tmp_path: Path) -> None:
    through = clocked(simulated(job, tmp_path), tmp_path / "one", restarts=False)
    assert [round_ for round_, _, _ in through] == [1, 2, 3, 4, 5, 6] and through[-1][2] > 6 * 1.25
    assert clocked(simulated(job, tmp_path), tmp_path / "two", restarts=True) == through


def test_a_simulated_clock_begins_anew_with_new_processes(job: Job, tmp_path: Path) -> None:
    first = clocked(simulated(with_keys(job, client_selector="all"), tmp_path), tmp_path / "run", restarts=False)
    again = clocked(
        simulated(with_keys(job, client_selector="all"), tmp_path), tmp_path / "run", restarts=False, instances="q"
    )
    assert first == again and first[0][0] == 1


def test_a_selector_without_a_state_is_not_given_one(job: Job, tmp_path: Path) -> None:
    run(job, tmp_path, 2, Remembers(job))
    selector = Remembers(job)
    started(job, [], selector, tmp_path)
    assert selector.given is None


@pytest.mark.parametrize("kept", [{"a": object()}, float("nan"), {1, 2}])
def test_a_state_that_json_has_not_stops_the_run(job: Job, tmp_path: Path, kept: Any) -> None:
    selector = Remembers(job)
    selector.kept = kept
    coordinator = run(job, tmp_path, 1, selector)[0].coordinator
    assert isinstance(coordinator.failure, FedpsError) and "Remembers.state()" in str(coordinator.failure)
    assert not (tmp_path / STATE).exists()


def test_a_state_that_is_not_taken_up_is_an_error(job: Job, tmp_path: Path) -> None:
    selector = Remembers(job)
    selector.kept = "bad"
    run(job, tmp_path, 2, selector)
    with pytest.raises(JobError, match=r"Remembers.load_state\(\): KeyError: 'rounds'; remove coordinator.json"):
        started(job, [], Remembers(job), tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"round": "three"}', '{"round": 1}'])
def test_a_file_that_is_none_of_ours(job: Job, tmp_path: Path, text: str) -> None:
    (tmp_path / STATE).write_text(text)
    with pytest.raises(JobError, match=r"is no coordinator's state: .*; remove it to begin without"):
        started(job, [], run_dir=tmp_path)


def test_a_folder_that_cannot_be_written_stops_the_run(job: Job, tmp_path: Path) -> None:
    coordinator = run(job, tmp_path / "nowhere", 1)[0].coordinator
    assert isinstance(coordinator.failure, FedpsError) and "cannot be written: No such file" in str(coordinator.failure)


def test_the_old_state_stays_whole_while_a_new_one_is_written_and_nothing_else_is_left(
    job: Job, tmp_path: Path
) -> None:
    run(job, tmp_path, 1)
    first = (tmp_path / STATE).read_bytes()
    run(job, tmp_path, 3)
    assert (tmp_path / STATE).read_bytes() != first
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("coord")] == [STATE]


def test_what_is_written_each_round_does_not_grow_with_the_rounds_before(job: Job, tmp_path: Path) -> None:
    long = with_keys(job, client_selector="all", epochs=40)
    sizes = []
    for rounds in (3, 33):
        (folder := tmp_path / str(rounds)).mkdir()
        run(long, folder, rounds)
        sizes.append((folder / STATE).stat().st_size)
        assert len((folder / TURNS).read_text().splitlines()) == 3 * (rounds - 1)
    assert sizes[1] - sizes[0] < 16  # rounds have two digits


def test_only_the_owner_may_read_what_is_kept_whatever_the_umask(job: Job, tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        run(job, tmp_path, 3)
    finally:
        os.umask(umask)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in (STATE, TURNS)] == [0o600, 0o600]


def test_a_line_that_a_power_cut_left_half_is_passed_over_and_overwritten(job: Job, tmp_path: Path) -> None:
    run(job, tmp_path, 3)
    turns = tmp_path / TURNS
    whole = turns.read_bytes()
    turns.write_bytes(whole + b'["c",[2,')
    again = started(job, [], run_dir=tmp_path)
    for caller in [Caller(again, name, f"process of {name}") for name in "abc"]:
        caller.report(3, DONE)
    lines = turns.read_text().splitlines()
    assert again.failure is None and turns.read_bytes().startswith(whole)
    assert [line[:8] for line in lines] == ['["a",[1,', '["b",[2,', '["c",[3,']


def test_turns_that_are_none_of_ours_are_named(job: Job, tmp_path: Path) -> None:
    run(job, tmp_path, 3)
    (tmp_path / TURNS).write_text('["a", 1]\n')
    with pytest.raises(JobError, match=r"turns.jsonl: is no coordinator's state: .*; remove it to begin without"):
        started(job, [], run_dir=tmp_path)


def test_the_turns_of_a_run_begun_anew_twice_are_counted_from_its_last_beginning(job: Job, tmp_path: Path) -> None:
    for instance in ("first", "second"):
        coordinator = started(job, [], run_dir=tmp_path)
        callers = [Caller(coordinator, name, instance) for name in "abc"]
        for round_ in range(4):
            for caller in callers:
                caller.report(round_, DONE if round_ and caller.told[-1].state == "JOIN" else ClientInfo(samples=5))
    selector = Remembers(job)
    again = started(job, [], selector, tmp_path)
    for caller in [Caller(again, name, "third") for name in "abc"]:
        caller.report(0)
    assert {c: [t.round for t in turns] for c, turns in selector.seen.items()} == {
        "a": [-7, -1],
        "b": [-6, -3],
        "c": [-5, -2],
    }


def test_a_state_that_an_earlier_version_wrote_is_taken_up_by_a_warm_start(job: Job, tmp_path: Path) -> None:
    (tmp_path / "model" / "2").mkdir(parents=True)
    (tmp_path / STATE).write_text(
        '{"round":2,"members":{"a":{"instance":"p","round":2,"told":null}},"finished":{},'
        '"history":{"a":[[1,5,1.0,0.5,null,false,false]]},"selector":"round_robin","state":{"last":"a"}}'
    )
    selector = Remembers(job)
    warm = started(with_keys(job, warmup_model_path=tmp_path / "model" / "2"), [], selector)
    for caller in [Caller(warm, name) for name in "abc"]:
        caller.report(0)
    assert [t.round for t in selector.seen[ClientId("a")]] == [-1] and selector.given == {"last": "a"}


def test_a_state_that_does_not_come_in_time_stops_the_run(job: Job, tmp_path: Path) -> None:
    over = threading.Event()

    class Hangs(Remembers):
        def state(self) -> Any:
            over.wait(30)

    try:
        hasty = with_keys(job, selector={"timeout": 0.05})
        coordinator = run(hasty, tmp_path, 1, Hangs(hasty))[0].coordinator
        assert "Hangs.state() has not answered within 0.05 s in round 1" in str(coordinator.failure)
    finally:
        over.set()
