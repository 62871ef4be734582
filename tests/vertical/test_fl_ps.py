"""The original's two-party job, its keys, generators and network, as its test would have trained it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedps.config import Allow, load_job
from fedps.config.vertical import load_vertical, notes_of
from fedps.errors import JobError
from fedps.launch.one_party import be_party
from fedps.launch.vertical import run
from fedps.vertical.data import ids_of, side_data

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "test_fl_ps"
JOB = EXAMPLE / "fl_async_ps_config.yaml"
LINES = ["1", *map(str, range(1, 14)), *(f"c{k}" for k in range(26))]


@pytest.fixture
def lines(tmp_path: Path) -> list[str]:
    """Overrides by which both parties read three lines in two files."""
    folder = tmp_path / "train_data"
    folder.mkdir()
    (folder / "part-10").write_text("\t".join(LINES) + "\n")
    (folder / "part-2").write_text("\t".join(["0", "", *LINES[2:]]) + "\n" + "\t".join(LINES) + "\n")
    return [f"parties.{name}.data={folder}" for name in "AB"]


def test_its_keys_are_those_of_a_vertical_job(lines: list[str]) -> None:
    job = load_vertical(JOB, lines, whole=True)
    assert (job.order, job.vertical.train_batch_size, job.vertical.epochs) == (("B", "A"), 16, 4)
    assert job.hyper_parameters.optimizer.name == "lazy_adam"
    assert [len(job.parties[name].features) for name in "AB"] == [26, 2]
    assert [file.name for file in job.parties["A"].data] == ["part-2", "part-10"]
    assert {note.partition(":")[0] for note in notes_of(JOB, job)} == {
        "runner.sync_mode", "runner.reader_thread_num", "runner.model_path", "parties.*.id",
    }  # fmt: skip


def test_without_classes_of_ones_own_a_built_in_network_is_trained(tmp_path: Path, lines: list[str]) -> None:
    bare = tmp_path / "job.yaml"
    bare.write_text(JOB.read_text().partition("vertical:")[0])
    job = load_vertical(bare, lines, whole=True)
    assert (job.vertical.network, job.hyper_parameters.embedding_dim) == ("MLP", 10)


def test_generators_read_each_partys_half_of_the_same_lines(lines: list[str]) -> None:
    job, allow = load_vertical(JOB, lines), Allow(commands=True)
    assert ids_of(job, "A", job.parties["A"].data, allow) == [b"6:part-21:0", b"6:part-21:1", b"7:part-101:0"]
    everything = load_vertical(JOB, [*lines, "vertical.holdout=0"])
    a, b = (side_data(everything, name, np.arange(3), None, allow).train for name in "AB")
    order = np.argsort(b.label, kind="stable")
    assert b.label[order].tolist() == [0, 1, 1]
    assert b.columns["dense_feature"][order][0][:2].tolist() == pytest.approx([0, 5 / 603])
    ids = np.stack([a.columns[f"C{k}"] for k in range(1, 27)])
    assert (ids == ids[:, :1]).all()
    assert len(np.unique(ids)) == 26


def test_a_command_is_not_run_unless_it_may_be(tmp_path: Path, lines: list[str]) -> None:
    job = load_vertical(JOB, lines)
    with pytest.raises(JobError, match="not run without --allow-commands"):
        ids_of(job, "A", job.parties["A"].data)
    for begin in (lambda: run(job, tmp_path / "run"), lambda: be_party(job, "A", tmp_path / "run")):
        with pytest.raises(JobError, match=r"parties\.A\.pipe_command: .*not run without --allow-commands"):
            begin()
    assert not (tmp_path / "run").exists()
    with pytest.raises(JobError, match=r'parties\.A\.id: id: a command prints features alone.*"@line"'):
        load_vertical(JOB, [*lines, "parties.A.id=id"])


def test_what_its_page_says_to_type_trains_both_parties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-compiler")  # what is trained is small
    page = (ROOT / "docs" / "from-paddlepaddle.md").read_text()
    make, train = re.findall(r"^(?:python|fedps) .*test_fl_ps/.*$", page, re.MULTILINE)
    shutil.copytree(EXAMPLE, tmp_path / EXAMPLE.relative_to(ROOT), ignore=shutil.ignore_patterns("train_data"))
    quick = ["-o", "vertical.train_batch_size=64", "-o", "vertical.epochs=2", "--json", "--run_dir", "run"]
    quick += ["-o", "hyper_parameters.optimizer={class: lazy_adam, learning_rate: 0.01}"]
    for command in (make.split()[1:], ["-m", *train.split(), *quick]):
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["status"], summary["samples"], summary["held_out"]) == ("ok", 6400, 1600)
    together, alone = summary["vertical"]["federated"], summary["vertical"]["active"]
    assert together["auc"] > alone["auc"] + 0.05 > 0.65
    assert together["loss"] < summary["rounds"][0]["loss"]
    assert [note for note in done.stderr.splitlines() if "runner.sync_mode: has no effect" in note]


def test_a_job_of_clients_says_who_trains_it() -> None:
    with pytest.raises(JobError, match="fedps vertical run"):
        load_job(JOB)
