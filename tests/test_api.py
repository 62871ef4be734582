"""Runs from Python: a script without a guard starts one, its results are at hand, and a run that was is opened again."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fedps
from fedps import api
from fedps.errors import DataError, JobError, RunError
from tests.launch.runs import write_job

SCRIPT = """
import fedps, os, sys
before = dict(os.environ)
print("begun")
run = fedps.run(sys.argv[1], run_dir=sys.argv[2], epochs=2, quiet=True)
print(run.metrics["hr@10"], run.history.num_rows)
assert dict(os.environ) == before
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fedps.Run:
    folder = tmp_path_factory.mktemp("api")
    job = write_job(folder, remote_sparse=["embedding_1.w_0"])
    return fedps.run(job, run_dir=folder / "run", in_process=True, quiet=True, epochs=2, geo_step=3)


def test_a_script_without_a_guard_runs_a_job_once_and_its_environment_stays(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [sys.executable, tmp_path / "script.py", write_job(tmp_path), tmp_path / "run"]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=120, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"begun\n0\.\d+ 2\n", done.stdout)
    assert "begun" not in "".join(log.read_text() for log in (tmp_path / "run" / "log").iterdir())


def test_its_examples_give_what_they_say(run: fedps.Run, tmp_path: Path) -> None:
    known = {
        "fedps": fedps,
        "np": np,
        "Rows": api.Rows,
        "RowsByTable": api.RowsByTable,
        "folder": run.folder,
        "job": run.folder.parent / "job.yaml",
        "place": tmp_path / "run",
    }
    found = doctest.DocTestFinder().find(api, globs=known)
    examples = [test for test in found if test.examples]
    assert {test.name for test in examples} == {"fedps.api.Run", "fedps.api.run", "fedps.api.RowsByTable"}
    for test in examples:
        assert not doctest.DocTestRunner().run(test).failed


def test_a_run_has_its_figures_and_a_line_an_epoch(run: fedps.Run) -> None:
    assert (run.job.runner.epochs, run.job.runner.geo_step, run.epoch) == (2, 3, 2)
    assert run.history.column("round").to_pylist() == [1, 2]
    assert run.history.column("hr@10").to_pylist()[-1] == run.metrics["hr@10"] == run.summary["metrics"]["hr@10"]
    assert f"hr@10 {run.metrics['hr@10']:.4f}" in repr(run)
    assert run.report.is_file()


def test_tables_go_by_parameter_and_by_feature(run: fedps.Run) -> None:
    ids, rows = run.tables["item"]
    assert (rows.shape, str(rows.dtype), list(run.tables["user"].ids)) == ((len(ids), 8), "float32", list(range(30)))
    named = next(name for name in run.tables if "item" in name)
    assert run.tables[named] is run.tables["item"]
    with pytest.raises(KeyError, match=r"'film': write one of .*item"):
        run.tables["film"]


def test_the_model_scores_as_the_saved_rows_say(run: fedps.Run) -> None:
    torch = pytest.importorskip("torch")
    weights = run.model.state_dict()
    for name, (ids, rows) in run.tables.items():
        np.testing.assert_array_equal(weights[name][torch.from_numpy(ids)], rows)
    assert torch.isfinite(run.model(torch.tensor([3, 4]), torch.tensor([5, 6]))).all()


def test_a_run_is_opened_again_at_an_earlier_epoch(run: fedps.Run) -> None:
    again = fedps.load(run.folder, epoch=1)
    assert (again.metrics, again.epoch) == (run.metrics, 1)
    assert not np.array_equal(again.tables["item"].rows, run.tables["item"].rows)
    with pytest.raises(JobError, match=r"--epoch 7: .* has saved 1, 2"):
        fedps.load(run.folder, epoch=7)


def test_what_is_no_run_and_what_has_not_ended_is_told(run: fedps.Run, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="is no run's folder"):
        fedps.load(tmp_path)
    (tmp_path / "job.yaml").write_text((run.folder / "job.yaml").read_text())
    with pytest.raises(DataError, match=r"summary\.json: is not there: the run goes on, or was killed"):
        fedps.load(tmp_path)
    (tmp_path / "summary.json").write_text('{"status": ')
    with pytest.raises(DataError, match=r"summary\.json: is no JSON"):
        fedps.load(tmp_path)


def test_settings_are_keys_of_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = write_job(tmp_path)
    for settings, said in {
        ("epoch", 2): "epoch: is no key of a job; did you mean epochs",
        ("seed", "x"): r"runner\.seed",
        ("learning_rate", -1): r"hyper_parameters\.optimizer\.learning_rate: -1",
        ("server_optimizer.beta1", "x"): r"server_optimizer\.beta1: 'x'",
        ("train_data_dir", Path("nowhere")): rf"runner\.train_data_dir: '{tmp_path}/elsewhere/nowhere'",
    }.items():
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "elsewhere")
        with pytest.raises(JobError, match=said):
            fedps.run(job, quiet=True, **dict([settings]))  # type: ignore[arg-type]
    with pytest.raises(JobError, match="epochs: settings go with a job file"):
        fedps.run(fedps.load_job(job), quiet=True, epochs=2)


def test_a_run_that_fails_raises_and_leaves_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import fedps\n"
        "class Mine(fedps.ClientSelectorBase):\n"
        "    def select(self): raise RuntimeError('planted')\n"
    )  # fmt: skip
    job = write_job(tmp_path, with_coordinator=True, client_selector="mine.Mine")
    with pytest.raises(RunError, match="RuntimeError: planted; what is left of the run is in") as raised:
        fedps.run(job, run_dir=tmp_path / "run", in_process=True, quiet=True)
    assert (raised.value.folder / "report.html").is_file()


def test_a_run_recommends_to_users_of_each_client(run: fedps.Run) -> None:
    best = run.recommend("7", k=3)
    assert len(best) == 3 and best == run.recommend("7", k=3)
    assert [one.score for one in best] == sorted((one.score for one in best), reverse=True)
    (client,) = run._recommenders
    assert run.recommend("7", k=3, client=client) == best
    assert list(run._recommenders) == [client], "one a client, not one a user"
    with pytest.raises(JobError, match="--user 700: no client in"):
        run.recommend("700")
