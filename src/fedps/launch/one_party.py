"""One party of vertical training in the foreground, as in real life: each is started by hand, where its data is, in any order.

What it does is printed, and appended to its own file of events in the run's folder; the active party ends with a summary.
"""

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fedps.config import Allow
from fedps.config.job import VerticalJob
from fedps.config.vertical import check_commands
from fedps.errors import DataError, JobError, RoleError
from fedps.events.events import Event, Failed, Report, now, stamp
from fedps.events.journal import Journal
from fedps.launch.addresses import read_address
from fedps.launch.folder import RUNS
from fedps.launch.lift import Shown, Tally, introduction
from fedps.launch.local.party import PARTY, SCORES, play_prediction, play_side, side_folder, with_secret
from fedps.launch.orders import PLAIN
from fedps.launch.vertical import move_scores
from fedps.net.protection import protect
from fedps.pages.report import try_report
from fedps.storage.whole import CLOSED, PUBLIC, write_whole


def be_party(
    job: VerticalJob, party: str, run_dir: Path | None = None, allow: Allow = PLAIN.allow,
    predicts: bool = False, out: Path | None = None,
) -> None:  # fmt: skip
    """Be one party from start to end; one that was started before in the same folder goes on where it was.

    Args:
        job: with this party's part.
        party: its name.
        run_dir: the run's folder, by default `runs/<job>`.
        allow: what whoever started this allows.
        predicts: score what the job has as the party's data by the model that lies in the folder; False: train on it.
        out: where the active party's scores go, by default to its folder.

    Raises:
        JobError: an address, a certificate or a folder cannot be used, or the job has a mistake that only the data shows.
        DataError: files cannot be read, or have no samples in common.
        RoleError: this party failed, or another; it is named.
    """
    check_commands(job, [party], allow)
    at = read_address("vertical.address", job.vertical.address)
    if at.port == 0:
        raise JobError(f"vertical.address: {at}: nobody could find a free port; name one, e.g. 10.0.0.1:7070")
    protect(job.security, PARTY, party, [str(at)])
    folder = (run_dir or RUNS / job.name).resolve()
    if (folder / "private").is_dir():
        raise JobError(f"--run_dir {folder}: holds a run of clients and servers; choose another folder")
    try:
        own = side_folder(folder, party)
        folder.chmod(CLOSED)  # what a party says of its data is for its owner's eyes
        journal = Journal(folder / f"events-{PARTY}-{party}.jsonl", alone=True)
        with_secret(job, party, own, draws=not predicts)
        job.save(own / "job.yaml")
    except BlockingIOError:
        raise JobError(f"--run_dir {folder}: party {party} is at work there already; end it first") from None
    except OSError as error:
        raise JobError(f"--run_dir {folder}: cannot be written: {error.strerror}; choose another folder") from error
    stage, active = _Stage(job, party, folder, journal), party == job.vertical.active
    stage.say(introduction(job, str(at)))
    if not predicts:
        stage.play(lambda report: play_side(job, party, folder, str(at), report, allow), sums_up=active)
        return
    stage.play(lambda report: play_prediction(job, party, folder, str(at), report, allow))
    if active:
        stage.say(f"scores: {move_scores(side_folder(folder, party) / SCORES, out)}")


class _Stage:
    """Where one party plays: its journal, and what people see of it."""

    def __init__(self, job: VerticalJob, party: str, folder: Path, journal: Journal) -> None:
        self._job, self._party, self._folder, self._journal = job, party, folder, journal
        self._tally, self._shown, self._lock = Tally(job, now()), Shown(job, quiet=False), threading.Lock()

    def say(self, text: str) -> None:
        """Print a line."""
        self._shown.say(text)

    def play(self, life: Callable[[Report], None], sums_up: bool = False) -> None:
        """Play to the end, whatever it is; the active party of a training sums up what came of it."""
        error = None
        try:
            life(self._report)
        except KeyboardInterrupt:
            error = "stopped by a signal"
            raise
        except Exception as fault:
            failed = Failed.of(fault)
            self._report(failed)
            if isinstance(fault, JobError | DataError):
                raise
            error = f"{PARTY} {self._party}: {failed.error}"
            raise RoleError(f"{PARTY} {self._party}", failed.error, failed.traceback) from None
        finally:
            if sums_up and (error or self._tally.measured):
                with suppress(OSError):  # which may be what failed
                    self._conclude(error)
            self._journal.close()

    def _report(self, event: Event) -> None:
        with self._lock:
            entry = stamp(PARTY, self._party, event)
            self._tally.take(entry)
            if why := self._journal.keep(entry):  # what is told of its work does not end it
                self._shown.say(f"its events are not written, but later: {why}")
            self._shown.take(entry)

    def _conclude(self, error: str | None) -> None:
        summary = self._tally.summary(now(), error) | {
            "run_dir": str(self._folder),
            "log_dir": str(self._folder / "log"),
        }
        write_whole(self._folder / "summary.json", f"{json.dumps(summary, indent=1)}\n".encode(), PUBLIC)
        if why := try_report(self._folder, f"events-{PARTY}-{self._party}.jsonl"):
            self._shown.say(why)
        self._shown.close(summary, str(self._folder))
