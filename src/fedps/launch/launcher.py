"""A run from start to end: servers, workers, one loop that watches them, and a folder that tells what happened."""

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import psutil

from fedps.config import Job
from fedps.data.reader import client_files
from fedps.errors import JobError, RoleError
from fedps.launch import roles
from fedps.launch.folder import discard, make_run_folder
from fedps.launch.progress import Progress
from fedps.launch.roles import Role
from fedps.launch.summary import HISTOGRAMS, Ledger
from fedps.report import write_report
from fedps.tracking import Journal, stamp
from fedps.types import ClientId

LOOK_EVERY = 1.0  # seconds between two looks at memory


def run(job: Job, run_dir: Path | None = None, in_process: bool = False, as_json: bool = False) -> dict[str, Any]:
    """Run a job and return its summary; a failed run's summary says so in `status` and `error`.

    Args:
        job: the resolved job.
        run_dir: the run's folder, by default `runs/<job>-<time>`.
        in_process: servers and workers in this process, for debuggers.
        as_json: show nothing but the summary, as one JSON object on standard output.

    Raises:
        JobError: the run folder cannot be used, or the job does not fit its network.
        KeyboardInterrupt: the run was stopped from outside; all its processes are gone.
    """
    began = time.time()
    if not in_process:
        roles.prepare_fork_server()  # first of all: it imports torch while everything else begins
    try:
        folder = make_run_folder(job, run_dir)
        return Launch(job, folder, began, as_json).run(in_process)
    finally:
        if not in_process:
            roles.stop_fork_server()


class Launch:
    """One run: its roles, its journal and its ledger."""

    def __init__(self, job: Job, folder: Path, began: float, as_json: bool) -> None:
        self._job, self._folder, self._as_json = job, folder, as_json
        self._clients = list(client_files(job.runner.train_data_dir))
        self._ledger = Ledger(job, began)
        self._journal = Journal(folder / "events.jsonl")
        self._progress = Progress(job, self._clients, quiet=as_json)
        self._roles: list[Role] = []
        self._processes: dict[tuple[str, str], psutil.Process] = {}
        self._ready: dict[str, str] = {}  # addresses of the servers that listen
        self._mistakes: list[str] | None = None  # of the job, once its network was checked
        self._looked, self._told = 0.0, 0
        self._error: RoleError | None = None

    def run(self, in_process: bool) -> dict[str, Any]:
        """Run to the end, whatever it is, and close the folder.

        Raises:
            JobError: the job does not fit its network; nothing was started, and no folder is left.
        """
        interrupted = False
        with self._progress, _sigterm_as_interrupt():
            try:
                self._in_process() if in_process else self._in_processes()
            except RoleError as error:
                self._error = error
            except JobError:
                self._journal.close()
                discard(self._folder)
                raise
            except KeyboardInterrupt:
                interrupted = True
                self._error = RoleError("launcher", "stopped by a signal")
            finally:
                for role in reversed(self._roles):  # workers first, then servers
                    role.stop()
        summary = self._close()
        if interrupted:
            raise KeyboardInterrupt
        return summary

    def _in_process(self) -> None:
        from fedps.launch.inprocess import check, run_in_process  # noqa: PLC0415  (imports torch into this process)

        self._take(stamp("check", "0", {"event": "checked", "mistakes": [], **check(self._job)}))
        try:
            run_in_process(self._job, self._folder, self._take)
        except Exception as error:
            raise RoleError("worker", str(error)) from error

    def _in_processes(self) -> None:
        job, folder = self._job, self._folder
        self._roles.append(roles.start_check(job, folder))
        servers = [roles.start_server(job, k, folder) for k in range(job.runner.server_num)]
        self._roles += servers
        addresses = self._addresses(servers)
        self._roles += [roles.start_worker(job, n, c, addresses, folder) for n, c in enumerate(self._clients)]
        while any(r.open for r in self._roles if r.kind == "worker"):
            self._listen(0.2)
            self._look()
        for role in servers:
            role.process.terminate()
        while any(role.open for role in servers):
            self._listen(1.0)

    def _addresses(self, servers: list[Role]) -> list[str]:
        """Wait until the network is checked and every server listens."""
        deadline = time.monotonic() + self._job.runner.start_timeout
        while self._mistakes is None or len(self._ready) < len(servers):
            if time.monotonic() > deadline:
                late = next((f"server {r.name}" for r in servers if r.name not in self._ready), "the network's check")
                limit = self._job.runner.start_timeout
                raise RoleError(late, f"did not come up within {limit:g} s; raise runner.start_timeout or look at log/")
            self._listen(0.2)
            if self._mistakes:
                raise JobError(self._mistakes)
        return [self._ready[str(k)] for k in range(len(servers))]

    def _listen(self, timeout: float) -> None:
        """Take the events that are there; notice roles that ended."""
        pipes = {r.pipe: r for r in self._roles if r.open}
        for pipe in wait(list(pipes), timeout):
            role = pipes[pipe]  # type: ignore[index]
            event = role.read()
            if event is None:
                self._ended(role)
            else:
                self._take(stamp(role.kind, role.name, event))

    def _take(self, event: dict[str, object]) -> None:
        self._ledger.take(event)
        self._journal.write({k: v for k, v in event.items() if k not in HISTOGRAMS})
        self._progress.take(event)
        if event["event"] == "ready":
            self._ready[str(event["id"])] = str(event["address"])
        elif event["event"] == "checked":
            self._mistakes = list(event["mistakes"])  # type: ignore[call-overload]
        elif event["event"] == "failed":
            self._failed(RoleError(f"{event['role']} {event['id']}", str(event["error"]), str(event["traceback"])))

    def _ended(self, role: Role) -> None:
        role.process.join(roles.PATIENCE)
        name, code = f"{role.kind} {role.name}", role.process.exitcode
        if code and not (role.kind == "worker" and role.name in self._ledger.failed):
            died = f"died with signal {-code}" if code < 0 else f"ended with exit code {code}"
            log = self._folder / "log" / f"{role.kind}log.{self._number(role)}"
            event = {"event": "failed", "error": f"{died}; its log is {log}", "traceback": ""}
            self._take(stamp(role.kind, role.name, event))
        elif role.kind == "server" and any(r.open for r in self._roles if r.kind == "worker"):
            self._failed(RoleError(name, "ended before the workers did"))

    def _number(self, role: Role) -> int:
        return self._clients.index(ClientId(role.name)) if role.kind == "worker" else int(role.name)

    def _failed(self, error: RoleError) -> None:
        """Stop the run, or go on without a worker once all have begun to train."""
        self._error = self._error or error
        self._progress.say(f"{error}\n{error.traceback}".rstrip())
        begun = len(self._ledger.first_batch) == len(self._clients)
        left = [r for r in self._roles if r.kind == "worker" and r.open and r.name not in self._ledger.failed]
        if not error.role.startswith("worker") or not begun or not left:
            raise error

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        rss, pss = {}, psutil.Process().memory_full_info().pss / 2**20 if sys.platform == "linux" else 0.0
        for role in self._roles:
            try:
                process = psutil.Process(role.process.pid)
                memory = process.memory_full_info()
            except psutil.Error:
                continue
            rss[role.kind, role.name] = memory.rss / 2**20
            pss += getattr(memory, "pss", memory.rss) / 2**20
        self._ledger.weigh(rss, pss)
        self._tell_epochs()

    def _tell_epochs(self) -> None:
        """Show each epoch once all its clients have been evaluated."""
        for result in self._ledger.complete_rounds(len(self._clients) - len(self._ledger.failed))[self._told :]:
            self._progress.evaluated(result)
            self._told += 1

    def _close(self) -> dict[str, Any]:
        self._tell_epochs()
        summary = self._ledger.summary(time.time(), str(self._error) if self._error else None)
        summary["run_dir"] = str(self._folder)
        self._journal.write(
            stamp("launcher", "", {"event": "closed", "status": summary["status"], "error": summary["error"]})
        )
        self._journal.close()
        text = json.dumps(summary, indent=1)
        (self._folder / "summary.json").write_text(text + "\n", encoding="utf-8")
        write_report(self._folder)
        self._progress.close(summary, str(self._folder))
        if self._as_json:
            print(json.dumps(summary), flush=True)
        return summary


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C: stop all roles in order."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
