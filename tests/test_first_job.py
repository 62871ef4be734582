"""From prepared data to a run, nothing edited between: whatever kind of data was prepared."""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedps.cli import WRONG
from fedps.data.prepare.clicks import synthesize_clicks
from fedps.data.prepare.featured import prepare_fields, prepare_ratings, prepare_sequences
from fedps.data.prepare.synth import synthesize
from fedps.data.prepare.table import Ask, prepare_table
from fedps.data.prepare.write import Split
from tests.data.prepare.conftest import FILES
from tests.launch.rooms import here, launcher
from tests.test_prepared_table import taken

TWO = Split("iid", 2)


def _archive(out: Path) -> str:
    path = out.parent / "tiny.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in FILES.items():
            archive.writestr(f"ml-1m/{name}", text.encode("latin-1"))
    return str(path)


def _pairs(out: Path) -> None:
    synthesize(out, users=30, items=220, per_user=20, split=TWO, seed=1)


def _ratings(out: Path) -> None:
    prepare_ratings(out, _archive(out), TWO, seed=0)


def _sequences(out: Path) -> None:
    prepare_sequences(out, _archive(out), TWO, seed=0)


def _fields(out: Path) -> None:
    lines = [f"{(-1) ** k} {10 + k % 6}:1 {100 + k % 7}:1 {500 - k % 2}:1" for k in range(200)]
    (out.parent / "some.libfm").write_text("\n".join(lines))
    prepare_fields(out, [out.parent / "some.libfm"], 2, seed=0)


def _clicks(out: Path) -> None:
    synthesize_clicks(out, samples=400, clients=2, values=1000, seed=0)


def _table(out: Path, **ask: Any) -> None:
    columns = taken()
    lines = [",".join(columns), *(",".join(row) for row in zip(*columns.values(), strict=True))]
    (out.parent / "taken.csv").write_text("\n".join(lines))
    genres = "\n".join(f"B{item:04},{'odd' if item % 2 else 'even'}" for item in range(240))
    (out.parent / "items.csv").write_text(f"item_id,kind\n{genres}")
    prepare_table(out, Ask([out.parent / "taken.csv"], **ask), say=lambda _: None)


def _table_pairs(out: Path) -> None:
    _table(out, clients=2)


def _table_items(out: Path) -> None:
    _table(out, clients=2, items=out.parent / "items.csv")


def _table_ratings(out: Path) -> None:
    _table(out, clients=2, task="ratings", positive=">= 4")


def _table_sequences(out: Path) -> None:
    _table(out, clients=2, task="sequences")


def _table_of_a_site(out: Path) -> None:
    _table(out, site="north")


@pytest.mark.parametrize(
    ("make", "mode"),
    [
        (_pairs, "NCF_MLP"),
        (_ratings, "DeepFM"),
        (_sequences, "SASRec"),
        (_fields, "DeepFM"),
        (_clicks, "DeepFM"),
        (_table_pairs, "NCF_MLP"),
        (_table_items, "DeepFM"),
        (_table_ratings, "NCF_MLP"),
        (_table_sequences, "SASRec"),
        (_table_of_a_site, "MF"),
    ],
)
def test_the_first_job_runs_as_it_stands(
    make: Callable[[Path], None],
    mode: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "data")
    assert here(monkeypatch, "init", "data") == 0
    said = capsys.readouterr().out
    assert f"mode: {mode}" in said
    assert said.endswith("written to data/job.yaml; next: fedps run data/job.yaml\n")
    quick = ("--in-process", "--json", "-o", "runner.epochs=2", "-o", "runner.compiled_step=false")
    assert here(monkeypatch, "run", "data/job.yaml", *quick) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["status"] == "ok"
    assert sum(value is not None for value in summary["metrics"].values()) >= 3, "loss, and what is held out"


def test_a_job_that_is_there_is_replaced_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _pairs(tmp_path / "data")
    mine = tmp_path / "data" / "job.yaml"
    mine.write_text("mine")
    assert here(monkeypatch, "init", "data") == WRONG
    assert "data/job.yaml: is there already; --force replaces it, --out FILE writes another" in capsys.readouterr().err
    assert here(monkeypatch, "init", "data", "--out", "other.yaml", "--model", "MF") == 0
    assert mine.read_text() == "mine"
    assert here(monkeypatch, "init", "data", "--force") == 0
    assert "mode: NCF_MLP" in mine.read_text()
    assert here(monkeypatch, "init", "data", "--out", "no/such/job.yaml") == WRONG
    assert "no/such/job.yaml: cannot be written" in capsys.readouterr().err


def test_a_folder_of_prepared_data_is_run_by_the_job_that_lies_there_or_by_a_first_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch = launcher(monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert here(monkeypatch, "run", tmp_path) == WRONG
    assert "holds no prepared data: of its manifest.json there is none" in capsys.readouterr().err
    _pairs(tmp_path / "data")
    assert here(monkeypatch, "run", "data", "--in-process") == 0
    assert "data/job.yaml: is written, a first job for this data; its comments say" in capsys.readouterr().err
    assert launch.args[0].hyper_parameters.mode == "NCF_MLP"
    assert here(monkeypatch, "init", "data", "--model", "MF", "--force") == 0
    capsys.readouterr()
    assert here(monkeypatch, "run", "data", "-o", "runner.epochs=7") == 0
    assert "is written" not in capsys.readouterr().err
    assert (launch.args[0].hyper_parameters.mode, launch.args[0].runner.epochs) == ("MF", 7)
    assert here(monkeypatch, "run", "data", "data") == WRONG
    assert "'data': is neither a job file" in capsys.readouterr().err


def test_three_commands_lead_from_a_file_of_ones_own_to_titles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    columns = taken()
    lines = [",".join(columns), *(",".join(row) for row in zip(*columns.values(), strict=True))]
    Path("taken.csv").write_text("\n".join(lines))
    Path("titles.csv").write_text("item_id,title\n" + "\n".join(f"B{k:04},Book {k}" for k in range(240)))
    files = ("taken.csv", "--items", "titles.csv")
    assert here(monkeypatch, "data", "prepare", "table", *files, "--clients", "2", "--out", "data") == 0
    assert (
        here(monkeypatch, "run", "data", "--in-process", "-o", "runner.epochs=2", "-o", "runner.compiled_step=false")
        == 0
    )
    capsys.readouterr()
    assert here(monkeypatch, "recommend", "latest", "--user", "user-001", "-k", "3") == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 3
    assert all(re.search(r" B0(\d{3})  Book \d+$", line) for line in told), told
    assert here(monkeypatch, "doctor", "latest") == 0
    found = capsys.readouterr().out
    assert "ok, 2 of 2 epochs done" in found
    assert re.search(r"items\.csv +\d+ items, with titles", found)
