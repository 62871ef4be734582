"""What the process of a party does in vertical training, whoever has started it."""

from pathlib import Path

from fedps.config import Allow
from fedps.config.job import VerticalJob
from fedps.events.events import Ready, Report
from fedps.storage.whole import CLOSED, make_folder

PARTY, JOINED = "party", "joined"  # kinds of roles: a party, and all parties' features in one place, to compare with


def play_side(job: VerticalJob, party: str, run_dir: Path, at: str, report: Report, allow: Allow) -> None:
    """Live a party's life.

    Args:
        job: with its part.
        party: its name.
        run_dir: the run's folder, in which it has `parties/<name>` for itself.
        at: `host:port` where the active party listens.
        report: where events go.
        allow: what whoever started this allows.
    """
    folder = side_folder(run_dir, party)
    if party == job.vertical.active:
        from fedps.vertical.active import run_active  # noqa: PLC0415  (each side imports its own)

        run_active(job, folder, at, report, lambda address: report(Ready(address)))
    else:
        from fedps.vertical.passive import run_passive  # noqa: PLC0415

        run_passive(job, party, folder, at, report)


def side_folder(run_dir: Path, party: str) -> Path:
    """Return what a party has for itself in a run's folder, closed to others.

    Raises:
        OSError: it cannot be made.
    """
    folder = run_dir / "parties" / party
    make_folder(folder, CLOSED)
    return folder


def play_joined(job: VerticalJob, run_dir: Path, report: Report, allow: Allow) -> None:
    """Train on all parties' common samples in one place, as they were matched in this run."""
    raise NotImplementedError
