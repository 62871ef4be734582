"""A coordinator that dies where a test wants it to, and clients that go on with the next one, in one thread."""

import io
import random
import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedps.config import Job
from fedps.coordinator import coordinator
from fedps.coordinator.coordinator import Coordinator
from fedps.coordinator.resuming import Memory
from fedps.types import ClientInfo, Identity
from fedps.wire.messages import Assignment
from tests.coordinator.callers import Caller
from tests.events.kept import into

CONNECT = sqlite3.connect
MOST_ACTS = 2000  # of a history: one that takes more hangs


class Killed(BaseException):
    """The process is gone."""


class Steps:
    """Counts what a process does that others can see: statements to its database, and answers, before and after each.

    Args:
        fatal: the steps at which it dies.
    """

    def __init__(self, fatal: Iterable[int] = ()) -> None:
        self.taken, self.dead, self.fatal = 0, False, set(fatal)

    def take(self) -> None:
        self.taken += 1
        self.dead |= self.taken in self.fatal
        if self.dead:
            raise Killed

    def around(self, call: Callable[..., Any], *arguments: Any) -> Any:
        self.take()
        result = call(*arguments)
        self.take()
        return result


class Database(sqlite3.Connection):
    """A connection whose statements are steps; they wait for no disk, which does not die here."""

    steps: Steps

    def execute(self, statement: str, *arguments: Any) -> Any:
        faster = statement.replace("synchronous = FULL", "synchronous = OFF")
        return self.steps.around(super().execute, faster, *arguments)

    def executemany(self, *arguments: Any) -> Any:
        return self.steps.around(super().executemany, *arguments)


class Worker:
    """One client: it trains what it is told, keeps what it has done, and reports that until it is answered.

    Attributes:
        done: the last round that it has come to the end of, and `did`: what was to be done in it.
        due: what it is told to do next.
        trained: the rounds that it has trained to their end.
    """

    def __init__(self, name: str) -> None:
        self.name, self.process, self.done = name, 0, 0
        self.did: Assignment | None = None
        self.due: Assignment | None = None
        self.trained: list[int] = []
        self.told: dict[int, Assignment] = {}  # by round
        self.caller: Caller | None = None  # None while it is not connected
        self.asked = self.finished = False

    def act(self, coordinator: Coordinator) -> None:
        """Do one thing: connect, train, or report; or hear what is next."""
        if self.caller is None:
            self.caller, self.asked = Caller(coordinator, self.name, f"{self.name} {self.process}"), False
        elif self.due is not None:
            self.done, self.did, self.due = self.due.round, self.due, None
            if self.did.state == "JOIN":
                self.trained.append(self.done)
        elif not self.asked:
            self.asked = True
            trained = self.did is not None and self.did.state == "JOIN"
            info = ClientInfo(samples=5, trained=5, seconds=1.0, loss=1 / (self.done + ord(self.name)))
            self.caller.report(self.done, info if trained else ClientInfo(samples=5))
        else:
            self.hear()

    def hear(self) -> None:
        """Take in the answer to its report, if it has come."""
        if self.caller is not None and self.asked and self.caller.told:
            self.due, self.asked = self.caller.told[-1], False
            self.told[self.due.round] = self.due
            self.caller.replies.clear()
            assert self.due.round > self.done, f"{self.name} was told {self.due} after {self.done}"
            self.finished = self.due.state == "FINISH"

    def die(self, keeps: bool) -> None:
        """Let another process take its place: with the last round that it has done, or with nothing."""
        self.process, self.caller, self.due = self.process + 1, None, None
        if not keeps:
            self.done, self.did = 0, None

    def go_back(self, done: int) -> None:
        """Let another process go on from an earlier checkpoint."""
        self.die(keeps=True)
        self.done, self.did, self.finished = done, self.told.get(done), False
        self.trained = [round_ for round_ in self.trained if round_ <= done]


class World:
    """A coordinator over a folder, and its clients; `play` is their whole history.

    Args:
        job: the job.
        folder: the run's.
        patch: so that its database counts.
        fatal: the steps at which the coordinator dies; the next process counts on.
        seed: of the order in which clients act.
    """

    def __init__(
        self, job: Job, folder: Path, patch: pytest.MonkeyPatch, fatal: Iterable[int] = (), seed: int = 0
    ) -> None:
        folder.mkdir()
        self.job, self.folder, self.events = job, folder, list[dict[str, Any]]()
        self.steps, self.deaths, self.rng = Steps(fatal), 0, random.Random(seed)
        self.workers = [Worker(name) for name in "abc"]
        self.coordinator: Coordinator | None = None
        self.resume_at: int | None = None  # of the next process
        self._memories: list[Memory] = []
        memories, counted = self._memories, type("Counted", (Database,), {"steps": self.steps})

        class Held(Memory):
            def __init__(self, folder: Path | None) -> None:
                memories.append(self)
                super().__init__(folder)

        patch.setattr(coordinator, "Memory", Held)
        patch.setattr(sqlite3, "connect", partial(CONNECT, factory=counted))

    def play(self, each: Callable[["World"], None] = lambda world: None) -> "World":
        """Let them act in any order until all are told to finish; `each` is called in between, and may raise Killed."""
        for _ in range(MOST_ACTS):
            if all(worker.finished for worker in self.workers):
                self.kill()
                return self
            try:
                each(self)
                self.coordinator = self.coordinator or self._start()
                self.rng.choice([w for w in self.workers if not w.finished]).act(self.coordinator)
            except Killed:
                self.kill()
            if self.coordinator is not None and self.coordinator.failure is not None:
                raise self.coordinator.failure
        raise AssertionError(
            f"it hangs: {[(w.name, w.done, w.due, w.caller and w.caller.replies) for w in self.workers]}"
        )

    def kill(self) -> None:
        """End the coordinator's process, wherever it is; some of what it has sent still comes."""
        self.deaths += 1
        self.steps.dead, self.coordinator = False, None
        while self._memories:
            self._memories.pop().close()
        for worker in self.workers:
            if self.rng.random() < 0.5:
                worker.hear()
            worker.caller = None

    def turns(self) -> dict[tuple[str, int], int]:
        """Return the samples of each client's turns, by round, as the next process finds them."""
        self.steps.fatal.clear()
        memory = Memory(self.folder)
        try:
            found = memory.read()
        finally:
            memory.close()
        return {(client, turn.round): turn.trained for client, turn in (found.turns if found else ())}

    def losses(self) -> dict[int, float]:
        """Return the loss of each round, as it was told last."""
        return {e["round"]: e["loss"] for e in self.events if e["event"] == "round"}

    def _start(self) -> Coordinator:
        made = Coordinator(self.job, into(self.events), io.StringIO(), run_dir=self.folder, resume_at=self.resume_at)
        self.resume_at = None
        opened, steps = made.opened, self.steps

        def counted(send: Callable[[bytes | None], None], peer: str, identity: Identity | None = None) -> Any:
            return opened(lambda data: steps.around(send, data), peer, identity)

        made.opened = counted  # type: ignore[method-assign]
        return made
