"""The page of a run: well-formed, self-contained, and safe with any name."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from fedps.events.ledger import Ledger
from fedps.pages.plots import bands, plot, shares, spark
from fedps.pages.report import write_report
from fedps.pages.words import _of_tables, facts
from tests.conftest import MakeJob

HOSTILE = '<script>alert("x")</script>'


def figure(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def test_a_plot_is_well_formed_and_lies_within_its_frame() -> None:
    lines = {"one": [(0, 1.0), (10, -2.0)], HOSTILE: [(5, 3.0)], "none": []}
    root = figure(plot("a < b", lines))
    svg = root.find("svg")
    assert svg is not None
    width, height = map(float, svg.attrib["viewBox"].split()[2:])
    for polyline in root.iter("polyline"):
        for pair in polyline.attrib["points"].split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height
    assert len(list(root.iter("polyline"))) == 2, "a line without points is left out"
    assert HOSTILE in [t.text for t in root.iter("title")], "shown as text, not run"


def test_many_tables_are_told_by_what_they_have_together() -> None:
    counts = {"rows": 3, "made": 3, "admitted": 0, "waiting": 0, "expired": 0, "evicted": 0, "bytes": 1 << 20}
    few, many = ({f"t{k}": counts for k in range(number)} for number in (2, 30))
    assert _of_tables(few) == "t0: 3 rows, 1.0 MiB (3 made); t1: 3 rows, 1.0 MiB (3 made)"
    assert _of_tables(many) == "30, with 90 rows, 30.0 MiB (90 made) together; each stands in summary.json"


@pytest.mark.parametrize("lines", [{}, {"a": []}])
def test_nothing_is_drawn_of_no_points(lines: dict[str, list[tuple[float, float]]]) -> None:
    assert not plot("t", lines)


def test_one_point_and_a_flat_line_are_drawn() -> None:
    for points in ([(1, 1.0)], [(1, 1.0), (2, 1.0)]):
        assert "nan" not in plot("t", {"a": points}).lower()


def test_ticks_of_what_is_counted_are_whole_numbers() -> None:
    root = figure(plot("t", {"a": [(1, 0.5), (2, 0.6), (3, 0.7)]}, whole=True))
    ticks = [t.text for t in root.iter("text") if t.attrib["text-anchor"] == "middle"]
    assert ticks == ["1", "2", "3"]
    alone = figure(plot("t", {"a": [(1, 0.5)]}, whole=True))
    assert [t.text for t in alone.iter("text") if t.attrib["text-anchor"] == "middle"] == ["1"]


def test_a_level_is_dashed_and_within_the_frame() -> None:
    root = figure(plot("t", {"a": [(1, 0.5), (2, 0.6)]}, levels={"popularity": 0.9}))
    (dashed,) = [p for p in root.iter("path") if "stroke-dasharray" in p.attrib]
    assert 0 <= float(dashed.attrib["d"].split(",")[1].split("H")[0]) <= 260


@pytest.mark.parametrize("count", [11, 1000])
def test_a_band_of_many_lines_is_as_small_as_one_of_few(count: int) -> None:
    lines = {str(k): [(x / 10, k / count + x) for x in range(1, 20)] for k in range(count)}
    drawn = bands("t", lines)
    root = figure(drawn)
    assert (len(list(root.iter("polygon"))), len(list(root.iter("polyline")))) == (2, 1)
    assert len(drawn) < 8_000
    assert f"median of {count}" in drawn


def test_a_spark_needs_two_points_and_a_bar_something_to_share() -> None:
    assert spark([(0, 1.0)]) == "" != spark([(0, 1.0), (1, 1.0)])
    assert shares("t", {"a": 0.0}, "s") == ""
    assert [float(r.attrib["width"]) for r in figure(shares("t", {"a": 1.0, "b": 3.0}, "s")).iter("rect")] == [
        134.0,
        402.0,
    ]


@pytest.fixture
def summary(make_job: MakeJob) -> dict[str, Any]:
    return Ledger(make_job(), 0.0).summary(1.0, f"worker 3: {HOSTILE}")


def test_the_page_of_a_failed_run_shows_why_and_runs_nothing(summary: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    progress = {"time": 1.0, "role": "worker", "id": HOSTILE, "event": "progress", "epoch": 0, "batch": 1, "batches": 2}
    lines = [{**progress, "loss": None, "auc": 0.5}, {**progress, "loss": 0.5, "auc": 0.5}]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in lines))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "worker 3: &lt;script&gt;" in page
    assert page.count("<script") == 1, "its own, that sorts the table"
    assert "alert(" not in page.replace("alert(&quot;", "")
    assert "http" not in page


def test_faults_are_told_only_where_there_are_some(summary: dict[str, Any]) -> None:
    assert "faults" not in facts(summary)
    summary["faults"]["lost_workers"] = ["3"]
    assert facts(summary)["faults"] == "lost workers: ['3']"


def test_the_page_names_the_coordinator_and_logs_that_lie_elsewhere(summary: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("")
    for log_dir, link in ((tmp_path / "log", True), (tmp_path / "<elsewhere>", False)):
        said = {**summary, "log_dir": str(log_dir), "coordinator": True}
        (tmp_path / "summary.json").write_text(json.dumps(said))
        page = write_report(tmp_path).read_text(encoding="utf-8")
        assert ('href="log/"' in page) is link
        assert ("&lt;elsewhere&gt;" in page) is not link
        assert "1 server(s), a coordinator" in page


def test_what_is_not_known_is_left_out(summary: dict[str, Any], tmp_path: Path) -> None:
    assert facts(summary) == {"seconds": "1.0 in all"}
    (tmp_path / "events.jsonl").write_text("")
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert ">samples" not in write_report(tmp_path).read_text(encoding="utf-8")


def test_warnings_are_told(summary: dict[str, Any]) -> None:
    assert facts({**summary, "warnings": ["one", "two"]})["warnings"] == "one; two"
