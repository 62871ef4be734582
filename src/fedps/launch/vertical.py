"""`fedps vertical run`: all parties of a vertical job on this machine, a process each, from start to end; and the lift they are worth."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from fedps.config import Allow
from fedps.config.job import VerticalJob
from fedps.errors import DataError, JobError, RoleError
from fedps.events import events
from fedps.events.events import Closed, Entry, Failed, now, stamp
from fedps.events.journal import JOURNAL, Journal
from fedps.launch.addresses import check_protected, hold, read_address
from fedps.launch.folder import discard, lack, make_run_folder, write_end
from fedps.launch.lift import Shown, Tally
from fedps.launch.local.party import JOINED, PARTY
from fedps.launch.local.processes import AGAIN, PATIENCE, UNKNOWN, Child, Who, fork_server, start_party, stop
from fedps.launch.local.role import RoleSpec
from fedps.launch.orders import PLAIN
from fedps.launch.restarts import Due, Restarts

HEARING = 3.0  # seconds in which the others may say why, too, once one party has failed


def run(
    job: VerticalJob, run_dir: Path | None = None, as_json: bool = False, allow: Allow = PLAIN.allow
) -> dict[str, Any]:
    """Run a vertical job on this machine and return its summary; a failed run's says so in `status` and `error`.

    Args:
        job: the job, with all parties' parts.
        run_dir: the run's folder, by default `runs/<job>-<time>`.
        as_json: show nothing but the summary, as one JSON object on standard output.
        allow: what whoever started this allows.

    Raises:
        JobError: a folder or an address cannot be used, or a party finds a mistake in the job before anything is trained.
        DataError: the same for files that cannot be read, or have no samples in common.
        KeyboardInterrupt: the run was stopped from outside; all its processes are gone.
    """
    began = now()
    at = read_address("vertical.address", job.vertical.address)
    check_protected(job.security, {(PARTY, name): at for name in job.order}, ())
    with fork_server(torch=True):
        return Launch(job, make_run_folder(job, run_dir), began, as_json, allow).run()


class Launch:
    """One run: its parties, its journal and what came of it."""

    def __init__(self, job: VerticalJob, folder: Path, began: float, as_json: bool, allow: Allow) -> None:
        self._job, self._folder, self._as_json, self._allow = job, folder, as_json, allow
        self._tally, self._journal = Tally(job, began), Journal(folder / JOURNAL)
        self._shown = Shown(job, quiet=as_json)
        self._restarts, self._doors = Restarts(job.vertical), ExitStack()
        self._children: dict[Who, Child] = {}
        self._done: set[Who] = set()
        self._failures: dict[Who, Failed] = {}

    def run(self) -> dict[str, Any]:
        """Run to the end, whatever it is, and close the folder; errors as for `run`."""
        error, interrupted = None, False
        with self._doors:
            try:
                self._play()
            except (JobError, DataError):
                self._stop()
                self._journal.close()
                discard(self._folder)
                raise
            except RoleError as failed:
                error = failed
            except OSError as failed:
                error = RoleError("launcher", lack(self._folder, failed))
            except KeyboardInterrupt:
                error, interrupted = RoleError("launcher", "stopped by a signal"), True
            finally:
                self._stop()
        summary = self._close(error)
        if interrupted:
            raise KeyboardInterrupt
        return summary

    def _play(self) -> None:
        """Start all parties, and listen to them until they are done; then train what they are compared with.

        Raises:
            JobError: a party has found a mistake in the job, and nothing is trained yet; DataError: or in its data.
            RoleError: one has failed, and is not started again.
        """
        at = read_address("vertical.address", self._job.vertical.address)
        with suppress(OSError):  # which the active party tells
            door, at = hold(at)  # it stays this party's while it is started again
            self._doors.enter_context(door)
        self._shown.introduce(str(at))
        for number, name in enumerate(self._job.order):
            listens = name == self._job.vertical.active
            self._start(PARTY, number, name, str(at if listens else at.reachable))
        self._listen_to_the_end()
        if "joined" in self._job.vertical.lift:
            self._start(JOINED, 0, "", "")
            self._listen_to_the_end()

    def _start(self, kind: str, number: int, name: str, at: str) -> None:
        spec = RoleSpec(kind, number, self._folder / "job.yaml", self._folder, client=name, bind=at, allow=self._allow)
        self._children[kind, spec.name] = start_party(spec, self._folder / "log" / f"{kind}log.{spec.name}", self._job)

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

    def _listen_to_the_end(self) -> None:
        """Listen until all processes have ended. Raises RoleError: one has failed for good."""
        deadline = 0.0  # when others have had their say
        while any(child.open for child in self._children.values()) or self._restarts.waiting:
            for entry in self._listen(0.2):
                self._take(entry)
                if isinstance(entry.event, Failed) and not deadline and not self._plans(entry):
                    deadline = time.monotonic() + HEARING
            if deadline and (time.monotonic() > deadline or len(self._failures) == len(self._children)):
                break
            if not deadline:
                for due in self._restarts.due():
                    self._start_again(due)
        if deadline:
            self._raise()

    def _plans(self, entry: Entry) -> bool:
        """Whether a party that has failed will be started again."""
        return self._restarts.plan(self._children[entry.role, entry.id], entry.event)  # type: ignore[arg-type]

    def _raise(self) -> None:
        """Raise what the run failed by: of several failures that which others follow from.

        Raises:
            JobError, DataError: a mistake, and nothing is trained yet.
            RoleError: anything else.
        """
        failures = sorted(self._failures.items(), key=lambda told: (not told[1].in_job, not told[1].in_data))
        mistakes = [
            f"{_named(who)}: {line}" for who, f in failures if f.in_job or f.in_data for line in f.error.splitlines()
        ]
        if mistakes and not self._tally.measured:
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
        if who in self._failures or code == 0:
            return None
        if who in self._done and (code is None or code < 0 or code == UNKNOWN):
            return None
        died = f"died with signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        return Failed(f"{died}; its log is {child.log}")

    def _take(self, entry: Entry) -> None:
        match entry.event:
            case Failed() as failed:
                self._failures[entry.role, entry.id] = failed
            case events.Done():
                self._done.add((entry.role, entry.id))
        self._tally.take(entry)
        if why := self._journal.keep(entry):
            self._shown.say(f"{self._folder / JOURNAL} is not written, but later: {why}")
        self._shown.take(entry)

    def _stop(self) -> None:
        """End all processes that are left: passive parties first."""
        children = [child for child in self._children.values() if child.process.exitcode != 0]
        passive = [child for child in children if child.name != self._job.vertical.active]
        stop(passive)
        stop([child for child in children if child not in passive])
        for child in self._children.values():
            child.pipe.close()

    def _close(self, error: RoleError | None) -> dict[str, Any]:
        if error is not None:
            self._shown.say(f"{error}\n{error.traceback}".rstrip())
        summary = self._tally.summary(now(), str(error) if error else None)
        summary |= {"run_dir": str(self._folder), "log_dir": str(self._folder / "log")}
        with suppress(ValueError):
            self._journal.keep(stamp("launcher", "", Closed(summary["status"], summary["error"])))
        try:
            write_end(
                self._folder, self._journal, summary, 0.0 if error else self._job.vertical.step_timeout, self._shown.say
            )
        except OSError as failed:
            summary |= {"status": "failed", "error": summary["error"] or f"launcher: {lack(self._folder, failed)}"}
        finally:
            self._journal.close()
        self._shown.close(summary, str(self._folder))
        if self._as_json:
            print(json.dumps(summary), flush=True)
        return summary


def _named(who: Who) -> str:
    """Return a process as people call it."""
    return f"party {who[1]}" if who[0] == PARTY else "training in one place"
