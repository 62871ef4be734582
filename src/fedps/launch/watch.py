"""The watch over the processes of a run: what they report, who of them died, hangs, or never came up, and what they weigh."""

import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait

import psutil

from fedps.config import Job
from fedps.errors import RoleError
from fedps.events import events
from fedps.events.events import Entry, Failed, stamp
from fedps.launch.addresses import Address
from fedps.launch.local.processes import PATIENCE, UNKNOWN, Child, Who, stop
from fedps.launch.local.scripts import last_words

SHARE = 0.01  # of a core, which reading PSS may take
GROWTH = 1.1  # by which resident memory may grow before PSS is read all the same
LISTENERS = ("coordinator", "server")  # in the order in which they end
ORDER = ("check", "worker", *LISTENERS)  # of all roles: nobody misses one that has ended before
Rss = dict[Who, float]  # resident memory by a role's kind and name, MiB


class Watch:
    """Listens to the roles of a run, and speaks for those that cannot.

    Args:
        job: the job; its timeouts are the patience of the watch.
        scripted: whether a user's script plays the roles.

    Attributes:
        roles: the process of each that was started, the last one where that was started again.
        addresses: where a role listens, by kind and name, once it does.
    """

    def __init__(self, job: Job, scripted: bool) -> None:
        self._runner, self._scripted = job.runner, scripted
        self.roles: dict[Who, Child] = {}
        self.addresses: dict[Who, str] = {}
        self._began: dict[Who, float] = {}  # time, s, monotonic, of each role's start
        self._milestones = set[tuple[str, str, type]]()  # which roles have started, train, are done, or have failed
        self._spoke: dict[str, float] = {}  # time, s, monotonic, of each worker's last event
        self._silent: set[str] = set()  # clients that the others go on without

    def add(self, role: Child) -> Child:
        """Watch one more role, or one that was started again: of its process before nothing more is heard."""
        who = role.kind, role.name
        if who in self.roles:
            self.roles[who].pipe.close()
            self._milestones = {told for told in self._milestones if told[:2] != who}
            self.addresses.pop(who, None)
        if role.kind == "worker":
            self._spoke.pop(role.name, None)
        self.roles[who], self._began[who] = role, time.monotonic()
        return role

    def all(self, kind: str) -> list[Child]:
        """Return the roles of a kind that were started."""
        return [role for role in self.roles.values() if role.kind == kind]

    def open(self, kind: str) -> list[Child]:
        """Return the roles of a kind that may have more to tell."""
        return [role for role in self.all(kind) if role.open]

    def listen(self, timeout: float) -> Iterator[Entry]:
        """Wait for events, at most `timeout` seconds; yield those that are there, and a failure for who died.

        One event is read of each role in turn, so that none waits for another's to end.
        """
        pipes = {role.pipe: role for role in self.roles.values() if role.open}
        for pipe in wait(list(pipes), timeout):
            role = pipes[pipe]  # type: ignore[index]
            event = role.read() or self._end_of(role)
            if event is not None:
                yield self._noted(stamp(role.kind, role.name, event))

    def hung(self) -> Iterator[Entry]:
        """Yield a failure for each worker that is silent though all others are done: nobody waits for it any longer."""
        now, left = time.monotonic(), self.open("worker")
        if len(left) < len(self.all("worker")) and all(
            now - self._spoke.get(role.name, now) > self._patience(role.name) for role in left
        ):
            for role in left:
                error = f"hangs: it has said nothing for long, and all others are done; its log is {role.log}"
                yield self._noted(stamp("worker", role.name, Failed(error)))

    def late(self) -> str | None:
        """Return which server or coordinator does not listen yet, None if all do."""
        waited = (who for who in self.roles if who[0] in LISTENERS)
        return next((" ".join(who) for who in waited if who not in self.addresses), None)

    def check_begun(self) -> None:
        """Make sure that scripts have called `fedps.init` in time; built-in workers say so as they begin.

        Raises:
            RoleError: one has not.
        """
        begun = time.monotonic() - self._runner.start_timeout
        for role in self.open("worker"):
            who = role.kind, role.name
            if self._began[who] < begun and (*who, events.Started) not in self._milestones:
                raise self.overdue(" ".join(who))

    def overdue(self, who: str) -> RoleError:
        """Return the error that a role did not come up in time."""
        remedy = " or see whether the script calls fedps.init()" if self._scripted else " or look at its log"
        limit = f"{self._runner.start_timeout:g} s"
        return RoleError(who, f"did not come up within {limit}; raise runner.start_timeout{remedy}")

    def under_way(self, role: Child) -> bool:
        """Whether a role's process has taken up what it goes on from: it listens then, or trains."""
        who = role.kind, role.name
        return who in self.addresses or (*who, events.FirstBatch) in self._milestones

    def working(self) -> bool:
        """Whether a worker is left that has not failed."""
        return any(("worker", role.name, Failed) not in self._milestones for role in self.open("worker"))

    def stop(self) -> list[Entry]:
        """End all processes that are left: workers first, then the coordinator, then servers.

        Returns:
            What they still told, but failures: they may come of being ended.
        """
        told = [one for kind in ORDER for one in stop(self.all(kind))]
        return [stamp(role.kind, role.name, event) for role, event in told if not isinstance(event, Failed)]

    def _patience(self, worker: str) -> float:
        runner = self._runner
        patience = runner.step_timeout + runner.reconnect_timeout
        return patience if worker in self._silent else patience + runner.start_timeout

    def _noted(self, entry: Entry) -> Entry:
        if entry.role == "worker":
            self._spoke[entry.id] = time.monotonic()
            self._silent.discard(entry.id)
        match entry.event:
            case events.Started() | events.FirstBatch() | events.Done() | Failed():
                self._milestones.add((entry.role, entry.id, type(entry.event)))
            case events.Lost(client=client) | events.LeftBehind(client=client) | events.Suspended(client=client):
                self._silent.add(client)
            case events.Ready(address=address):
                host, _, port = address.rpartition(":")
                self.addresses[entry.role, entry.id] = str(Address(host.strip("[]"), int(port)).reachable)
        return entry

    def _end_of(self, role: Child) -> Failed | None:
        """Return how a role has failed whose pipe has ended; None if it has said so itself, or had nothing left to do."""
        role.process.join(PATIENCE)
        code, who = role.process.exitcode, (role.kind, role.name)
        if (*who, Failed) in self._milestones:
            return None
        killed = code is not None and (code < 0 or (code == UNKNOWN and not self._scripted))
        if killed and (*who, events.Done) in self._milestones:
            return None
        if code:  # a built-in role has reported what went wrong, if it could; a script's last words are in its log
            reason, trace = last_words(role.log) if self._scripted and code > 0 else ("", "")
            died = reason or (f"died with signal {-code}" if code < 0 else f"ended with exit code {code}")
            return Failed(f"{died}; its log is {role.log}", trace)
        if role.kind == "worker" and (*who, events.Done) not in self._milestones:
            return Failed("ended without training; a script calls fedps.init().run(), or .client().run() in workers")
        if role.kind in LISTENERS and (self.open("worker") or who not in self.addresses):
            remedy = "; a script calls fedps.init().run() in every role" if self._scripted else ""
            return Failed(f"ended before the workers did{remedy}")
        return None


class Memory:
    """Reads what processes hold in memory: resident (RSS) at every look, and their shares of it (PSS) now and then.

    For PSS the system goes through all pages of a process, milliseconds for each: read at every look, it would take
    some percent of the cores. It is read as often as `SHARE` allows, and when memory has grown.
    """

    def __init__(self) -> None:
        self._due, self._read_at = 0.0, 0.0  # time, s, monotonic, and the resident memory, MiB, of the last reading

    def look(self, roles: Sequence[Child]) -> tuple[Rss, float | None]:
        """Return each role's resident memory, and the proportional sum of all with this process, None if not due; MiB."""
        processes = {(role.kind, role.name): role.process.pid for role in roles if role.open}
        rss = {who: size for who, pid in processes.items() if (size := _mib(pid, "rss")) is not None}
        total = sum(rss.values())
        if time.monotonic() < self._due and total < self._read_at * GROWTH:
            return rss, None
        began = time.thread_time()
        pss = sum(_mib(pid, "pss") or 0.0 for pid in [None, *processes.values()])
        self._due, self._read_at = time.monotonic() + (time.thread_time() - began) / SHARE, total
        return rss, pss


def _mib(pid: int | None, kind: str) -> float | None:
    """Return a process's memory, this one's if `pid` is None; None if it has ended. Where there is no PSS, it is RSS."""
    try:
        process = psutil.Process(pid)
        full = kind == "pss" and sys.platform == "linux"
        size: int = process.memory_full_info().pss if full else process.memory_info().rss
    except psutil.Error:
        return None
    return size / 2**20
