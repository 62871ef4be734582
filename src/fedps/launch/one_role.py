"""One role in the foreground, for deployments: each is started by hand, on its machine, in any order.

Not all of the job's data is on that machine: a client has its own, a server none. So the counts that are otherwise
checked against the data folder have to be said there. What a role needs is waited for, with a limit; what it does is
printed, and appended to its own file of events in the run's folder, which several roles may share. It ends with a result:
a worker with its own figures, whoever hears of all clients with the run's.
"""

import io
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, TextIO

from fedps.config import Allow, Job, load_job
from fedps.config.files import client_files_of
from fedps.config.loading import read_tree
from fedps.data.read.client import check_files
from fedps.errors import DataError, JobError, LostError, RoleError
from fedps.events import events
from fedps.events.events import Event, Failed, Report, Started, now, stamp
from fedps.events.journal import Journal
from fedps.events.ledger import Ledger, unsaved
from fedps.launch.addresses import Address
from fedps.launch.folder import make_log_folder, share_run_folder
from fedps.launch.local.role import NEWEST
from fedps.launch.progress import trouble
from fedps.net.protection import protect
from fedps.pages.report import try_report
from fedps.pages.words import facts
from fedps.storage.whole import PUBLIC, write_whole
from fedps.types import ClientId

FOLDERS = ("runner.train_data_dir", "runner.test_data_dir")
ELSEWHERE = (*FOLDERS, "distillation.public_data", "runner.dump_fields_path")  # what servers do without
SAY = "say how many clients take part in all: --worker_num=10, or runner.worker_num in the job file"
SAY_EVERY, TRY_EVERY = 3.0, 0.2  # seconds


class Partial(NamedTuple):
    """A job, and whether its number of workers was counted in the data, for want of being said."""

    job: Job
    counted: bool


def load_here(path: Path, overrides: Sequence[str] = ()) -> Partial:
    """Read a job for one role; unlike `load_job`, it does not ask for data that other machines hold.

    Args:
        path: the job file.
        overrides: `dotted.key=value`; later ones win.

    Raises:
        JobError: all mistakes, or the number of workers is neither said nor shown by the data.
    """
    section = read_tree(path, overrides)[0].get("runner")
    runner = section if isinstance(section, dict) else {}
    count = runner.get("worker_num")
    try:
        return Partial(load_job(path, overrides), counted=count is None)
    except JobError as error:
        mistakes = error.mistakes
    if not isinstance(count, int) or not isinstance(runner.get("train_data_dir"), str):
        no_data = [m for m in mistakes if m.startswith(tuple(f"{folder}: " for folder in FOLDERS))]
        if count is None and no_data:
            mistakes = [m for m in mistakes if m not in no_data]
            mistakes.append(f"runner.worker_num: is missing, and no data here shows it ({no_data[0]}); {SAY}")
        raise JobError(mistakes)
    return Partial(load_job(path, overrides, elsewhere=ELSEWHERE), counted=False)


def find_client(here: Partial, client: str | None, number: int | None) -> tuple[ClientId, int]:
    """Return the client that a worker shall train for, and its number.

    Args:
        here: the job.
        client: its name; None takes the `number`-th of all clients.
        number: the worker's number; None takes the client's place among those whose data is here.

    Raises:
        JobError: neither is given, there is no such client here, or it cannot be known how many there are in all.
        DataError: the data folder cannot be read.
    """
    names = list(client_files_of(here.job))
    listed = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
    where = f"{here.job.runner.train_data_dir} holds {listed or 'no client'}"
    if client is None and number is None:
        raise JobError(f"whose worker is this? give --client NAME, or --worker_id K; {where}")
    if here.counted and len(names) == 1:
        raise JobError(f"runner.worker_num: is missing: {where} alone; {SAY}")
    if client is not None:
        if client not in names:
            raise JobError(f"--client {client}: this client's data is not here; {where}")
        return ClientId(client), names.index(ClientId(client)) if number is None else number
    if len(names) != here.job.runner.worker_num:
        raise JobError(
            f"--worker_id {number}: not all clients' data is here, so name the client with --client; {where}"
        )
    if number is None or not 0 <= number < len(names):
        raise JobError(f"--worker_id {number}: workers are numbered from 0 to {len(names) - 1}")
    return names[number], number


def serve_here(
    job: Job, shard: int, at: Address, run_dir: Path | None, log_dir: Path | None, stay: bool, standby: bool = False
) -> None:
    """Be one server, until every client has come and left, or SIGTERM; what was trained by then is saved.

    Args:
        job: as `load_here` reads it.
        shard: the server's number, from 0.
        at: where it listens.
        run_dir: the run's folder, by default `runs/<job>`.
        log_dir: where a copy of what it prints goes.
        stay: go on when all have left.
        standby: while another process is this server, on the same folder, follow it, and take its place once it has ended.

    Raises:
        JobError: the address or a folder cannot be used.
        RoleError: the server failed.
    """
    with _stage(job, "server", str(shard), shard, run_dir, log_dir, standby) as (folder, report):
        from fedps.server.serve import run_server  # noqa: PLC0415  (each role imports its own room)

        run_server(job, shard, str(at), folder, report, stay=stay, keep=True, standby=standby)


def coordinate_here(job: Job, at: Address, run_dir: Path | None, log_dir: Path | None, stay: bool) -> None:
    """Be the coordinator, until every client has come and left, or SIGTERM; arguments and errors as for `serve_here`."""
    with _stage(job, "coordinator", "0", 0, run_dir, log_dir) as (folder, report):
        from fedps.coordinator.serve import run_coordinator  # noqa: PLC0415

        run_coordinator(job, str(at), report, stay=stay, run_dir=folder)


def work_here(
    job: Job, client: ClientId, number: int, servers: Sequence[Address], coordinator: Address | None,
    run_dir: Path | None, log_dir: Path | None, allow: Allow, anew: bool = False,
) -> None:  # fmt: skip
    """Be the worker of one client, from start to end; one that was started before in the same folder goes on where it was.

    Args:
        job: as `load_here` reads it.
        client: whose worker this is.
        number: of the worker; its logs and dumps carry it.
        servers: where every server listens, in the order of their numbers.
        coordinator: where the coordinator does, None without one.
        run_dir: the run's folder, by default `runs/<job>`.
        log_dir: where a copy of what it prints goes.
        allow: what the person at the command line allows.
        anew: begin from the beginning, whatever an earlier process has left.

    Raises:
        JobError: a folder cannot be used, or the job does not fit its network.
        DataError: the client's data cannot be read.
        RoleError: a server or the coordinator did not come up, or training failed.
    """
    protect(job.security, "client", client, map(str, [*servers, *([coordinator] if coordinator else [])]))
    for note in check_files(job, allow, client):  # before anything is made, or anybody waited for
        print(f"note: {note}", flush=True)
    with _stage(job, "worker", client, number, run_dir, log_dir) as (folder, report):
        from fedps.client.life import FLClient  # noqa: PLC0415
        from fedps.client.own_client import client_class, make_client  # noqa: PLC0415
        from fedps.training.plan import make_plan  # noqa: PLC0415

        plan = make_plan(job)  # before anybody is waited for: it may be wrong, or torch missing
        begin = partial(
            FLClient.__init__, job=job, client=client, servers=[str(at) for at in servers], run_dir=folder, report=report,
            allow=allow, number=number, plan=plan, coordinator=None if coordinator is None else str(coordinator),
            keep_shared=True, resume="" if anew else NEWEST,
        )  # fmt: skip
        life = make_client(client_class(job), begin)
        limit = job.runner.start_timeout
        deadline = time.monotonic() + limit
        needed = [(f"server {k}", at, f"fedps server JOB.yaml --shard {k} …") for k, at in enumerate(servers)]
        if coordinator is not None:
            needed.append(("coordinator", coordinator, "fedps coordinator JOB.yaml …"))
        for role, at, command in needed:
            if not wait_for(role, at, deadline):
                epoch = None if anew else life.save_left()
                saved = f"; epoch {epoch}, which was not saved here before, is now: if it was the last, all is done"
                raise LostError(
                    f"{role} {at}: nobody listens there after {limit:g} s: start it with `{command}`, check the"
                    f" address, or raise runner.start_timeout{saved if epoch else ''}"
                )
        life.run()


def wait_for(role: str, at: Address, deadline: float) -> bool:
    """Wait until somebody listens at an address, saying so now and then; return whether somebody does.

    Args:
        role: who that is, for the message.
        at: the address.
        deadline: when to give up, seconds of the monotonic clock.
    """
    spoke = -SAY_EVERY  # time of the last word, seconds of the monotonic clock
    while True:
        try:
            socket.create_connection(at, timeout=max(TRY_EVERY, min(SAY_EVERY, deadline - time.monotonic()))).close()
        except OSError:
            now = time.monotonic()
            if now > deadline:
                return False
            if now - spoke >= SAY_EVERY:
                print(f"waiting for {role} {at} …", flush=True)
                spoke = now
            time.sleep(TRY_EVERY)
        else:
            return True


class Tee(io.TextIOBase):
    """Writes to several places at once, each line when it is whole; what a place does not take is lost there."""

    def __init__(self, *places: TextIO) -> None:
        self._places = places

    def write(self, text: str) -> int:
        """Write text to all places."""
        for place in self._places:
            with suppress(OSError):  # of a full disk: it ends nobody that something is not said
                place.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush all places."""
        for place in self._places:
            with suppress(OSError):
                place.flush()


def words(role: str, event: Event) -> str | None:
    """Return a line for people, for the events that they should see; a worker's and the coordinator's logs say the rest."""
    match event:
        case events.Ready(address=address):
            return f"{role} listens on {address}, and waits for workers"
        case events.Saved(epoch=epoch, folder=folder):
            return f"{role}: epoch {epoch} saved in {folder}"
        case events.Unsaved() if not role.startswith("worker"):  # whose log says it
            return f"{role}: {unsaved(event)}"
        case events.Stopped():
            return f"{role} has stopped"
        case events.Done(bytes_sent=sent, bytes_received=received):
            return f"{role} is done: {sent:,} bytes sent, {received:,} received"
    sentence = trouble(event)
    return None if sentence is None else f"{role}: {sentence}"


@contextmanager
def _stage(
    job: Job, role: str, name: str, number: int, run_dir: Path | None, log_dir: Path | None, standby: bool = False
) -> Iterator[tuple[Path, Report]]:
    """Open a role's folder, events and log; tell its failure as the launcher would. Who stands by tells once it serves."""
    who, silent = f"{role} {name}", standby
    folder = share_run_folder(job, run_dir)
    with ExitStack() as stack:
        places = [sys.stdout]
        if log_dir is not None:
            path = make_log_folder(log_dir) / f"{role}log.{number}"
            places.append(stack.enter_context(path.open("a", encoding="utf-8", buffering=1)))
        stack.enter_context(redirect_stdout(Tee(*places)))
        try:
            journal = Journal(folder / f"events-{role}-{name}.jsonl")
        except OSError as error:
            raise JobError(f"--run_dir {folder}: cannot be written: {error.strerror}; choose another folder") from error
        stack.callback(journal.close)
        ledger = Ledger(job, now())
        tell = _reporter(role, name, journal, ledger)

        def report(event: Event) -> None:
            nonlocal silent
            if silent and isinstance(event, events.Ready):
                silent = False
                tell(Started(os.getpid()))
            if not silent:
                tell(event)

        def conclude(error: str | None) -> None:
            if not silent:
                _conclude(job, role, name, folder, ledger, error)

        report(Started(os.getpid()))
        try:
            yield folder, report
            conclude(None)
        except KeyboardInterrupt:
            conclude("stopped by a signal")
            raise
        except Exception as error:
            failed = Failed.of(error)
            report(failed)
            if isinstance(error, JobError | DataError):
                raise
            with suppress(OSError):  # which may be what failed
                conclude(f"{who}: {failed.error}")
            raise RoleError(who, failed.error, failed.traceback) from None


def _conclude(job: Job, role: str, name: str, folder: Path, ledger: Ledger, error: str | None) -> None:
    """Write and print what came of a run: a worker its own figures, the coordinator, or else server 0, what it knows of all.

    Raises:
        OSError: it cannot be written.
    """
    teller = ("coordinator", "0") if job.runner.with_coordinator else ("server", "0")
    if role != "worker" and (role, name) != teller:
        return
    summary = ledger.summary(now(), error) | {"run_dir": str(folder), "log_dir": str(folder / "log")}
    stem = f"summary-worker-{name}" if role == "worker" else "summary"
    write_whole(folder / f"{stem}.json", f"{json.dumps(summary, indent=1)}\n".encode(), PUBLIC)
    if role != "worker" and (why := try_report(folder, f"events-{role}-{name}.jsonl")):
        print(f"{role} {name}: {why}")
    for key, value in facts(summary).items():
        print(f"{role} {name}: {key}: {value}")
    print(f"{role} {name}: {summary['status']}; run folder: {folder}", flush=True)


def _reporter(role: str, name: str, journal: Journal, ledger: Ledger) -> Report:
    lock = threading.Lock()

    def report(event: Event) -> None:
        with lock:
            entry = stamp(role, name, event)
            ledger.take(entry)
            if why := journal.keep(entry):  # what is told of a role's work does not end it
                print(f"{role} {name}: its events are not written, but later: {why}", flush=True)
            if (line := words(f"{role} {name}", event)) is not None:
                print(line, flush=True)

    return report
