"""From prepared data to a run, nothing edited between: whatever kind of data was prepared."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fedps.cli import WRONG
from fedps.data.prepare.clicks import synthesize_clicks
from fedps.data.prepare.featured import prepare_fields, prepare_ratings, prepare_sequences
from fedps.data.prepare.synth import synthesize
from fedps.data.prepare.write import Split
from tests.data.prepare.conftest import FILES
from tests.launch.rooms import here

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


@pytest.mark.parametrize(
    ("make", "mode"),
    [(_pairs, "NCF_MLP"), (_ratings, "DeepFM"), (_sequences, "SASRec"), (_fields, "DeepFM"), (_clicks, "DeepFM")],
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
    assert here(monkeypatch, "run", "data/job.yaml", "--in-process", "--json", "-o", "runner.epochs=2") == 0
    summary = json.loads(capsys.readouterr().out)
    assert all(summary["metrics"][name] is not None for name in ("loss", *(["hr@10"] if make is _pairs else [])))


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
