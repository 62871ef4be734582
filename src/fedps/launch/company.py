"""The processes of a vertical run on this machine: started, listened to, started again, and ended, whatever becomes of them."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from multiprocessing.connection import wait
from pathlib import Path

from fedps.config import Allow
from fedps.config.job import VerticalJob
from fedps.errors import DataError, JobError, RoleError
from fedps.events import events
from fedps.events.events import Entry, Failed, stamp
from fedps.launch.addresses import hold, read_address
from fedps.launch.local.party import JOINED
from fedps.launch.local.processes import AGAIN, PATIENCE, UNKNOWN, Child, Who, start_party, stop
from fedps.launch.local.role import RoleSpec
from fedps.launch.restarts import Due, Restarts

HEARING = 3.0  # seconds in which the others may say why, too, once one party has failed
FOLLOWS = "[ended]"  # how what a party says ends that ended because the active one did


class Company:
    """All parties of a job on this machine.

    Args:
        job: the job, with all parties' parts.
        folder: the run's.
        allow: what whoever started this allows.
        take: takes each event.
    """

    def __init__(self, job: VerticalJob, folder: Path, allow: Allow, take: Callable[[Entry], None]) -> None:
        self._job, self._folder, self._allow, self._tell = job, folder, allow, take
        self._restarts, self._doors = Restarts(job.vertical), ExitStack()
        self._children: dict[Who, Child] = {}
        self._done = set[Who]()
        self._failures: dict[Who, Failed] = {}

    def __enter__(self) -> "Company":
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes that are left: passive parties first."""
        left = [child for child in self._children.values() if child.process.exitcode is None]
        passive = [child for child in left if child.name != self._job.vertical.active]
        stop(passive)
        stop([child for child in left if child not in passive])
        for child in self._children.values():
            child.pipe.close()
        self._doors.close()

    def start(self, kind: str) -> str:
        """Start a process of a kind for each party; return where the active one will listen."""
        at = read_address("vertical.address", self._job.vertical.address)
        with suppress(OSError):  # which the active party tells
            door, at = hold(at)  # it stays this party's while it is started again
            self._doors.enter_context(door)
        for number, name in enumerate(self._job.order):
            self._start(kind, number, name, str(at if name == self._job.vertical.active else at.reachable))
        return str(at)

    def start_joined(self) -> None:
        """Start what trains on all parties' features in one place."""
        self._start(JOINED, 0, "", "")

    def listen_to_the_end(self, void: Callable[[], bool]) -> None:
        """Listen until all processes have ended.

        Args:
            void: tells whether nothing has come of the run yet.

        Raises:
            JobError, DataError: a party has found a mistake, and nothing has come of the run.
            RoleError: one has failed, and is not started again.
        """
        deadline = 0.0  # when the others have had their say
        while any(child.open for child in self._children.values()) or (self._restarts.waiting and not deadline):
            for entry in self._listen(0.2):
                self._take(entry)
                if isinstance(entry.event, Failed) and not deadline and not self._plans(entry, entry.event):
                    deadline = time.monotonic() + HEARING
            if deadline and time.monotonic() > deadline:
                break
            for due in [] if deadline else self._restarts.due():
                self._start_again(due)
        if deadline:
            self._raise(void())

    def _start(self, kind: str, number: int, name: str, at: str) -> None:
        spec = RoleSpec(
            kind, number, self._folder / "job.yaml", self._folder, client=name, bind=at, allow=self._allow
        )  # fmt: skip
        log = self._folder / "log" / f"{kind}log.{spec.name}"
        self._children[kind, spec.name] = start_party(spec, log, self._job)

    def _start_again(self, due: Due) -> None:
        role, log = due.role, due.role.log
        role.process.kill()  # it has failed, but it may hang
        role.process.join(PATIENCE)
        role.pipe.close()
        with suppress(OSError), log.open("a", encoding="utf-8") as file:  # the event tells it, too
            file.write(f"{AGAIN}{due.event.reason.splitlines()[0]}\n")
        self._take(stamp(role.kind, role.name, due.event))
        self._failures.pop((role.kind, role.name), None)
        self._children[role.kind, role.name] = start_party(due.spec, log, self._job)

    def _plans(self, entry: Entry, failed: Failed) -> bool:
        """Whether a party that has failed will be started again."""
        return self._restarts.plan(self._children[entry.role, entry.id], failed)

    def _raise(self, void: bool) -> None:
        """Raise what the run failed by: of several failures that which others follow from; errors as for `listen_to_the_end`."""

        def rank(told: tuple[Who, Failed]) -> tuple[bool, ...]:
            return not told[1].in_job, not told[1].in_data, told[1].error.endswith(FOLLOWS)

        failures = sorted(self._failures.items(), key=rank)
        mistakes = [
            f"{_named(who)}: {line}"
            for who, failed in failures
            if failed.in_job or failed.in_data
            for line in failed.error.splitlines()
        ]
        if mistakes and void:
            raise JobError(mistakes) if failures[0][1].in_job else DataError("\n".join(mistakes))
        who, failed = failures[0]
        raise RoleError(_named(who), failed.error, failed.traceback)

    def _listen(self, timeout: float) -> Iterator[Entry]:
        """Yield what processes tell, one event of each in turn, and a failure for who died."""
        pipes = {child.pipe: child for child in self._children.values() if child.open}
        for pipe in wait(list(pipes), timeout):
            child = pipes[pipe]  # type: ignore[index]
            event = child.read() or self._end_of(child)
            if event is not None:
                yield stamp(child.kind, child.name, event)

    def _end_of(self, child: Child) -> Failed | None:
        """Return how a process has failed whose pipe has ended; None if it has said so itself, or had nothing left to do."""
        child.process.join(PATIENCE)
        code, who = child.process.exitcode, (child.kind, child.name)
        killed = code is None or code < 0 or code == UNKNOWN
        if who in self._failures or code == 0 or (killed and who in self._done):
            return None
        died = f"died with signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        return Failed(f"{died}; its log is {child.log}")

    def _take(self, entry: Entry) -> None:
        match entry.event:
            case Failed() as failed:
                self._failures[entry.role, entry.id] = failed
            case events.Done():
                self._done.add((entry.role, entry.id))
        self._tell(entry)


def _named(who: Who) -> str:
    """Return a process as people call it."""
    return "training in one place" if who[0] == JOINED else f"party {who[1]}"
