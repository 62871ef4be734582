"""A run from start to end: servers, coordinator, workers, one loop that watches them, and a folder that tells what happened."""

import json
import time
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

from fedps.config import Job
from fedps.config.files import client_files_of
from fedps.data.read.client import check_files
from fedps.errors import DataError, JobError, RoleError
from fedps.events import events
from fedps.events.events import Closed, Entry, Failed, now, stamp
from fedps.events.journal import JOURNAL, Journal
from fedps.events.ledger import Ledger
from fedps.launch.addresses import Address, check_protected, hold
from fedps.launch.folder import (
    can_go_on,
    check_places,
    discard,
    go_on,
    lack,
    make_log_folder,
    make_run_folder,
    write_end,
)  # fmt: skip
from fedps.launch.local.processes import AGAIN, PATIENCE, Child, fork_server, start_check, start_role
from fedps.launch.local.role import RoleSpec, check_classes, runs_own_classes
from fedps.launch.local.scripts import start_script
from fedps.launch.orders import PLAIN, Orders
from fedps.launch.progress import Progress
from fedps.launch.restarts import Due, Restarts
from fedps.launch.resuming import CUT, Resumption
from fedps.launch.watch import LISTENERS, Memory, Watch
from fedps.models.network import Plan
from fedps.training.plan import described, find_plan, make_plan

LOOK_EVERY = 1.0  # seconds between two looks at memory
ANYWHERE = Address("127.0.0.1", 0)


def run(
    job: Job,
    run_dir: Path | None = None,
    in_process: bool = False,
    as_json: bool = False,
    orders: Orders = PLAIN,
    resumed: Resumption | None = None,
) -> dict[str, Any]:
    """Run a job and return its summary; a failed run's summary says so in `status` and `error`.

    Args:
        job: the resolved job.
        run_dir: the run's folder, by default `runs/<job>-<time>`.
        in_process: servers and workers in this process, for debuggers.
        as_json: show nothing but the summary, as one JSON object on standard output.
        orders: what else the command line, or the caller, says.
        resumed: the run that goes on, with its job and its folder; None begins one.

    Raises:
        JobError: a folder cannot be used, an address is taken, or the job does not fit its network.
        DataError: files cannot be read or scored, or it is not clear whose they are.
        KeyboardInterrupt: the run was stopped from outside; all its processes are gone.
    """
    began = now()
    clients = client_files_of(job)  # two files of one client are told before a folder is made
    if in_process:
        job = job.keeping_nothing()
    else:
        check_places(job)
        check_protected(job.security, _listeners(job, orders), clients)
    plan = None if in_process else find_plan(job)
    # first of all the fork server: it imports while everything else begins
    with nullcontext() if in_process else fork_server(torch=plan is None):
        if orders.log_dir is not None:
            make_log_folder(orders.log_dir)
        folder = resumed.folder if resumed else make_run_folder(job, run_dir)
        return Launch(job, folder, began, as_json, orders, plan, resumed).run(in_process)


def _listeners(job: Job, orders: Orders) -> dict[tuple[str, str], Address | None]:
    servers = orders.server_at or [None] * job.runner.server_num
    found: dict[tuple[str, str], Address | None] = {("server", str(k)): at for k, at in enumerate(servers)}
    return found | ({("coordinator", "0"): orders.coordinator_at} if job.runner.with_coordinator else {})


class Launch:
    """One run: its roles, its journal and its ledger."""

    def __init__(
        self, job: Job, folder: Path, began: float, as_json: bool, orders: Orders = PLAIN, plan: Plan | None = None,
        resumed: Resumption | None = None,
    ) -> None:  # fmt: skip
        self._plan = plan  # of a built-in network, made by an earlier run
        self._job, self._folder, self._as_json, self._orders = job, folder, as_json, orders
        self._log_dir = (orders.log_dir or folder / "log").resolve()
        self._clients = list(client_files_of(job))
        self._resumed, self._cut = resumed, resumed.cut if resumed else None
        self._ledger = Ledger(job, resumed.entries[0].time if resumed and resumed.entries else began)
        self._journal = resumed.journal if resumed else Journal(folder / JOURNAL)
        self._progress = Progress(job, self._clients, quiet=as_json or orders.quiet)
        self._watch, self._memory = Watch(job, scripted=orders.script is not None), Memory()
        self._restarts, self._ports = Restarts(job.runner), ExitStack()
        self._checked: events.Checked | None = None  # the job's network
        self._looked, self._shown = 0.0, 0  # when memory was, s, monotonic, and how many rounds
        self._kept = 0  # rounds in the journal
        self._error: RoleError | None = None

    def run(self, in_process: bool) -> dict[str, Any]:
        """Run to the end, whatever it is, and close the folder.

        Raises:
            JobError: the job does not fit its network, a class of it is not there, or an address is taken; nobody trained,
                and no folder is left but that of a run that was to go on.
            DataError: the same for files that cannot be read, or scored.
        """
        interrupted = False
        with self._progress, self._ports:
            try:
                if self._resumed:
                    self._take_up(self._resumed)
                if self._orders.script:
                    self._take(stamp("launcher", "", self._orders.script))
                if not self._resumed or self._cut:
                    self._in_process() if in_process else self._in_processes()
            except RoleError as error:
                self._error = error
            except OSError as error:
                self._error = RoleError("launcher", lack(self._folder, error))
            except (JobError, DataError):
                self._watch.stop()  # who still writes to the folder
                self._journal.close()
                if not self._resumed:
                    discard(self._folder)
                raise
            except KeyboardInterrupt:
                interrupted = True
                self._error = RoleError("launcher", "stopped by a signal")
            finally:
                for entry in self._watch.stop():
                    self._take(entry)
        summary = self._close()
        if interrupted:
            raise KeyboardInterrupt(*[f"stopped; {go_on(self._folder)}"] * can_go_on(self._folder))
        return summary

    def _take_up(self, resumed: Resumption) -> None:
        """Take up what was told of a run's earlier parts, and say from where it goes on."""
        self._log_dir.mkdir(parents=True, exist_ok=True)
        for entry in resumed.entries:
            self._ledger.take(entry)
        self._kept = self._shown = len(self._ledger.rounds)
        if resumed.cut and resumed.event:
            resumed.deal_out()
            resumed.job.save(self._folder / "job.yaml")
            resumed.cut.write(self._folder)
            self._take(stamp("launcher", "", resumed.event))
        (self._folder / "summary.json").unlink(missing_ok=True)  # of the part that was broken off

    def _in_processes(self) -> None:
        """Start servers and the coordinator, then the workers; listen until these have left, and end the others."""
        job, orders, watch = self._job, self._orders, self._watch
        self._check_network()
        if runs_own_classes(job):
            self._await_started()
        for shard, at in enumerate(orders.server_at or (ANYWHERE,) * job.runner.server_num):
            self._start("server", shard, bind=self._held(at), resume=CUT * bool(self._cut))
        if job.runner.with_coordinator:
            round_ = self._cut.round if self._cut else None
            bind = self._held(orders.coordinator_at or ANYWHERE)
            self._start("coordinator", 0, bind=bind, resume="" if round_ is None else str(round_))
        self._check_files()  # while they come up
        plan = self._await_started()
        servers, coordinator = self._addresses()
        self._progress.introduce(servers, coordinator)
        for number, client in enumerate(self._clients):
            self._start(
                "worker", number, client=client, servers=tuple(servers), coordinator=coordinator or "", plan=plan,
                resume=self._cut.checkpoint(client) if self._cut else "",
            )  # fmt: skip
        while watch.open("worker") or self._restarts.waiting:
            self._listen(0.2)
            self._look()
            watch.check_begun()
            for entry in [] if self._restarts.waiting else watch.hung():
                self._take(entry)
        self._end_listeners()

    def _in_process(self) -> None:
        from fedps.launch.inprocess import run_in_process  # noqa: PLC0415  (may import torch into this process)

        check_classes(self._job)
        self._check_files()
        plan = make_plan(self._job)
        self._take(stamp("check", "0", described(plan, self._job)))
        try:
            run_in_process(self._job, self._folder, self._take, self._orders.allow, plan=plan)
        except Exception as error:
            failed = Failed.of(error)
            if failed.in_data and self._void():
                raise
            self._progress.say(f"{failed.error}\n{failed.traceback}".rstrip())
            raise RoleError("a role", failed.error, failed.traceback) from error

    def _check_files(self) -> None:
        for note in check_files(self._job, self._orders.allow):
            self._progress.say(f"note: {note}")

    def _start(self, role: str, number: int, **facts: Any) -> None:
        """Start a built-in role, or the user's script in its place."""
        log = self._log_dir / f"{role}log.{number}"
        if not self._resumed:
            log.unlink(missing_ok=True)  # of another run, where the folder of logs is not ours alone
        spec = RoleSpec(role, number, self._folder / "job.yaml", self._folder, allow=self._orders.allow, **facts)
        self._watch.add(self._play(spec, log))

    def _start_again(self, due: Due) -> None:
        role, log = due.role, due.role.log
        role.process.kill()  # it has failed, but it may hang
        role.process.join(PATIENCE)
        with suppress(OSError), log.open("a", encoding="utf-8") as file:  # the event tells it, too
            file.write(f"{AGAIN}{due.event.reason.splitlines()[0]}\n")
        self._take(stamp(role.kind, role.name, due.event))
        self._watch.add(self._play(due.spec, log))

    def _play(self, spec: RoleSpec, log: Path) -> Child:
        script = self._orders.script
        return start_role(spec, log, self._job) if script is None else start_script(spec, log, script)

    def _held(self, at: Address) -> str:
        """Return where a role is to listen, at a port that stays its own while it is started again."""
        with suppress(OSError):  # which the role tells
            door, at = hold(at)
            self._ports.enter_context(door)
        return str(at)

    def _check_network(self) -> None:
        """Look for mistakes that only the network shows: here if it was planned before, else in a process with torch.

        Classes of the user's own are loaded there too: their code runs in the processes of a run alone.
        """
        if self._plan is None or runs_own_classes(self._job):
            log = self._log_dir / "checklog.0"
            if not self._resumed:
                log.unlink(missing_ok=True)
            self._watch.add(start_check(self._job, log))
        else:
            self._take(stamp("check", "0", described(self._plan, self._job)))

    def _await_started(self) -> Path | None:
        """Wait until the network is checked, and what was started listens; return the plan's file, if it was kept.

        Raises:
            JobError: the job does not fit its network, or a class of it is not there.
            RoleError: one does not come up in time.
        """
        deadline = time.monotonic() + self._job.runner.start_timeout
        while (late := self._watch.late()) or not self._checked:
            if time.monotonic() > deadline:
                raise self._watch.overdue(late or "the network's check")
            self._listen(0.2)
            if self._checked and self._checked.mistakes:
                raise JobError(self._checked.mistakes)
        return Path(self._checked.plan) if self._checked.plan else None

    def _addresses(self) -> tuple[list[str], str | None]:
        """Return where the servers and the coordinator listen."""
        at = self._watch.addresses
        return [at["server", str(k)] for k in range(self._job.runner.server_num)], at.get(("coordinator", "0"))

    def _end_listeners(self) -> None:
        """Let the coordinator end, then the servers.

        Raises:
            RoleError: one does not.
        """
        runner = self._job.runner
        patience = runner.start_timeout + runner.step_timeout  # as long as it may take to read a model, or to answer
        for kind in LISTENERS:
            asked, deadline = list[Child](), time.monotonic() + patience
            while (left := self._watch.open(kind)) or self._restarts.waiting:
                for role in left:
                    if role not in asked and (kind, role.name) in self._watch.addresses:
                        role.process.terminate()
                        asked.append(role)
                if left and time.monotonic() > deadline:
                    raise RoleError(
                        f"{kind} {left[0].name}",
                        f"has not ended {patience:g} s after the last worker, and was killed; its log is {left[0].log};"
                        " if it was still at work, raise runner.step_timeout",
                    )
                self._listen(0.2)

    def _listen(self, timeout: float) -> None:
        for entry in self._watch.listen(timeout):
            self._take(entry)
        for due in self._restarts.due():
            self._start_again(due)

    def _take(self, entry: Entry) -> None:
        role = self._watch.roles.get((entry.role, entry.id))
        if role is not None and isinstance(entry.event, Failed) and self._plans(role, entry.event):
            self._keep(entry)  # nothing has come of it yet: `Restarted` tells, if it does
            return
        self._ledger.take(entry)
        self._keep(entry)
        for figures in self._ledger.rounds[self._kept :]:
            self._keep(stamp("launcher", "", events.Completed(figures["round"], figures)))
        self._kept = len(self._ledger.rounds)
        self._progress.take(entry)
        match entry.event:
            case events.Checked():
                self._checked = entry.event
            case Failed():
                self._failed(entry.role, entry.id, entry.event)

    def _keep(self, entry: Entry) -> None:
        if why := self._journal.keep(entry):
            self._progress.say(f"{self._folder / JOURNAL} is not written, but later: {why}")

    def _plans(self, role: Child, failed: Failed) -> bool:
        return self._restarts.plan(role, failed, self._watch.under_way(role))

    def _failed(self, kind: str, name: str, failed: Failed) -> None:
        """Stop the run, or go on without a worker once all have begun to train.

        Raises:
            JobError: it is a mistake in the job, found before there were workers.
            DataError: it is a mistake in the data, found before all have begun to train.
            RoleError: the run has to stop.
        """
        if failed.in_job and kind in LISTENERS and not self._watch.all("worker"):
            raise JobError([f"{kind} {name}: {line}" for line in failed.error.splitlines()])
        if failed.in_data and self._void():
            raise DataError(f"{kind} {name}: {failed.error}")
        error = RoleError(f"{kind} {name}", failed.error, failed.traceback)
        self._error = self._error or error
        self._progress.say(f"{error}\n{error.traceback}".rstrip())
        working = self._watch.working() or self._restarts.waiting
        if kind != "worker" or not self._ledger.started() or not working:
            raise error

    def _void(self) -> bool:
        """Whether nothing has come of the run so far: not all have begun to train, and no epoch has ended."""
        return not self._ledger.started() and not self._ledger.rounds

    def _look(self) -> None:
        """Look at memory, and show the rounds that are complete, once in `LOOK_EVERY` seconds."""
        if time.monotonic() - self._looked > LOOK_EVERY:
            self._looked = time.monotonic()
            self._ledger.weigh(*self._memory.look(list(self._watch.roles.values())))
            self._show_rounds()

    def _show_rounds(self) -> None:
        for figures in self._ledger.rounds[self._shown :]:
            self._progress.evaluated(figures)
        self._shown = len(self._ledger.rounds)

    def _close(self) -> dict[str, Any]:
        self._show_rounds()
        summary = self._ledger.summary(now(), str(self._error) if self._error else None)
        summary |= {"run_dir": str(self._folder), "log_dir": str(self._log_dir)}
        self._keep(stamp("launcher", "", Closed(summary["status"], summary["error"])))
        patience = 0.0 if self._error else self._job.runner.step_timeout
        try:
            write_end(self._folder, self._journal, summary, patience, self._progress.say)
        except OSError as error:
            summary |= {"status": "failed", "error": summary["error"] or f"launcher: {lack(self._folder, error)}"}
        finally:
            self._journal.close()
        self._progress.close(summary, str(self._folder))
        if self._as_json:
            print(json.dumps(summary), flush=True)
        return summary
