"""The watch over a run's processes: who died, hangs, or is late is named, whatever the others do."""

import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedps.events import events
from fedps.events.events import Entry, Event, Failed
from fedps.events.forms import encode
from fedps.launch.local.processes import Child
from fedps.launch.watch import Watch
from tests.conftest import MakeJob


class Stub:
    """A process that is as it is said to be."""

    pid = 7

    def __init__(self) -> None:
        self.exitcode: int | None = None
        self.asked: list[str] = []

    def is_alive(self) -> bool:
        return self.exitcode is None

    def terminate(self) -> None:
        self.asked.append("terminate")

    def kill(self) -> None:
        self.asked.append("kill")
        self.exitcode = -9

    def join(self, timeout: float | None = None) -> None:
        pass


class Scene:
    """A watch, its roles, and the time."""

    def __init__(self, job: Any, scripted: bool = False) -> None:
        self.watch, self.ends, self.stubs = Watch(job, scripted), dict[str, Connection](), dict[str, Stub]()

    def add(self, kind: str, name: str) -> Child:
        ours, theirs = Pipe()
        self.ends[f"{kind} {name}"], self.stubs[f"{kind} {name}"] = theirs, Stub()
        return self.watch.add(Child(kind, name, self.stubs[f"{kind} {name}"], ours, Path(f"{kind}log.{name}")))

    def tell(self, who: str, *told: Event) -> list[Entry]:
        """Let a role tell something; return what the watch hears."""
        for event in told:
            self.ends[who].send_bytes(encode(event))
        return [entry for _ in told for entry in self.watch.listen(1.0)]

    def end(self, who: str, code: int = 0) -> list[Event]:
        """Let a role end."""
        self.stubs[who].exitcode = code
        self.ends[who].close()
        return [entry.event for entry in self.watch.listen(1.0)]


@pytest.fixture
def scene(make_job: MakeJob) -> Scene:
    return Scene(make_job(step_timeout=5.0, reconnect_timeout=1.0, start_timeout=10.0))


def test_what_roles_say_is_stamped_with_who_they_are(scene: Scene) -> None:
    scene.add("server", "0")
    (entry,) = scene.tell("server 0", events.Ready("0.0.0.0:80"))
    assert (entry.role, entry.id, entry.event) == ("server", "0", events.Ready("0.0.0.0:80"))
    assert scene.watch.addresses == {("server", "0"): "127.0.0.1:80"}


def test_who_listens_or_trains_has_taken_up_where_it_was_and_who_comes_in_its_place_has_not_yet(scene: Scene) -> None:
    for kind, sign in (("server", events.Ready("a:1")), ("worker", events.FirstBatch())):
        for _ in range(2):
            role = scene.add(kind, "0")
            scene.tell(f"{kind} 0", events.Started(7))
            assert not scene.watch.under_way(role)
            scene.tell(f"{kind} 0", sign)
            assert scene.watch.under_way(role)


def test_one_with_much_to_tell_does_not_keep_others_waiting(scene: Scene) -> None:
    for name in "ab":
        scene.add("worker", name)
        for epoch in range(3):
            scene.ends[f"worker {name}"].send_bytes(encode(events.EpochBegin(epoch)))
    assert [{e.id for e in scene.watch.listen(1.0)} for _ in range(3)] == [{"a", "b"}] * 3


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (-9, "died with signal 9; its log is workerlog.a"),
        (3, "ended with exit code 3; its log is workerlog.a"),
        (0, "ended without training; a script calls fedps.init().run(), or .client().run() in workers"),
    ],
)
def test_one_that_ends_without_a_word_is_spoken_for(scene: Scene, code: int, said: str) -> None:
    scene.add("worker", "a")
    assert scene.end("worker a", code) == [Failed(said)]
    assert not scene.watch.open("worker")


def test_one_that_said_why_or_was_done_needs_no_more_words(scene: Scene) -> None:
    for name, last in (("a", Failed("out of luck")), ("b", events.Done(1, 2, 0))):
        scene.add("worker", name)
        scene.tell(f"worker {name}", last)
        assert scene.end(f"worker {name}", int(name == "a")) == []


@pytest.mark.parametrize("code", [-9, 255], ids=["killed", "its fork server died before it"])
def test_who_was_done_has_not_failed_however_its_process_ended(scene: Scene, code: int) -> None:
    scene.add("worker", "a")
    scene.tell("worker a", events.Done(1, 2, 0))
    assert scene.end("worker a", code) == []


def test_what_is_no_event_is_its_senders_failure(scene: Scene) -> None:
    scene.add("worker", "a")
    scene.ends["worker a"].send_bytes(b'{"event": "mine"}')
    (entry,) = scene.watch.listen(1.0)
    assert isinstance(entry.event, Failed) and entry.event.error.startswith("what came is no event")


def test_a_server_that_ends_before_the_workers_is_a_failure_and_after_them_none(scene: Scene) -> None:
    for number in "01":
        scene.add("server", number)
        scene.tell(f"server {number}", events.Ready("a:1"))
    scene.add("worker", "a")
    assert scene.end("server 0") == [Failed("ended before the workers did")]
    scene.tell("worker a", events.Done(1, 2, 0))
    scene.end("worker a")
    assert scene.end("server 1") == []


def test_who_hangs_is_given_up_once_all_others_are_done(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    now = float(int(time.monotonic()) + 1)  # whole, so that sums are exact
    monkeypatch.setattr("fedps.launch.watch.time", SimpleNamespace(monotonic=lambda: now))
    for name in "abc":
        scene.add("worker", name)
        scene.tell(f"worker {name}", events.EpochBegin(0))
    now += 1000
    assert list(scene.watch.hung()) == [], "nobody is done: all may wait for one another"
    scene.tell("worker b", events.Progress(0, 1, 2, 32, 0.5, 0.5), events.Done(1, 2, 0))
    scene.end("worker b")
    scene.tell("worker c", events.FirstBatch())
    now += 5 + 1 + 10
    assert list(scene.watch.hung()) == [], "one may have more to tell"
    now += 0.5
    assert [(e.id, e.event.error[:5]) for e in scene.watch.hung() if isinstance(e.event, Failed)] == [
        ("a", "hangs"),
        ("c", "hangs"),
    ]
    assert not scene.watch.working()


def test_who_says_that_it_works_does_not_hang_however_seldom_it_prints(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = float(int(time.monotonic()) + 1)  # whole, so that sums are exact
    monkeypatch.setattr("fedps.launch.watch.time", SimpleNamespace(monotonic=lambda: now))
    for name in "ab":
        scene.add("worker", name)
        scene.tell(f"worker {name}", events.EpochBegin(0))
    scene.tell("worker b", events.Done(1, 2, 0))
    scene.end("worker b")
    for _ in range(9):
        now += 5 + 1 + 10
        assert list(scene.watch.hung()) == []
        scene.tell("worker a", events.AtWork())
    now += 5 + 1 + 10 + 0.5
    assert [entry.id for entry in scene.watch.hung()] == ["a"]


def test_one_that_the_others_go_on_without_is_waited_for_less_long(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = float(int(time.monotonic()) + 1)  # whole, so that sums are exact
    monkeypatch.setattr("fedps.launch.watch.time", SimpleNamespace(monotonic=lambda: now))
    scene.add("server", "0")
    for name in "ab":
        scene.add("worker", name)
        scene.tell(f"worker {name}", events.EpochBegin(0))
    scene.end("worker b", 1)
    scene.tell("server 0", events.Suspended("a", 3, "silent"))
    now += 5 + 1.5
    assert [entry.id for entry in scene.watch.hung()] == ["a"]


def test_who_is_not_up_yet_is_named(scene: Scene) -> None:
    assert scene.watch.late() is None
    for kind, name in (("server", "0"), ("server", "1"), ("coordinator", "0")):
        scene.add(kind, name)
    scene.tell("server 0", events.Ready("a:1"))
    assert scene.watch.late() == "server 1"
    scene.tell("coordinator 0", events.Ready("a:2"))
    scene.tell("server 1", events.Ready("a:3"))
    assert scene.watch.late() is None
    assert "server 1: did not come up within 10 s; raise runner.start_timeout or look at" in str(
        scene.watch.overdue("server 1")
    )


def test_all_that_are_left_are_ended(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedps.launch.local.processes.PATIENCE", 0.0)
    for kind, name in (("server", "0"), ("worker", "a"), ("worker", "b")):
        scene.add(kind, name)
    scene.end("worker b")
    scene.watch.stop()
    assert {who: stub.asked for who, stub in scene.stubs.items()} == {
        "server 0": ["terminate", "kill"], "worker a": ["terminate", "kill"], "worker b": [],
    }  # fmt: skip


def test_who_is_ended_is_heard_to_the_end_but_for_failures_that_may_come_of_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedps.launch.local.processes.PATIENCE", 0.0)
    scene.add("server", "0")
    last = [events.Stopped(0, 0), Failed("ended"), events.Audited(7, "digest")]
    for event in last:
        scene.ends["server 0"].send_bytes(encode(event))
    assert [(e.role, e.id, e.event) for e in scene.watch.stop()] == [("server", "0", last[0]), ("server", "0", last[2])]
    assert scene.watch.stop() == []
