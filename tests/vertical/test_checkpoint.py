"""What a party keeps of a stage: the last two moments of one training, whole, and written by its newest process alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.errors import DataError, JobError, RefusedError
from fedps.vertical.checkpoint import Checkpoints, Model, Saved, claim_of, load_model, stretches
from tests.vertical.parties import vertical_job

NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)


def checkpoints(folder: Path, stage: str = "federated", digest: str = "", **vertical: Any) -> Checkpoints:
    job = vertical_job(folder, **vertical)
    return Checkpoints(job, "bank", folder / "bank", stage, claim_of(folder / "bank", "bank"), digest)


def moment(step: int, run: str = "a", over: bool = False) -> Saved:
    return Saved(run, step, over, {"half/rows": NUMBERS + step, "half/steps": step})


def test_the_last_two_stay_and_come_back_as_they_were(tmp_path: Path) -> None:
    there = checkpoints(tmp_path)
    assert (there.run, there.steps) == ("", [])
    for step in (5, 10, 15):
        there.save(moment(step, over=step == 15))
    again = checkpoints(tmp_path)
    assert (again.run, again.steps) == ("a", [10, 15])
    saved = again.load(15)
    assert (saved.run, saved.step, saved.over) == ("a", 15, True) and saved.state["half/steps"] == 15
    np.testing.assert_array_equal(saved.state["half/rows"], NUMBERS + 15)
    assert checkpoints(tmp_path, "passive").steps == []
    assert [file.stat().st_mode & 0o777 for file in (tmp_path / "bank" / "checkpoint").iterdir()] == [0o600] * 4
    assert (tmp_path / "bank").stat().st_mode & 0o777 == 0o700


def test_those_of_another_training_do_not_count_and_go(tmp_path: Path) -> None:
    checkpoints(tmp_path).save(moment(40, "before"))
    there = checkpoints(tmp_path)
    there.save(moment(5))
    assert (there.run, there.steps) == ("a", [5])
    assert (checkpoints(tmp_path).run, checkpoints(tmp_path).steps) == ("a", [5])


def test_those_of_other_samples_do_not_count_and_that_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints(tmp_path, digest="before").save(moment(40))
    assert checkpoints(tmp_path, digest="before").steps == [40] and not capsys.readouterr().out
    there = checkpoints(tmp_path, digest="now")
    assert (there.run, there.steps) == ("", [])
    assert "stage federated begins anew: its checkpoints are of other samples" in capsys.readouterr().out


def test_what_is_written_again_takes_the_place_of_what_was(tmp_path: Path) -> None:
    there = checkpoints(tmp_path)
    for step in (5, 10, 5):
        there.save(moment(step))
    assert there.steps == checkpoints(tmp_path).steps == [5]
    assert len(list((tmp_path / "bank" / "checkpoint").iterdir())) == 2


def test_one_that_is_torn_is_left_out(tmp_path: Path) -> None:
    there = checkpoints(tmp_path)
    for step in (5, 10):
        there.save(moment(step))
    (tmp_path / "bank" / "checkpoint" / "federated-10.json").write_text("{")
    assert checkpoints(tmp_path).steps == [5]
    file = tmp_path / "bank" / "checkpoint" / "federated-5.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(DataError, match="torn"):
        checkpoints(tmp_path).load(5)
    assert checkpoints(tmp_path).steps == []


def test_of_another_job_they_are_refused_by_the_first_difference(tmp_path: Path) -> None:
    checkpoints(tmp_path).save(moment(5))
    with pytest.raises(JobError, match=r"of something else \(vertical.seed: 3 here, 0 there\)"):
        checkpoints(tmp_path, seed=3)


def test_an_older_process_writes_nothing_more(tmp_path: Path) -> None:
    older = checkpoints(tmp_path)
    older.save(moment(5))
    newer = checkpoints(tmp_path)
    with pytest.raises(RefusedError, match=r"a newer process works for party bank .*\[superseded\]"):
        older.save(moment(10))
    with pytest.raises(RefusedError, match="a newer process works for party bank"):
        older.save_model(Model("a", 0, {}))
    newer.save(moment(10))
    assert checkpoints(tmp_path).steps == [5, 10]


def test_what_cannot_be_written_is_told_and_those_before_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = checkpoints(tmp_path)
    there.save(moment(5))
    with monkeypatch.context() as patch:
        patch.setattr("fedps.storage.snapshot.Writer.write", _fail)
        there.save(moment(10))
    assert "a checkpoint is missing, the next is tried again: disk full" in capsys.readouterr().out
    assert checkpoints(tmp_path).steps == [5]
    there = checkpoints(tmp_path)
    there.save(moment(15))
    assert there.steps == [5, 15]


def _fail(*_: object) -> None:
    raise DataError("disk full")


def test_the_best_model_so_far(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no model of stage federated"):
        load_model(tmp_path / "bank", "federated")
    there = checkpoints(tmp_path)
    for epoch in (0, 2):
        there.save_model(Model("a", epoch, {"rows": NUMBERS + epoch}))
    found = load_model(tmp_path / "bank", "federated")
    assert (found.run, found.epoch) == ("a", 2)
    np.testing.assert_array_equal(found.state["rows"], NUMBERS + 2)
    assert len(list((tmp_path / "bank" / "model").iterdir())) == 2


@pytest.mark.parametrize(
    ("begin", "every", "due"),
    [
        (0, 0, [(0, 10)]),
        (0, 4, [(0, 4), (4, 8), (8, 10)]),
        (4, 4, [(4, 8), (8, 10)]),
        (0, 5, [(0, 5), (5, 10)]),
        (8, 100, [(8, 10)]),
        (10, 4, []),
    ],
)
def test_an_epoch_in_parts(begin: int, every: int, due: list[tuple[int, int]]) -> None:
    assert list(stretches(begin, 10, every)) == due
