"""What is written: tables with ratios, JSON for programs, plots that are the same each time."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from bench.writing import NO_PLOTS, as_markdown, write_report
from tests.bench.reports import job, report, scaling, step


def test_aims_come_first_each_with_its_word() -> None:
    text = as_markdown(report(job()), plots=False)
    assert text.index("## Aims") < text.index("## job")
    assert "| one pass, wall, step in the cache | 12 s | 24 s | 0.50 | **missed** |" in text
    assert "| ten workers, geo: training | 1,500,000 samples/s | 2,000,000 samples/s | 1.33 | met |" in text
    assert "| ten workers, sync: training | 150,000 samples/s | – | – | not measured |" in text


def test_what_stands_beside_ours_has_a_ratio() -> None:
    text = as_markdown(report(step()), plots=False)
    assert "|  | measured | median | fedps is … times as good |" in text
    assert "| NCF_MLP: fedps | 1,000,000 samples/s |  |  |" in text
    assert "| NCF_MLP: Adam | 250,000 samples/s | 200,000 | 4.00 |" in text


def test_columns_without_a_value_are_left_out() -> None:
    assert "|  | measured |\n" in as_markdown(report(scaling()), plots=False)


def test_notes_and_failures_are_told() -> None:
    text = as_markdown(report(job(), failed={"wire": "no socket"}), plots=False)
    assert "\nA note.\n" in text
    assert text.endswith("**wire failed**: no socket\n")


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_data_is_told_loudly(synthetic: bool) -> None:
    assert ("SYNTHETIC" in as_markdown(report(synthetic=synthetic), plots=False)) == synthetic


def test_the_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "new" / "results"
    assert write_report(report(job(), scaling()), out) == []
    assert sorted(file.name for file in out.iterdir()) == ["bench.json", "bench.md", "workers.svg"]
    assert "![More workers](workers.svg)" in (out / "bench.md").read_text()
    found: dict[str, Any] = json.loads((out / "bench.json").read_text())
    assert found["seconds"] == 12.35
    assert found["results"]["job"]["figures"][0] == {
        "key": "geo.warm.wall", "what": "geo, warm: wall", "value": 24.0, "unit": "s", "median": 25.0, "ours": "",
    }  # fmt: skip
    assert [aim["met"] for aim in found["aims"]].count(None) == 12


def test_plots_are_the_same_each_time_and_hold_text(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("one", "two"):
        write_report(report(scaling()), tmp_path / name)
    one, two = ((tmp_path / name / "workers.svg").read_bytes() for name in ("one", "two"))
    assert one == two
    assert b">More workers</text>" in one and b">geo</text>" in one
    assert len(one) < 50_000
    assert str(tmp_path).encode() not in one


def test_without_matplotlib_there_are_tables_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **keywords: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    assert write_report(report(scaling()), tmp_path) == [NO_PLOTS]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bench.json", "bench.md"]
    assert ".svg" not in (tmp_path / "bench.md").read_text()


def test_without_curves_nothing_is_said_of_plots(tmp_path: Path) -> None:
    assert write_report(report(job()), tmp_path) == []
