"""Data is looked at before anybody trains: what cannot be read ends the run, what is not as usual is said."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fedps.config import load_job
from fedps.errors import DataError, JobError
from fedps.launch.launcher import run
from tests.launch.runs import events, fedps, write_job


def mix_users(folder: Path) -> None:
    """Leave as many lines as there were, a multiple of 100, in which each user's first comes last."""
    lines = (folder / "1.csv").read_text().splitlines()
    (folder / "1.csv").write_text("\n".join([*lines[1:], lines[0]]) + "\n")


def eat_the_first_line(folder: Path) -> None:
    (folder / "1.csv").write_text("\n".join((folder / "1.csv").read_text().splitlines()[1:]) + "\n")


def label_anything(folder: Path) -> None:
    for file in folder.iterdir():
        file.write_text("".join(f"{k % 30},{k % 220},{k % 2}\n" for k in range(1_000)))


def hold_one_file_for_all(folder: Path) -> None:
    text = "".join(file.read_text() for file in sorted(folder.iterdir()))
    for file in folder.iterdir():
        file.unlink()
    (folder / "test_data.csv").write_text(text)


def hold_nothing(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


REFUSALS = [
    (hold_one_file_for_all, "test': holds test_data.csv, and nothing of clients 0, 1, 2; "),
    (hold_nothing, "holds no <client>.csv; `fedps data prepare` fills it; "),
]


@pytest.mark.parametrize(("change", "said"), REFUSALS)
def test_a_run_ends_before_it_begins(change: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    job = write_job(tmp_path)
    change(tmp_path / "data" / "test")
    with pytest.raises((DataError, JobError)) as caught:
        run(load_job(job), tmp_path / "run", in_process=True)
    assert said in str(caught.value)
    assert f"runner.test_data_dir: {tmp_path / 'data' / 'test'}" in str(caught.value).replace("'", "")
    assert str(caught.value).endswith("or leave the key out to train without held-out samples")
    assert not (tmp_path / "run").exists()


LABELLED: dict[Callable[[Path], None], str] = {
    mix_users: "1.csv: samples 1 to 100 begin with a negative; so there is no HR@10",
    eat_the_first_line: "1.csv: samples 1 to 100 begin with a negative; so there is no HR@10",
    label_anything: "0.csv: samples 1 to 100 begin with a negative; so there is no HR@10",
}


@pytest.mark.parametrize("change", LABELLED)
def test_labelled_lines_give_loss_and_auc_and_it_is_said_why_no_ranks(
    change: Callable[[Path], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path)
    change(tmp_path / "data" / "test")
    figures = run(load_job(job), tmp_path / "run", in_process=True)["metrics"]
    assert LABELLED[change] in capfd.readouterr().err
    assert 0 < figures["auc"] < 1
    assert (figures["hr@10"] is None) == (change is label_anything), "of the other clients it is known"


def test_clicks_alone_get_negatives_and_it_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    job = write_job(tmp_path)
    for file in (tmp_path / "data" / "train").iterdir():
        file.write_text("".join(f"{line}\n" for line in file.read_text().splitlines() if line.endswith(",1")))
    clicks = sum(len(file.read_text().splitlines()) for file in (tmp_path / "data" / "train").iterdir())
    summary = run(load_job(job), tmp_path / "run", in_process=True)
    assert "note: runner.negatives: 4, as the training data holds positives (label 1) alone" in capfd.readouterr().err
    assert summary["samples"] == 5 * clicks
    summary = run(load_job(job, ["runner.negatives=0"]), tmp_path / "off", in_process=True)
    assert "note: runner.negatives: 0: the training data holds positives (label 1) alone" in capfd.readouterr().err
    assert summary["samples"] == clicks


NO_SAMPLES = {
    "id,title,year\n1,2\n": "line 2: '1,2': has 2 fields; a line is user,item,label",
    "item,title,year\n1,2,3\n": "line 1: 'item,title,year': names its columns in another order; a line is user,item,label",
    "user_id,item_id,rating\n1,2,5\n": "line 2: '1,2,5': label 5 is neither 0 nor 1",
    "user_id,item_id,rating\nu1,B22,1\n": "line 2: 'u1,B22,1': user 'u1' is no whole number of at most 18 digits",
    "1\t2\t1\n": r"line 1: '1\t2\t1': has 1 field; a line is user,item,label",
    "": "holds no sample; a client needs at least one line user,item,label",
}


@pytest.mark.parametrize("text", NO_SAMPLES, ids=NO_SAMPLES.values())
def test_a_training_file_of_something_else_ends_a_run_before_it_begins(text: str, tmp_path: Path) -> None:
    job = write_job(tmp_path)
    (tmp_path / "data" / "train" / "1.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        run(load_job(job), tmp_path / "run", in_process=True)
    assert NO_SAMPLES[text] in str(caught.value).splitlines()[0]
    assert str(caught.value).startswith(f"{tmp_path / 'data' / 'train' / '1.csv'}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("in_process", [True, False], ids=["in process", "processes"])
def test_two_files_of_one_client_end_a_run_before_it_begins(in_process: bool, tmp_path: Path) -> None:
    job = write_job(tmp_path)
    for name in ("Mu\u0308nchen.csv", "M\u00fcnchen.csv"):
        shutil.copy(tmp_path / "data" / "train" / "1.csv", tmp_path / "data" / "train" / name)
    with pytest.raises(DataError, match="would both be of client"):
        run(load_job(job), tmp_path / "run", in_process=in_process)
    assert not (tmp_path / "run").exists()


def test_a_run_with_processes_ends_before_it_begins(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    (tmp_path / "data" / "test" / "1.csv").write_text("0,1,5\n")
    ended = fedps("run", job, "--run_dir", tmp_path / "run")
    assert ended.returncode == 2, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert f"{tmp_path}/data/test/1.csv, line 1: '0,1,5': label 5 is neither 0 nor 1" in line
    assert not (tmp_path / "run").exists()


def test_a_run_whose_own_reader_yields_no_groups_has_no_ranks(tmp_path: Path) -> None:
    job = write_job(tmp_path, infer_reader_type="RecDataset", infer_reader_path="mine")
    (tmp_path / "mine.py").write_text(
        "class RecDataset:\n    def __init__(self, files, config): pass\n"
        "    def __iter__(self): return iter([(0, 1, 0)] * 200)\n"
    )
    summary = run(load_job(job), tmp_path / "run", in_process=True)
    assert (summary["status"], summary["metrics"]["hr@10"]) == ("ok", None)
    told = [e for e in events(tmp_path / "run") if e["event"] == "note"]
    assert all("samples 1 to 100 begin with a negative" in str(e["note"]) for e in told)
    assert len(told) == 3
