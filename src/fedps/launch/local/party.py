"""What the process of a party does in vertical training, whoever has started it."""

from pathlib import Path

from fedps.config import Allow
from fedps.config.job import VerticalJob
from fedps.errors import DataError
from fedps.events import parties
from fedps.events.events import Report
from fedps.storage.whole import CLOSED, make_folder

PARTY, PREDICTION, JOINED = "party", "prediction", "joined"  # kinds: training, scoring, all features in one place
SCORES = "predictions.csv"  # in the active party's folder


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

        run_active(job, folder, at, report, allow=allow)
    else:
        from fedps.vertical.passive import run_passive  # noqa: PLC0415

        run_passive(job, party, folder, at, report, allow)


def side_folder(run_dir: Path, party: str) -> Path:
    """Return what a party has for itself in a run's folder, closed to others.

    Raises:
        OSError: it cannot be made.
    """
    folder = run_dir / "parties" / party
    make_folder(folder, CLOSED)
    return folder


def play_prediction(job: VerticalJob, party: str, run_dir: Path, at: str, report: Report, allow: Allow) -> None:
    """Score what the job has as a party's data, or help the active party to; arguments as for `play_side`."""
    from fedps.vertical.predict import BY, new_samples, predict_active, predict_passive, write_scores  # noqa: PLC0415

    job, folder = new_samples(job, party), side_folder(run_dir, party)
    if party != job.vertical.active:
        predict_passive(job, party, folder, at, report, allow)
        return
    scored = predict_active(job, folder, at, report, allow)
    write_scores(job, scored, folder / SCORES)
    report(parties.Scored(**{name: int((scored.by == k).sum()) for k, name in enumerate(BY)}))


def play_joined(job: VerticalJob, run_dir: Path, report: Report, allow: Allow) -> None:
    """Train on all parties' common samples in one place, as they were matched in this run."""
    from fedps.vertical.finding import OwnIds  # noqa: PLC0415
    from fedps.vertical.joined import train_joined  # noqa: PLC0415

    data = {}
    for party in job.order:
        ids = OwnIds(job, party, side_folder(run_dir, party), allow)
        found = ids.recall()
        if found is None:
            raise DataError(f"party {party}: its ids have changed since they were matched")
        data[party] = ids.data(found)
    trained = train_joined(job, data)
    figures = trained.epochs[trained.best]._asdict()
    epoch = figures.pop("epoch") + 1
    report(parties.Staged(JOINED, epoch, figures, trained.samples_per_second, 0))
