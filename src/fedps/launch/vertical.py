"""`fedps vertical run` and `predict`: all parties of a vertical job on this machine, a process each, from start to end."""

import json
import shutil
from pathlib import Path
from typing import Any

from fedps.config import Allow
from fedps.config.job import VerticalJob
from fedps.config.vertical import check_commands
from fedps.errors import DataError, JobError, RoleError
from fedps.events import parties
from fedps.events.events import Closed, Entry, now, stamp
from fedps.events.journal import JOURNAL, Journal
from fedps.launch.addresses import check_protected, read_address
from fedps.launch.company import Company
from fedps.launch.folder import discard, lack, make_run_folder, write_end
from fedps.launch.lift import Shown, Tally, introduction
from fedps.launch.local.party import PARTY, PREDICTION, SCORES, side_folder
from fedps.launch.local.processes import fork_server
from fedps.launch.orders import PLAIN


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
    check_commands(job, job.order, allow)
    _check_addresses(job)
    with fork_server(torch=True):
        return _Launch(job, make_run_folder(job, run_dir), began, as_json).run(allow)


class _Launch:
    """One run: its journal, and what came of it."""

    def __init__(self, job: VerticalJob, folder: Path, began: float, as_json: bool) -> None:
        self._job, self._folder, self._as_json = job, folder, as_json
        self._tally, self._journal = Tally(job, began), Journal(folder / JOURNAL)
        self._shown = Shown(job, quiet=as_json)

    def run(self, allow: Allow) -> dict[str, Any]:
        """Run to the end, whatever it is, and close the folder; errors as for the function `run`."""
        error, interrupted = None, False
        try:
            self._play(allow)
        except (JobError, DataError):
            self._journal.close()
            discard(self._folder)
            raise
        except RoleError as failed:
            error = failed
        except OSError as failed:
            error = RoleError("launcher", lack(self._folder, failed))
        except KeyboardInterrupt:
            error, interrupted = RoleError("launcher", "stopped by a signal"), True
        summary = self._close(error)
        if interrupted:
            raise KeyboardInterrupt
        return summary

    def _play(self, allow: Allow) -> None:
        """Let all parties train to the end; then train what they are compared with."""
        with Company(self._job, self._folder, allow, self._take) as company:
            self._shown.say(introduction(self._job, company.start(PARTY)))
            company.listen_to_the_end(lambda: not self._tally.measured)
            if "joined" in self._job.vertical.lift:
                company.start_joined()
                company.listen_to_the_end(lambda: False)

    def _take(self, entry: Entry) -> None:
        self._tally.take(entry)
        if why := self._journal.keep(entry):
            self._shown.say(f"{self._folder / JOURNAL} is not written, but later: {why}")
        self._shown.take(entry)

    def _close(self, error: RoleError | None) -> dict[str, Any]:
        if error is not None:
            self._shown.say(f"{error}\n{error.traceback}".rstrip())
        summary = self._tally.summary(now(), str(error) if error else None)
        summary |= {"run_dir": str(self._folder), "log_dir": str(self._folder / "log")}
        self._take(stamp("launcher", "", Closed(summary["status"], summary["error"])))
        patience = 0.0 if error else self._job.vertical.step_timeout
        try:
            write_end(self._folder, self._journal, summary, patience, self._shown.say)
        except OSError as failed:
            summary |= {"status": "failed", "error": summary["error"] or f"launcher: {lack(self._folder, failed)}"}
        finally:
            self._journal.close()
        self._shown.close(summary, str(self._folder))
        if self._as_json:
            print(json.dumps(summary), flush=True)
        return summary


def predict(
    job: VerticalJob, run_dir: Path, out: Path | None, as_json: bool = False, allow: Allow = PLAIN.allow
) -> dict[str, Any]:
    """Score the samples that a job's parties name as their data, by the model of a run; return what came of it.

    Args:
        job: that was trained, with all parties' parts.
        run_dir: the run's folder.
        out: where the scores go; None: `predictions.csv` in the active party's folder of the run.
        as_json: show nothing.
        allow: what whoever started this allows.

    Raises:
        JobError: there is no such run, or an address cannot be used.
        DataError: there is no model, or files cannot be read.
        RoleError: a party failed.
        KeyboardInterrupt: it was stopped from outside; all its processes are gone.
    """
    check_commands(job, job.order, allow)
    _check_addresses(job)
    if not (run_dir / "parties").is_dir():
        raise JobError(f"--run_dir {run_dir}: holds no run of vertical training; `fedps vertical run` makes one")
    shown, counts = Shown(job, quiet=as_json), dict[str, int]()

    def take(entry: Entry) -> None:
        if isinstance(entry.event, parties.Scored):
            event = entry.event
            counts.update(federated=event.federated, alone=event.alone, none=event.none)
        shown.take(entry)

    (run_dir / "log").mkdir(exist_ok=True)
    with fork_server(torch=True), Company(job, run_dir.resolve(), allow, take) as company:
        company.start(PREDICTION)
        company.listen_to_the_end(lambda: True)
    return {**counts, "out": str(move_scores(side_folder(run_dir, job.vertical.active) / SCORES, out))}


def move_scores(scores: Path, out: Path | None) -> Path:
    """Move scores to where they are asked for; return where they are.

    Raises:
        JobError: they cannot be.
    """
    if out is None:
        return scores
    try:
        return Path(shutil.move(scores, out))
    except OSError as error:
        raise JobError(f"--out {out}: cannot be written: {error.strerror}; the scores are in {scores}") from error


def _check_addresses(job: VerticalJob) -> None:
    """Make sure that parties have an address, and what protects connections to it. Raises JobError: they lack it."""
    at = read_address("vertical.address", job.vertical.address)
    check_protected(job.security, {(PARTY, name): at for name in job.order}, ())
