"""A run that was broken off goes on in its folder: whether it can, with which job, and from which moment each client does.

Where clients wait for each other at every window or round, and where there is one alone, all go on from the newest moment
of which all have a checkpoint, and servers from what they held then: the run comes to the same numbers as one that was not
broken off. Elsewhere servers keep all that they have, and each client goes on from its own newest checkpoint.
"""

import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from fedps.client.checkpoint import Moment, checkpoints_of
from fedps.config import Job, load_job
from fedps.config.files import client_files_of
from fedps.config.loading import read_tree, resolve
from fedps.config.shared import first_difference, lasting_part, shared_part
from fedps.config.source import read
from fedps.coordinator.resuming import learned_in
from fedps.errors import DataError, JobError
from fedps.events import events
from fedps.events.events import Entry, now
from fedps.events.journal import JOURNAL, Journal, read_entries
from fedps.events.ledger import last_told
from fedps.launch.folder import is_run
from fedps.launch.local.processes import PATIENCE
from fedps.launch.local.role import NEWEST
from fedps.server.resharding import deal_out, settle
from fedps.serving.saved_run import read_job
from fedps.storage import snapshot
from fedps.storage.whole import write_whole
from fedps.types import ClientId

CUT = "resume.json"  # in the run's folder: from where all go on, for the servers
START = Moment(0)


class Place(NamedTuple):
    """From where a client goes on: a moment, and the number of its last push by then."""

    moment: Moment
    sequence: int = 0

    @property
    def checkpoint(self) -> str:
        """The name of its checkpoint, empty where it begins anew."""
        return "" if self.moment == START else str(self.moment)


class Cut(NamedTuple):
    """From where a run goes on.

    Attributes:
        exact: whether servers go back to what they held when all clients were at one moment.
        clients: from where each goes on.
    """

    exact: bool
    clients: Mapping[ClientId, Place]

    @property
    def round(self) -> int | None:
        """The round that clients report, or go on with, in an exact resume."""
        if not self.exact:
            return None
        moment = max(place.moment for place in self.clients.values())
        return moment.epoch + (moment.batch > 0)

    def checkpoint(self, client: ClientId) -> str:
        """Return what a client takes up; one without a checkpoint goes on where the others are, if they or servers have begun."""
        begun = any(place.moment > START for place in self.clients.values())
        return self.clients[client].checkpoint or NEWEST * (begun or not self.exact)

    def event(self, broken_off: float) -> events.Resumed:
        """Return what the journal tells of it; `broken_off`: when the last was heard of the run, seconds since 1970."""
        moments = {client: place.moment for client, place in self.clients.items()}
        epochs, batches = ({client: moment[k] for client, moment in moments.items()} for k in (0, 1))
        return events.Resumed(broken_off, self.exact, epochs, batches)

    def write(self, run_dir: Path) -> None:
        """Write it for the servers.

        Raises:
            OSError: it cannot be written.
        """
        clients = {
            client: {"checkpoint": place.checkpoint, **place.moment._asdict(), "sequence": place.sequence}
            for client, place in self.clients.items()
        }
        text = json.dumps({"exact": self.exact, "clients": clients}, indent=1)
        write_whole(run_dir / CUT, f"{text}\n".encode())


class Resumption(NamedTuple):
    """A run that goes on.

    Attributes:
        folder: the run's.
        job: with which it goes on.
        journal: open for further entries; nobody else writes it.
        entries: of the journal, those that hold still, as what was done after the cut will be done again.
        cut: from where it goes on; None if all had ended but the launcher, and the run has only to be summed up.
        event: what the journal is told of it.
        before: the job that it went by.
        script: what plays the roles, unless they are built in.
    """

    folder: Path
    job: Job
    journal: Journal
    entries: Sequence[Entry]
    cut: Cut | None = None
    event: events.Resumed | None = None
    before: Job | None = None
    script: events.Scripted | None = None

    def deal_out(self) -> None:
        """Deal the servers' state out anew, where there are to be as many servers, or clients, as there were not.

        Raises:
            DataError: it is damaged, or in use.
            OSError: it cannot be written.
        """
        if self.before is None or self.cut is None:
            return
        same = self.before.runner.server_num == self.job.runner.server_num
        if same and shared_part(self.before) == shared_part(self.job):
            return
        cut = {client: place.sequence for client, place in self.cut.clients.items()} if self.cut.exact else None
        deal_out(self.before, self.job, self.folder, set(self.cut.clients), cut)


def reopen(
    run_dir: Path, job_file: Path | None = None, overrides: Sequence[str] = (), script: events.Scripted | None = None
) -> Resumption:
    """Take a run's folder up again.

    Args:
        run_dir: the folder.
        job_file: the job to go on with; None takes that of the folder.
        overrides: `dotted.key=value`, set over the job.
        script: to play the roles; None takes that of the run, if it had one.

    Raises:
        JobError: it is no run's, a run is at work in it, something is missing, it is of an older version, or another job's.
        DataError: the clients' files cannot be listed.
    """
    folder = run_dir.resolve()
    _check_there(folder)
    try:
        journal = Journal(folder / JOURNAL, alone=True)
    except BlockingIOError:
        raise JobError(f"--resume {folder}: a run is at work in it: wait for its end, or end it") from None
    except OSError as error:
        raise JobError(f"--resume {folder}: cannot be written: {error.strerror}; make it yours") from error
    try:
        settle(folder)  # nobody else does now
        theirs = _job_of(folder)
        job = _wanted(folder, theirs, job_file, overrides)
        _check_same(folder, theirs, job)
        told = list(_worth_keeping(folder / JOURNAL))
        _await_end(folder, told)
        script = _script_of(folder, told, script)
        if _is_over(folder, theirs, told):
            return Resumption(folder, job, journal, told, script=script)
        _check_whole(folder, theirs, told)
        cut = find_cut(job, folder, {entry.id for entry in told if entry.role == "worker"}, _begun(told))
        if job.runner.with_coordinator and cut.round:
            learned_in(folder, cut.round)
    except BaseException:
        journal.close()
        raise
    event = cut.event(told[-1].time if told else now())
    return Resumption(folder, job, journal, still_true(told, event), cut, event, theirs, script)


def find_cut(job: Job, run_dir: Path, took_part: set[str], begun: int = 0) -> Cut:
    """Return from where a run goes on.

    Args:
        job: with which.
        run_dir: its folder.
        took_part: clients that had begun.
        begun: epochs that one of them had behind it as it began another.

    Raises:
        JobError: the checkpoints of one that took part are gone.
    """
    runner = job.runner
    there = {client: dict(checkpoints_of(run_dir, client)) for client in client_files_of(job)}
    while True:
        newest = max((moment for moments in there.values() for moment in moments), default=START)
        old = {client: moments for client, moments in there.items() if moments or client in took_part}
        if max(newest.epoch, begun) > 1 and (without := [client for client, moments in old.items() if not moments]):
            raise JobError(
                f"--resume {run_dir}: private/{without[0]}/checkpoint is missing, or holds none that is whole: put the client's"
                f" own folder back, or go on without what was private to it by runner.warmup_model_path"
            )
        common = set.intersection(*map(set, old.values())) if old else set()
        common |= {START} if newest <= Moment(1) else set()
        exact = runner.lockstep or runner.sync_mode == "round" or runner.worker_num == 1
        if exact and common:
            moments = dict.fromkeys(old, max(common))
        else:
            exact, moments = False, {client: max(of, default=START) for client, of in old.items()}
        torn = [(c, m) for c, m in moments.items() if m != START and not _is_whole(run_dir, c, m)]
        for client, moment in torn:
            del there[client][moment]
        if not torn:
            at = dict.fromkeys(there, START) | moments
            return Cut(exact, {c: Place(m, there[c].get(m, 0)) for c, m in at.items()})


def _begun(told: Sequence[Entry]) -> int:
    return max((entry.event.epoch for entry in told if isinstance(entry.event, events.EpochBegin)), default=0)


def still_true(entries: Sequence[Entry], cut: events.Resumed) -> list[Entry]:
    """Leave out of a run's entries what is done again once it goes on from a cut."""
    last = (min if cut.exact else max)(cut.epochs.values(), default=0)
    complete = max((entry.event.round for entry in entries if isinstance(entry.event, events.Completed)), default=0)

    def holds(entry: Entry) -> bool:
        end = last_told(cut, ClientId(entry.id), complete)
        match entry.event:
            case events.EpochEnd(epoch=epoch):
                return epoch < end
            case events.Done() | events.Failed():
                return False
            case events.EvaluateBegin(epoch=epoch) | events.Evaluated(epoch=epoch):
                return epoch <= end
        return getattr(entry.event, "round", 0) <= last

    return [entry for entry in entries if holds(entry)]


def _is_whole(run_dir: Path, client: ClientId, moment: Moment) -> bool:
    folder = run_dir / "private" / client / "checkpoint"
    try:
        snapshot.load_arrays(folder, snapshot.stems(folder, str(moment))[0])
    except DataError:
        return False
    return True


def _worth_keeping(journal: Path) -> Iterator[Entry]:
    """Yield the entries of a journal that hold still after earlier cuts; of how far training had come, the first epoch's."""
    kept: list[Entry] = []
    for entry in read_entries(journal):
        if isinstance(entry.event, events.Resumed):
            kept = still_true(kept, entry.event)
        many = isinstance(entry.event, events.Progress) and entry.event.epoch
        if not many and not isinstance(entry.event, events.AtWork):
            kept.append(entry)
    yield from kept


def _check_there(folder: Path) -> None:
    """Make sure that a folder is that of a run which a launcher began.

    Raises:
        JobError: it is not.
    """
    if not is_run(folder):
        what = "is no run's folder" if folder.is_dir() else "there is no such folder"
        raise JobError(f"--resume {folder}: {what}; `fedps runs` lists the runs there are")
    missing = [name for name in ("job.yaml", JOURNAL) if not (folder / name).is_file()]
    if missing == [JOURNAL] and any(folder.glob("events-*.jsonl")):
        raise JobError(
            f"--resume {folder}: its roles were started one by one: start each again as before, with the same --run_dir"
        )
    if missing:
        raise JobError(f"--resume {folder}: {missing[0]} is missing: put it back, or name the folder of a run")


def _job_of(folder: Path) -> Job:
    """Return the job of a run that can go on.

    Raises:
        JobError: it cannot.
    """
    job, said = read_job(folder), read(folder / "job.yaml").get("runner", {})
    warm = "go on from a saved epoch by -o runner.warmup_model_path=RUN_DIR/model/EPOCH"
    if "limits" not in read(folder / "job.yaml"):  # which stands at its end
        raise JobError(f"--resume {folder}: job.yaml is cut off: put it back as it was")
    if "durability" not in said:
        raise JobError(f"--resume {folder}: is of an older version of fedps, which kept nothing to go on from: {warm}")
    if job.runner.durability == "none":
        raise JobError(f"--resume {folder}: runner.durability: none: nothing was kept to go on from: {warm}")
    return job


def _wanted(folder: Path, theirs: Job, job_file: Path | None, overrides: Sequence[str]) -> Job:
    if job_file is not None:
        job = load_job(job_file, overrides)
        if theirs.security.certs and not (job.security.certs or job.security.insecure):  # what was encrypted stays so
            job = job.model_copy(update={"security": theirs.security})
        return job
    if not overrides:
        return theirs
    return resolve(theirs.folder / f"{theirs.name}.yaml", *read_tree(folder / "job.yaml", overrides))


def _check_same(folder: Path, theirs: Job, job: Job) -> None:
    """Make sure that a run goes on with its own job.

    Raises:
        JobError: a key differs in which it must agree.
    """
    parts = (
        {"runner.with_coordinator": str(one.runner.with_coordinator), **lasting_part(one)} for one in (job, theirs)
    )
    if difference := first_difference(*parts):
        raise JobError(
            f"--resume {folder}: {difference}: a run goes on with its own job; leave JOB.yaml and -o out, or start another run"
        )


def _script_of(folder: Path, told: Sequence[Entry], script: events.Scripted | None) -> events.Scripted | None:
    """Return what plays the roles: the script that is named, else that of the run, if it had one.

    Raises:
        JobError: that is not there, or one is named for a run that had none.
    """
    before = next((entry.event for entry in reversed(told) if isinstance(entry.event, events.Scripted)), None)
    if script is not None and before is None and told:
        raise JobError(f"--resume {folder}: this run was played by no script: leave {script.script} out")
    if script is not None or before is None:
        return script
    if gone := [path for path in (before.script, before.folder) if not Path(path).exists()]:
        words = shlex.join(
            ["fedps", "run", "SCRIPT.py", "--resume", str(folder), *["--"] * bool(before.args), *before.args]
        )
        raise JobError(
            f"--resume {folder}: {gone[0]}, of this run's script, is not there: put it back, or name the script from the folder"
            f" in which it is to run: {words}"
        )
    return before


def _is_over(folder: Path, job: Job, told: Sequence[Entry]) -> bool:
    """Whether all clients were done, and all servers ended in order, which leave no state then."""
    done = {entry.id for entry in told if isinstance(entry.event, events.Done)}
    servers = range(job.runner.server_num)
    return done >= set(client_files_of(job)) and not any(_has_state(folder, number) for number in servers)


def _has_state(folder: Path, number: int) -> bool:
    """Whether a server has written anything that it could go on from."""
    return any((folder / "state" / f"server-{number}").glob("*-*"))


def _check_whole(folder: Path, job: Job, told: Sequence[Entry]) -> None:
    """Make sure that what servers and the coordinator have kept is there.

    Raises:
        JobError: something is missing.
    """
    if not any(isinstance(entry.event, events.EpochBegin) for entry in told):
        return  # nothing is answered before it is on disk, and nobody was told that training begins
    missing = [f"state/server-{k}" for k in range(job.runner.server_num) if not _has_state(folder, k)]
    if job.runner.with_coordinator and not (folder / "coordinator.db").exists():
        missing.append("coordinator.db")
    if missing:
        raise JobError(
            f"--resume {folder}: {', '.join(missing)} is missing: put it back; the rest is of no use without it"
        )


def _await_end(folder: Path, told: Sequence[Entry]) -> None:
    """Wait until the processes of the part that was broken off are gone, which follow their launcher.

    Raises:
        JobError: one stays.
    """
    pids = {(e.role, e.id): e.event.pid for e in told if isinstance(e.event, events.Started)}
    deadline = time.monotonic() + PATIENCE
    for (role, name), pid in pids.items():
        while _lives(pid, role):
            if time.monotonic() > deadline:
                raise JobError(
                    f"--resume {folder}: {role} {name} of the run that was broken off is still there: end it by"
                    f" `kill -9 {pid}`, and resume then"
                )
            time.sleep(0.05)


def _lives(pid: int, role: str) -> bool:
    """Whether a role's process lives: another that has got its number since, e.g. after a reboot, holds no log of the role open."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        logs = [Path(file.path).name.startswith(f"{role}log.") for file in process.open_files()]
        return any(logs) and process.status() != psutil.STATUS_ZOMBIE
    return False
