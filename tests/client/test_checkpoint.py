"""Checkpoints on disk: which are kept, which are used, and which are refused with their name and what to do."""

import io
import json
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedps.client import checkpoint
from fedps.client.checkpoint import Checkpoints, Moment, checkpoints_of
from fedps.config import Job
from fedps.errors import DataError, JobError, RefusedError
from fedps.storage import snapshot
from fedps.types import ClientId, State
from tests.conftest import MakeJob

ME = ClientId("0")
STATE = {
    "learner/rows": np.arange(6, dtype=np.float32).reshape(2, 3), "learner/steps": 3, "engine/random": np.arange(9, dtype=np.uint8),
    "client/loss": 0.1 + 0.2, "client/none": None, "client/sums": {"hits": 1.5},
}  # fmt: skip


def written(process: Checkpoints, moment: Moment, sequence: int, state: State = STATE) -> None:
    process.save(moment, sequence, state)
    process.settle()


class Place:
    """A client's own folder."""

    def __init__(self, job: Job, run_dir: Path) -> None:
        self.job, self.run_dir, self.log = job, run_dir, io.StringIO()
        self.folder = run_dir / "private" / ME / "checkpoint"

    def process(self, client: ClientId = ME) -> Checkpoints:
        return Checkpoints(self.job, client, self.run_dir, self.log)

    def filled(self, *moments: tuple[int, int]) -> Checkpoints:
        process = self.process()
        for number, moment in enumerate(moments):
            written(process, Moment(*moment), number)
        return process

    @property
    def there(self) -> dict[Moment, int]:
        return checkpoints_of(self.run_dir, ME)


@pytest.fixture
def place(make_job: MakeJob, tmp_path: Path) -> Place:
    return Place(make_job(), tmp_path / "run")


def test_what_is_kept_comes_back_to_the_bit(place: Place) -> None:
    place.filled((1, 0))
    found = place.process().read(1)
    assert found is not None
    assert found[:2] == (Moment(1, 0), 0)
    assert found.state.keys() == STATE.keys()
    for name, value in STATE.items():
        there = found.state[name]
        assert there.tobytes() == value.tobytes() if isinstance(value, np.ndarray) else there == value


def test_the_last_three_stay_and_are_their_owners_alone(place: Place) -> None:
    place.filled((0, 50), (0, 100), (1, 0), (1, 50))
    assert place.there == {Moment(0, 100): 1, Moment(1, 0): 2, Moment(1, 50): 3}
    files = [file for file in place.folder.iterdir() if file.suffix]
    assert len(files) == 6
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_moments_are_ordered_by_number(place: Place) -> None:
    place.filled((9, 400), (9, 500), (9, 1000), (10, 0))
    assert list(place.there) == [Moment(9, 500), Moment(9, 1000), Moment(10, 0)]


def test_the_ends_of_epochs_stay_longer(place: Place) -> None:
    place.filled((1, 0), (2, 0), (3, 0), (3, 50), (3, 100), (3, 150), (3, 200))
    assert list(place.there) == [Moment(2), Moment(3), Moment(3, 100), Moment(3, 150), Moment(3, 200)]


def test_the_next_is_due_once_writing_takes_a_hundredth_of_the_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, save = [0.0], snapshot.save_arrays
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: now[0]))
    process = place.process()
    assert not process.due
    now[0] = checkpoint.SELDOM
    assert process.due

    def saved(*args: Any, **how: Any) -> str:
        now[0] += 0.25
        return save(*args, **how)

    monkeypatch.setattr(snapshot, "save_arrays", saved)
    written(process, Moment(1), 0)
    now[0] += 24
    assert not process.due
    now[0] += 1
    assert process.due


def test_what_the_servers_do_not_know_of_is_not_used_but_stays(place: Place) -> None:
    place.filled((2, 50), (3, 0))
    process = place.process()
    for epoch, due in ((1, None), (2, Moment(2, 50)), (3, Moment(3, 0)), (9, Moment(3, 0))):
        found = process.read(epoch)
        assert (found and found.moment) == due
    assert len(place.there) == 2


def test_it_stays_that_of_its_job_where_that_goes_on_with_other_clients(place: Place) -> None:
    place.filled((1, 0))
    place.job = place.job.model_copy(update={"runner": place.job.runner.model_copy(update={"worker_num": 2})})
    found = place.process().read(1)
    assert found is not None and found.moment == Moment(1)


def test_behind_one_that_is_named_all_are_removed(place: Place) -> None:
    place.filled((2, 0), (3, 0))
    found = place.process().read(3, "2-0")
    assert found is not None and found.moment == Moment(2)
    assert list(place.there) == [Moment(2)]


def test_a_save_ends_a_future_that_did_not_come_to_be(place: Place) -> None:
    process = place.filled((2, 0), (3, 0))
    written(process, Moment(2, 50), 7)
    assert place.there == {Moment(2): 0, Moment(2, 50): 7}


def test_one_that_is_not_there_is_named_with_those_that_are(place: Place) -> None:
    place.filled((2, 0), (3, 0))
    with pytest.raises(
        DataError, match=r"private/0/checkpoint: there is no checkpoint '1-0' but 2-0, 3-0: resume from"
    ):
        place.process().read(3, "1-0")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("ending", ["json", "safetensors"])
@pytest.mark.parametrize("spoil", [flip, truncate, Path.unlink], ids=["altered", "torn", "missing"])
def test_one_that_is_damaged_is_told_and_the_one_before_it_used(
    spoil: Callable[[Path], None], ending: str, place: Place
) -> None:
    place.filled((2, 0), (3, 0))
    spoil(place.folder / f"3-0.{ending}")
    found = place.process().read(3)
    assert found is not None and found.moment == Moment(2)
    if (spoil, ending) != (Path.unlink, "json"):  # without its record it is none
        assert f"checkpoint 3-0 is left out: {place.folder}/3-0." in place.log.getvalue()
        with pytest.raises(DataError, match=r"checkpoint/3-0\.(json|safetensors)"):
            place.process().read(3, "3-0")


def test_what_dying_processes_leave_is_cleared_away(place: Place) -> None:
    place.filled((1, 0))
    part = place.folder / ".2-0.safetensors.0f.part"
    part.write_bytes(b"half")
    place.process()
    assert not part.exists()


@pytest.mark.parametrize(
    ("fact", "value", "told"),
    [
        ("format", 0, "format 0 there, 1 here"),
        ("client", "7", "client '7' there, '0' here"),
        ("job", "other", "job 'other' there"),
        ("shared", {"runner.seed": "1"}, r"runner\.seed: 0 here, 1 there"),
    ],
)
def test_one_of_something_else_is_refused(fact: str, value: object, told: str, place: Place) -> None:
    process = place.process()
    process._facts = process._facts | {fact: value if fact != "shared" else process._facts["shared"] | value}  # type: ignore[operator]
    written(process, Moment(1), 0)
    with pytest.raises(
        JobError, match=rf"checkpoint/1-0\.json: is a checkpoint of something else \({told}.*move .*away"
    ):
        place.process().read(1)


def test_one_of_another_network_or_of_other_data_is_refused(place: Place) -> None:
    found = place.filled((1, 0)).read(1)
    assert found is not None
    own = {"rows": np.zeros((4, 3), np.float32), "steps": 9, "engine/buffer": np.zeros(2)}
    with pytest.raises(JobError, match=r"checkpoint/1-0: rows has shape \(2, 3\), and \(4, 3\) here: .*data"):
        place.process().check_fits(found, own)
    place.process().check_fits(found, {"rows": np.zeros((2, 3), np.float32), "steps": 9})


def test_only_the_newest_process_of_a_client_writes(place: Place) -> None:
    older = place.filled((1, 0))
    newer = place.process()
    for _ in range(2):
        with pytest.raises(RefusedError, match="a newer process works for client '0'"):
            written(older, Moment(2), 9)
    assert place.there == {Moment(1): 0}
    assert not list(place.folder.glob(".*"))
    written(newer, Moment(2), 5)
    assert place.there == {Moment(1): 0, Moment(2): 5}


def test_who_is_overtaken_while_it_writes_replaces_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen in the middle of a save, when the newer one has saved the same moment."""
    older = place.process()
    check = older.check

    def frozen() -> None:
        place.filled((1, 0), (2, 0), (3, 0))
        check()

    monkeypatch.setattr(older, "check", frozen)
    with pytest.raises(RefusedError):
        written(older, Moment(2), 9)
    assert place.there == {Moment(1): 0, Moment(2): 1, Moment(3): 2}


def test_a_folder_that_cannot_be_written_is_named(place: Place) -> None:
    place.folder.parent.mkdir(parents=True)
    place.folder.write_text("in the way")
    with pytest.raises(DataError, match=r"private/0/checkpoint: cannot be written: .*make it yours"):
        place.process()


def test_a_checkpoint_is_of_the_moment_it_is_taken_at_though_it_is_written_later(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, trained, rows = place.process(), threading.Event(), np.zeros(3, np.float32)
    save_arrays = snapshot.save_arrays
    monkeypatch.setattr(snapshot, "save_arrays", lambda *args, **how: trained.wait(60) and save_arrays(*args, **how))
    process.save(Moment(1), 0, {"rows": rows})
    rows += 1
    trained.set()
    process.settle()
    found = place.process().read(1)
    assert found is not None and not found.state["rows"].any()


def test_what_the_disk_does_not_take_is_said_and_the_next_is_written(place: Place) -> None:
    process = place.filled((1, 0))
    aside = place.folder.rename(place.folder.with_name("aside"))
    place.folder.write_text("in the way")
    process.save(Moment(2), 1, STATE)
    process.settle()
    assert "a checkpoint is missing, the next is tried again: cannot save to " in place.log.getvalue()
    place.folder.unlink()
    aside.rename(place.folder)
    written(process, Moment(3), 2)
    assert list(place.there) == [Moment(1), Moment(3)]


def test_the_record_can_be_read_by_people(place: Place) -> None:
    place.filled((1, 50))
    facts = json.loads((place.folder / "1-50.json").read_text())["facts"]
    assert {name: facts[name] for name in ("format", "client", "epoch", "batch", "sequence")} == {
        "format": 1, "client": "0", "epoch": 1, "batch": 50, "sequence": 0,
    }  # fmt: skip
