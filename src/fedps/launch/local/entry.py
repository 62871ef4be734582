"""What the processes of a run do from start to end: each enters, plays its role, and reports to the launcher."""

import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import Queue
from typing import Any

from msgspec.structs import replace

from fedps.config import Job
from fedps.config.job import VerticalJob
from fedps.errors import JobError
from fedps.events.events import Checked, Dropped, Event, Failed, Progress, Report, Started
from fedps.events.forms import encode
from fedps.launch.local.role import Role, RoleSpec, check_classes

MOST_WAITING = 1000  # events; beyond them, news of progress is left out


def play(pipe: Connection, log: str, job_json: str, spec: RoleSpec) -> None:
    """Live a built-in role's whole life."""
    outbox = _enter(pipe, log)
    _live(lambda report: Role(spec, _job(job_json), report).run(), outbox)


def play_party(pipe: Connection, log: str, job_json: str, spec: RoleSpec) -> None:
    """Live the whole life of a party of vertical training, or train in one place what that is compared with."""
    outbox = _enter(pipe, log)
    from fedps.launch.local.party import JOINED, PARTY, play_joined, play_prediction, play_side  # noqa: PLC0415

    job = VerticalJob.model_validate_json(job_json)
    if spec.role == JOINED:
        _live(lambda report: play_joined(job, spec.run_dir, report, spec.allow), outbox)
    else:
        play = play_side if spec.role == PARTY else play_prediction
        _live(lambda report: play(job, spec.client, spec.run_dir, spec.bind, report, spec.allow), outbox)


def check_network(pipe: Connection, log: str, job_json: str) -> None:
    """Load the job's classes, and build its network and plan once, before any role does; mistakes go out as one event."""
    outbox = _enter(pipe, log)
    from fedps.training.plan import described, keep_plan, make_plan  # noqa: PLC0415

    def check(report: Report) -> None:
        job, mistakes = _job(job_json), list[str]()
        try:
            check_classes(job)
        except JobError as error:
            mistakes += error.mistakes
        try:
            plan = make_plan(job)
            checked = replace(described(plan, job), plan=str(keep_plan(plan) or ""))
        except JobError as error:
            mistakes += error.mistakes
        report(Checked(mistakes) if mistakes else checked)

    _live(check, outbox)


def attach(pipe: Connection) -> "Outbox":
    """Leave Ctrl-C and a closed terminal to the launcher, end when it ends, and return what takes events to it."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=[pipe], daemon=True).start()
    outbox = Outbox(pipe)
    outbox.report(Started(os.getpid()))
    return outbox


class Outbox:
    """Sends a role's events to the launcher, from a thread of its own: a role never waits for the launcher to read.

    All events wait their turn, but `Progress`, which comes without end and of which a later one says as much: while
    `MOST_WAITING` events wait, it is counted and left out, and `Dropped` tells how many were.

    Args:
        pipe: leads to the launcher.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._waiting = pipe, Queue[bytes]()
        self._lock, self._dropped = threading.Lock(), 0
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def report(self, event: Event) -> None:
        """Put an event in the queue."""
        with self._lock:
            if isinstance(event, Progress) and self._waiting.qsize() >= MOST_WAITING:
                self._dropped += 1
                return
            if self._dropped:
                self._waiting.put(encode(Dropped(self._dropped)))
                self._dropped = 0
            self._waiting.put(encode(event))

    def close(self) -> None:
        """Wait until all that was reported is on its way."""
        if self._thread.is_alive():  # which it is not in a process that a script has forked
            self._waiting.join()

    def _send(self) -> None:
        while True:
            message = self._waiting.get()
            with suppress(OSError):  # the launcher is gone, and so is this process in a moment
                self._pipe.send_bytes(message)
            self._waiting.task_done()


def _enter(pipe: Connection, log: str) -> Outbox:
    """Write to the log from now on, and attach to the launcher."""
    file = io.TextIOWrapper(Log(log, "a"), encoding="utf-8", write_through=True)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = file
    return attach(pipe)


class Log(io.FileIO):
    """A file of what is said to people; what a full disk does not take is lost, and ends nobody."""

    def write(self, said: Any) -> int:
        """Write what the disk takes, and say that it was all."""
        with suppress(OSError):
            super().write(said)
        return len(said)


def _end_with(pipe: Connection) -> None:
    try:
        pipe.recv_bytes()  # the launcher never writes: this returns when it is gone
    except (EOFError, OSError):
        os._exit(1)


def _live(life: Callable[[Report], None], outbox: Outbox) -> None:
    try:
        life(outbox.report)
    except Exception as error:
        print(traceback.format_exc(), flush=True)
        outbox.report(Failed.of(error))
        raise SystemExit(1) from None
    finally:
        outbox.close()


def _job(job_json: str) -> Job:
    return Job.model_validate_json(job_json)
