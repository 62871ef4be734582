"""A client that dies behind a checkpoint, and one that goes on from it, come to what one that never died comes to."""

from pathlib import Path
from typing import Any

import pytest

from fedps.client.checkpoint import NEWEST, Moment, checkpoints_of
from fedps.errors import DataError
from fedps.events import events
from fedps.storage import epochs
from tests.client.lives import left, same, told, world
from tests.client.test_modes import ADAM, SMALL, write_clients
from tests.conftest import MakeJob

ALONE, SEVERAL = (230,), (150, 230, 90)
FIGURES = (events.EpochEnd, events.Evaluated, events.Round)
JOBS: dict[str, tuple[tuple[int, ...], dict[str, Any], dict[str, Any]]] = {
    "geo original": (ALONE, {"geo_merge": "original"}, {}),
    "geo mean": (ALONE, {"geo_merge": "mean", "geo_overlap": 1}, {}),
    "geo heat": (ALONE, {"geo_merge": "heat"}, {}),
    "geo adaptive": (ALONE, {"geo_merge": "adaptive", "geo_overlap": 2}, {}),
    "geo buffered": (ALONE, {"geo_merge": "buffered"}, {}),
    "async": (ALONE, {"sync_mode": "async"}, {}),
    "sync": (SEVERAL, {"sync_mode": "sync"}, {}),
    "round": (SEVERAL, {"sync_mode": "round"}, {}),
    "round, kept": (SEVERAL, {"sync_mode": "round", "optimizer_state": "keep"}, {}),
    "geo heat, several": (SEVERAL, {"geo_merge": "heat", "server_num": 2}, {}),
    "geo adaptive, several": (SEVERAL, {"geo_merge": "adaptive", "geo_overlap": 1}, {}),
    "own pace": (SEVERAL, {"geo_merge": "adaptive", "pace": "own"}, {}),
    "int8": (ALONE, {"compression": "int8", "compression_feedback": True}, {}),
    "topk": (SEVERAL, {"compression": "topk", "server_num": 2}, {}),
    "low rank": (ALONE, {"compression": "low_rank", "compression_rank": 1}, {}),
    "pairs": (ALONE, {"negatives": 2}, {"loss": "bpr"}),
    "schedule": (
        ALONE,
        {"eval_every": 2},
        {"optimizer": {"class": "adam", "learning_rate": 0.01, "schedule": "cosine", "warmup": 0.2, "proximal": 0.1}},
    ),
}


@pytest.mark.parametrize("within", [False, True], ids=["at an epoch's end", "within an epoch"])
@pytest.mark.parametrize("name", JOBS)
def test_the_same_numbers_come_of_it(name: str, within: bool, make_job: MakeJob, tmp_path: Path) -> None:
    sizes, runner, hyper = JOBS[name]
    if within and name.startswith("round"):
        pytest.skip("a round is one window")
    train = write_clients(tmp_path / "data", *sizes)
    job = make_job(
        SMALL | ADAM | hyper, train_data_dir=str(train), test_data_dir=str(train), train_batch_size=16, geo_step=2,
        epochs=3, metrics=["auc", "logloss"], checkpoint_every=4 if within else 0, print_interval=3, **runner,
    )  # fmt: skip
    with world(job, tmp_path / "unbroken") as calm:
        due = left(calm, calm.live())
    with world(job, tmp_path / "broken") as broken:
        broken.live(dies_after=1, within=within)
        at = [list(checkpoints_of(broken.run_dir, name))[-1] for name in broken.names]
        assert set(at) == {Moment(1, 4 if within else 0)}, "all are at one moment"
        same(left(broken, broken.live(resume=NEWEST)), due)
        assert told(broken, *FIGURES) == told(calm, *FIGURES)


def test_an_epoch_that_was_not_saved_is_saved_once_all_others_are_gone(make_job: MakeJob, tmp_path: Path) -> None:
    train = write_clients(tmp_path / "data", *ALONE)
    job = make_job(SMALL | ADAM, train_data_dir=str(train), test_data_dir=str(train), train_batch_size=16, epochs=2)
    with world(job, tmp_path / "calm") as calm:
        calm.live()
    with world(job, tmp_path / "run") as run:
        (name,) = run.names
        own = run.run_dir / "private" / name
        own.mkdir(parents=True)
        (own / "2").write_text("in the way")
        with pytest.raises(DataError, match="2"):
            run.live(resume=NEWEST)
    (own / "2").unlink()
    assert run.client(name, resume=NEWEST).save_left() == 2
    due, saved = (
        {table: (of.keys.tobytes(), of.block.tobytes()) for table, of in epochs.read_private(place).items()}
        for place in (calm.run_dir / "private" / name / "2", own / "2")
    )
    assert due and saved == due


@pytest.mark.parametrize("within", [False, True], ids=["at an epoch's end", "within an epoch"])
def test_data_that_is_another_than_then_is_told(within: bool, make_job: MakeJob, tmp_path: Path) -> None:
    train = write_clients(tmp_path / "data", *ALONE)
    job = make_job(
        SMALL | ADAM, train_data_dir=str(train), test_data_dir=str(train), train_batch_size=16, epochs=3, metrics=["auc"],
        checkpoint_every=8 if within else 0,
    )  # fmt: skip
    with world(job, tmp_path / "run") as run:
        run.live(dies_after=1, within=within)
        lines = (train / "0.csv").read_text().splitlines()
        turned = f"{lines[-1][:-1]}{1 - int(lines[-1][-1])}"
        (train / "0.csv").write_text("\n".join(lines[:-100] if within else [*lines[:-1], turned]))
        run.live(resume=NEWEST)
        notes = [event.note for _, event in run.events if isinstance(event, events.Note) and not event.seen]
    assert notes == [
        f"client '0': its training data is not what it was (230 samples then, {130 if within else 230} now): the run comes to"
        " other numbers than one that was never broken off"
    ]
