"""What the process of a party does in vertical training, whoever has started it."""

import secrets
from pathlib import Path

from fedps.config import Allow
from fedps.config.job import VerticalJob
from fedps.errors import DataError
from fedps.events import parties
from fedps.events.events import Report
from fedps.storage.whole import CLOSED, make_folder, write_whole

PARTY, PREDICTION, JOINED = "party", "prediction", "joined"  # kinds: training, scoring, all features in one place
WORD = "secret"  # in a party's folder, if one was drawn
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
    job = with_secret(job, party, folder)
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

    folder = side_folder(run_dir, party)
    job = with_secret(new_samples(job, party), party, folder)
    if party != job.vertical.active:
        predict_passive(job, party, folder, at, report, allow)
        return
    scored = predict_active(job, folder, at, report, allow)
    write_scores(job, scored, folder / SCORES)
    report(parties.Scored(**{name: int((scored.by == k).sum()) for k, name in enumerate(BY)}))


def with_secret(job: VerticalJob, party: str, folder: Path, draws: bool = False) -> VerticalJob:
    """Return a job with what a party's weights are drawn of, if it has that: its own word, or one that was drawn for it.

    Args:
        job: with its part.
        party: its name.
        folder: its own, where one that was drawn is kept, for its eyes alone.
        draws: draw one if there is none.

    Raises:
        OSError: it cannot be kept, or read.
    """
    own, kept = job.parties[party], folder / WORD
    if own.secret is None and draws and not kept.exists():
        write_whole(kept, secrets.token_hex(32).encode())
    if own.secret is not None or not kept.exists():
        return job
    own = own.model_copy(update={"secret": kept.read_text()})
    return job.model_copy(update={"parties": {**job.parties, party: own}})


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
