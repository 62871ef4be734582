"""A run from start to end: servers, coordinator, workers, one loop that watches them, and a folder that tells what happened."""

import json
import time
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from fedps.config import Allow, Job
from fedps.config.files import client_files_of
from fedps.data.read.by_job import check_held_out
from fedps.errors import DataError, JobError, RoleError
from fedps.events import events
from fedps.events.events import Closed, Entry, Failed, entry
from fedps.events.journal import Journal
from fedps.events.ledger import Ledger
from fedps.launch.addresses import Address
from fedps.launch.folder import discard, make_log_folder, make_run_folder
from fedps.launch.local import processes as roles
from fedps.launch.local.processes import BuiltIn, Role, Starter
from fedps.launch.local.scripts import Scripted, last_words
from fedps.launch.local.system import sigterm_as_interrupt, weigh
from fedps.launch.progress import Progress
from fedps.models.network import Plan
from fedps.pages.report import write_report
from fedps.storage.whole import PUBLIC, write_whole
from fedps.training.plan import described, find_plan, make_plan

LOOK_EVERY = 1.0  # seconds between two looks at memory
ANYWHERE = Address("127.0.0.1", 0)
LISTENERS = ("coordinator", "server")  # in the order in which they end


@dataclass(frozen=True)
class Orders:
    """What the command line adds to a job.

    Args:
        log_dir: folder of the roles' logs, by default `log` in the run's folder.
        server_at: where each server listens, by default on a free port of 127.0.0.1.
        coordinator_at: the same for the coordinator.
        allow: what the person at the command line allows.
        script: a training script of the user's, started in every role instead of the built-in one.
        script_args: given to the script.
    """

    log_dir: Path | None = None
    server_at: tuple[Address, ...] = ()
    coordinator_at: Address | None = None
    allow: Allow = field(default_factory=Allow)
    script: Path | None = None
    script_args: tuple[str, ...] = ()


PLAIN = Orders()


def run(
    job: Job, run_dir: Path | None = None, in_process: bool = False, as_json: bool = False, orders: Orders = PLAIN
) -> dict[str, Any]:
    """Run a job and return its summary; a failed run's summary says so in `status` and `error`.

    Args:
        job: the resolved job.
        run_dir: the run's folder, by default `runs/<job>-<time>`.
        in_process: servers and workers in this process, for debuggers.
        as_json: show nothing but the summary, as one JSON object on standard output.
        orders: what else the command line says.

    Raises:
        JobError: a folder cannot be used, an address is taken, or the job does not fit its network.
        DataError: the held-out files cannot be read or scored.
        KeyboardInterrupt: the run was stopped from outside; all its processes are gone.
    """
    began = time.time()
    plan = None if in_process else find_plan(job)
    if not in_process:
        roles.prepare_fork_server(torch=plan is None)  # first of all: it imports while everything else begins
    try:
        if orders.log_dir is not None:
            make_log_folder(orders.log_dir)
        folder = make_run_folder(job, run_dir)
        return Launch(job, folder, began, as_json, orders, plan).run(in_process)
    finally:
        if not in_process:
            roles.stop_fork_server()


class Launch:
    """One run: its roles, its journal and its ledger."""

    def __init__(
        self, job: Job, folder: Path, began: float, as_json: bool, orders: Orders = PLAIN, plan: Plan | None = None
    ) -> None:
        self._found = plan  # of a built-in network, made by an earlier run
        self._job, self._folder, self._as_json, self._orders = job, folder, as_json, orders
        self._log_dir = (orders.log_dir or folder / "log").resolve()
        self._clients = list(client_files_of(job))
        self._ledger = Ledger(job, began)
        self._journal = Journal(folder / "events.jsonl")
        self._progress = Progress(job, self._clients, quiet=as_json)
        self._roles: list[Role] = []
        self._begun: set[tuple[str, str]] = set()  # roles that said so
        self._done: set[tuple[str, str]] = set()
        self._ready: dict[tuple[str, str], str] = {}  # addresses of the roles that listen
        self._mistakes: list[str] | None = None  # of the job, once its network was checked
        self._plan: Path | None = None  # the file of the network made ready
        self._looked, self._told = 0.0, 0
        self._spoke: dict[str, float] = {}  # when each worker last said anything
        self._silent: set[str] = set()  # clients that the others go on without
        self._error: RoleError | None = None

    def run(self, in_process: bool) -> dict[str, Any]:
        """Run to the end, whatever it is, and close the folder.

        Raises:
            JobError: the job does not fit its network, or an address is taken; nobody trained, and no folder is left.
            DataError: the same for held-out files that cannot be scored.
        """
        interrupted = False
        with self._progress, sigterm_as_interrupt():
            try:
                self._in_process() if in_process else self._in_processes()
            except RoleError as error:
                self._error = error
            except (JobError, DataError):
                self._journal.close()
                discard(self._folder)
                raise
            except KeyboardInterrupt:
                interrupted = True
                self._error = RoleError("launcher", "stopped by a signal")
            finally:
                for role in reversed(self._roles):  # workers first, then the coordinator, then servers
                    role.stop()
        summary = self._close()
        if interrupted:
            raise KeyboardInterrupt
        return summary

    def _in_process(self) -> None:
        from fedps.launch.inprocess import run_in_process  # noqa: PLC0415  (may import torch into this process)

        check_held_out(self._job, self._orders.allow)
        plan = make_plan(self._job)
        self._take(entry("check", "0", described(plan, self._job)))
        try:
            run_in_process(self._job, self._folder, self._take, self._orders.allow, plan=plan)
        except Exception as error:
            failed = Failed.of(error)
            self._progress.say(f"{failed.error}\n{failed.traceback}".rstrip())
            raise RoleError("a role", failed.error, failed.traceback) from error

    def _in_processes(self) -> None:
        job, orders = self._job, self._orders
        starter = self._starter()
        self._check_network()
        binds = orders.server_at or (ANYWHERE,) * job.runner.server_num
        servers = [starter.server(k, str(at)) for k, at in enumerate(binds)]
        self._roles += servers
        if job.runner.with_coordinator:
            self._roles.append(starter.coordinator(str(orders.coordinator_at or ANYWHERE)))
        check_held_out(job, orders.allow)  # while they come up
        addresses = self._addresses(servers)
        coordinator = self._ready.get(("coordinator", "0"))
        self._progress.introduce(addresses, coordinator)
        self._roles += [starter.worker(n, c, addresses, coordinator, self._plan) for n, c in enumerate(self._clients)]
        deadline = time.monotonic() + job.runner.start_timeout
        while self._open("worker"):
            self._listen(0.2)
            self._look()
            self._check_begun(deadline)
            self._end_the_hung()
        for kind in LISTENERS:
            for role in self._open(kind):
                role.process.terminate()
            while self._open(kind):
                self._listen(1.0)

    def _check_network(self) -> None:
        """Look for mistakes that only the network shows: here if it was planned before, else in a process with torch."""
        if self._found is None:
            self._roles.append(roles.start_check(self._job, self._log_dir))
            return
        self._take(entry("check", "0", described(self._found, self._job)))

    def _starter(self) -> Starter:
        orders = self._orders
        if orders.script is None:
            return BuiltIn(self._job, self._folder, self._log_dir, orders.allow)
        return Scripted(orders.script, orders.script_args, self._folder, self._log_dir, orders.allow)

    def _addresses(self, servers: list[Role]) -> list[str]:
        """Wait until the network is checked, and the coordinator and every server listen; return where the servers do."""
        limit = self._job.runner.start_timeout
        deadline = time.monotonic() + limit
        while (who := self._awaited()) is not None:
            if time.monotonic() > deadline:
                raise RoleError(who, _late(limit, self._orders.script))
            self._listen(0.2)
            if self._mistakes:
                raise JobError(self._mistakes)
        return [self._ready["server", r.name] for r in servers]

    def _awaited(self) -> str | None:
        """Return who has to come up before the workers are started."""
        late = (
            f"{r.kind} {r.name}" for r in self._roles if r.kind in LISTENERS and (r.kind, r.name) not in self._ready
        )
        return next(late, "the network's check" if self._mistakes is None else None)

    def _check_begun(self, deadline: float) -> None:
        """Make sure that scripts have called `fedps.init`; built-in workers say so as they begin."""
        if time.monotonic() < deadline:
            return
        for role in self._open("worker"):
            if ("worker", role.name) not in self._begun:
                raise RoleError(f"worker {role.name}", _late(self._job.runner.start_timeout, self._orders.script))

    def _end_the_hung(self) -> None:
        """Wait no longer for workers that are silent once all others are done: they hang.

        Raises:
            RoleError: names one of them.
        """
        runner, now = self._job.runner, time.monotonic()
        hung = self._open("worker")
        if len(hung) == len(self._clients):
            return
        for role in hung:
            patience = runner.step_timeout + runner.reconnect_timeout
            patience += 0.0 if role.name in self._silent else runner.start_timeout
            if now - self._spoke.get(role.name, now) <= patience:
                return
        for role in hung:
            reason = f"hangs: it has said nothing for long, and all others are done; its log is {role.log}"
            self._take(entry("worker", role.name, Failed(reason)))

    def _open(self, kind: str) -> list[Role]:
        return [r for r in self._roles if r.kind == kind and r.open]

    def _listen(self, timeout: float) -> None:
        """Take the events that are there; notice roles that ended."""
        pipes = {r.pipe: r for r in self._roles if r.open}
        for pipe in wait(list(pipes), timeout):
            role = pipes[pipe]  # type: ignore[index]
            event = role.read()
            if event is None:
                self._ended(role)
            else:
                self._take(entry(role.kind, role.name, event))

    def _take(self, told: Entry) -> None:
        who, event = (told.role, told.id), told.event
        if told.role == "worker":
            self._spoke[told.id] = time.monotonic()
            self._silent.discard(told.id)
        self._ledger.take(told)
        self._journal.write(told)
        self._progress.take(told)
        match event:
            case events.Started():
                self._begun.add(who)
            case events.Done():
                self._done.add(who)
            case events.Lost(client=client) | events.LeftBehind(client=client) | events.Suspended(client=client):
                self._silent.add(client)
            case events.Ready(address=address):
                self._ready[who] = _reachable(address)
            case events.Checked(mistakes=mistakes, plan=plan):
                self._mistakes, self._plan = mistakes, Path(plan) if plan else None
            case Failed():
                self._failed(*who, event)

    def _ended(self, role: Role) -> None:
        role.process.join(roles.PATIENCE)
        code, said = role.process.exitcode, ""
        if role.kind == "worker" and role.name in self._ledger.failed:
            return
        if code:
            self._take(entry(role.kind, role.name, self._death(role, code)))
        elif role.kind == "worker" and ("worker", role.name) not in self._done:
            said = "ended without training; a script calls fedps.init().run(), or .client().run() in workers"
        elif role.kind in LISTENERS and (self._open("worker") or (role.kind, role.name) not in self._ready):
            said = "ended before the workers did"
            said += "; a script calls fedps.init().run() in every role" if self._orders.script else ""
        if said:
            self._take(entry(role.kind, role.name, Failed(said)))

    def _death(self, role: Role, code: int) -> Failed:
        """Return the event of a role that died without a word, or whose last words are in its log."""
        reason, told = last_words(role.log) if self._orders.script and code > 0 else ("", "")
        died = reason or (f"died with signal {-code}" if code < 0 else f"ended with exit code {code}")
        return Failed(f"{died}; its log is {role.log}", told)

    def _failed(self, kind: str, name: str, failed: Failed) -> None:
        """Stop the run, or go on without a worker once all have begun to train."""
        if failed.in_job and kind in LISTENERS and not self._open("worker"):
            raise JobError([f"{kind} {name}: {line}" for line in failed.error.splitlines()])
        error = RoleError(f"{kind} {name}", failed.error, failed.traceback)
        self._error = self._error or error
        self._progress.say(f"{error}\n{error.traceback}".rstrip())
        begun = bool(self._ledger.started())
        left = [r for r in self._open("worker") if r.name not in self._ledger.failed]
        if kind != "worker" or not begun or not left:
            raise error

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        self._ledger.weigh(*weigh(self._roles))
        self._tell_epochs()

    def _tell_epochs(self) -> None:
        """Show each epoch once all its clients have been evaluated."""
        for result in self._ledger.rounds[self._told :]:
            self._progress.evaluated(result)
        self._told = len(self._ledger.rounds)

    def _close(self) -> dict[str, Any]:
        self._tell_epochs()
        summary = self._ledger.summary(time.time(), str(self._error) if self._error else None)
        summary |= {"run_dir": str(self._folder), "log_dir": str(self._log_dir)}
        self._journal.write(entry("launcher", "", Closed(summary["status"], summary["error"])))
        self._journal.close()
        text = json.dumps(summary, indent=1)
        write_whole(self._folder / "summary.json", f"{text}\n".encode(), PUBLIC)
        write_report(self._folder)
        self._progress.close(summary, str(self._folder))
        if self._as_json:
            print(json.dumps(summary), flush=True)
        return summary


def _reachable(address: str) -> str:
    host, _, port = address.rpartition(":")
    return str(Address(host.strip("[]"), int(port)).reachable)


def _late(limit: float, script: Path | None) -> str:
    remedy = " or see whether the script calls fedps.init()" if script else " or look at its log"
    return f"did not come up within {limit:g} s; raise runner.start_timeout{remedy}"
