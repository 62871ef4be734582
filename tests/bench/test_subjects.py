"""Each subject in a tiny form, with real processes and sockets; nothing is asserted of how fast it was."""

import math
from pathlib import Path

import pytest

from bench.apart import apart
from bench.records import Options, Result
from bench.subjects import SUBJECTS


def checked(subject: str, data: Path) -> Result:
    """Measure in a process of its own, as the suite does, and look at what holds for every subject."""
    result = apart(subject, Options(str(data), "tiny"), lambda line: None)
    assert result.subject == subject
    keys = [figure.key for figure in result.figures]
    assert keys and len(keys) == len(set(keys))
    for figure in result.figures:
        assert math.isfinite(figure.value) and figure.value > 0, figure
        assert not figure.ours or figure.ours in keys
    assert all(points for curve in result.curves for _, points in curve.lines)
    return result


def test_table(small_data: Path) -> None:
    result = checked("table", small_data)
    assert {figure.key.rpartition(".")[2] for figure in result.figures} >= {"fedps", "numpy", "torch", "dict", "memory"}
    assert [curve.key for curve in result.curves] == ["rows"]


@pytest.mark.slow
def test_wire(small_data: Path) -> None:
    result = checked("wire", small_data)
    assert {figure.key.rpartition(".")[2] for figure in result.figures} == {"p50", "p99", "rate"}
    assert {"1.50.fedps.p50", "2.100.socket.rate"} <= {figure.key for figure in result.figures}


def test_size(small_data: Path) -> None:
    result = checked("size", small_data)
    assert 1 < result.find("grown.said").value / 136 < 1.3  # type: ignore[union-attr]
    assert result.find("max_rows.rows").value == 5_000  # type: ignore[union-attr]


@pytest.mark.slow
def test_ctr(small_data: Path) -> None:
    keys = {figure.key for figure in checked("ctr", small_data).figures}
    assert keys == {"DeepFM.fedps", "DeepFM.fused", "DeepFM.sparse", "workers.1", "workers.4"}


@pytest.mark.slow
def test_vertical(small_data: Path) -> None:
    keys = [figure.key for figure in checked("vertical", small_data).figures]
    assert keys[:3] == ["parts", "whole", "torch"]
    assert set(keys[3:]) == {
        "cost.top", *(f"cost.{party}, {way}" for party in ("items", "users") for way in ("forward", "backward")),
    }  # fmt: skip


@pytest.mark.slow
def test_central(small_data: Path) -> None:
    result = checked("central", small_data)
    assert [row[0] for row in result.sheets[0].rows] == ["central", "geo"]


@pytest.mark.slow
def test_psi(small_data: Path) -> None:
    result = checked("psi", small_data)
    assert [figure.key for figure in result.figures] == [
        "multiplication", "400.seconds", "400.processor", "400.bytes", "400.memory",
    ]  # fmt: skip
    assert 36 <= result.find("400.bytes").value < 60  # type: ignore[union-attr]


def test_rounds(small_data: Path) -> None:
    assert [figure.key for figure in checked("rounds", small_data).figures] == ["2.median", "2.longest"]


def test_saves(small_data: Path) -> None:
    assert len(checked("saves", small_data).figures) == 9


def test_stalls(small_data: Path) -> None:
    keys = {figure.key for figure in checked("stalls", small_data).figures}
    assert keys >= {"idle.p99", "save.p99", "save.longest", "snapshot.longest", "freeze", "settle", "lay"}


@pytest.mark.slow
def test_selection(small_data: Path) -> None:
    result = checked("selection", small_data)
    assert [curve.key for curve in result.curves] == ["selection"]
    assert {"random.half.ratio", "random.end.time", "random.last", "all.last"} <= {
        figure.key for figure in result.figures
    }


@pytest.mark.slow
def test_merges(small_data: Path) -> None:
    result = checked("merges", small_data)
    assert [figure.key for figure in result.figures] == ["short.geo adaptive.hr"]
    (sheet,) = result.sheets
    (row,) = sheet.rows
    assert row[0] == "geo adaptive" and len(row) == len(sheet.head)
    assert row[1] == f"{result.figures[0].value:.3f}", "the mean of both seeds"
    assert [[x for x, _ in points] for curve in result.curves for _, points in curve.lines] == [[1.0, 2.0]]


@pytest.mark.slow
def test_step(small_data: Path) -> None:
    result = checked("step", small_data)
    assert [f.key for f in result.figures] == [f"NCF_MLP.{who}" for who in ("fedps", "adam", "fused", "sparse")]


@pytest.mark.slow
def test_job(small_data: Path) -> None:
    result = checked("job", small_data)
    assert {"geo.cold.start", "geo.warm.rate", "geo.warm.pss", "async.rate", "sync.wall"} <= {
        figure.key for figure in result.figures
    }


@pytest.mark.slow
def test_scaling(small_data: Path) -> None:
    result = checked("scaling", small_data)
    assert [figure.key for figure in result.figures] == ["workers.1", "workers.12", "servers.2"]
    assert [curve.key for curve in result.curves] == ["workers", "servers"]


@pytest.mark.slow
def test_durability(small_data: Path) -> None:
    geo = "geo, windows of 10 batches"
    assert [figure.key for figure in checked("durability", small_data).figures] == [
        f"{geo}.durability group", f"{geo}.durability none", f"{geo}.ratio", f"{geo}.processor", "restart",
    ]  # fmt: skip


@pytest.mark.slow
def test_tls(small_data: Path) -> None:
    geo = "geo, windows of 10 batches"
    assert [figure.key for figure in checked("tls", small_data).figures] == [
        f"{geo}.mTLS", f"{geo}.in the clear", f"{geo}.ratio", f"{geo}.processor",
    ]  # fmt: skip


@pytest.mark.slow
def test_parties(small_data: Path) -> None:
    assert [figure.key for figure in checked("parties", small_data).figures] == [
        f"made up.{side}" for side in ("federated", "joined", "active", "passive")
    ]


@pytest.mark.slow
def test_cut(small_data: Path) -> None:
    assert [figure.key for figure in checked("cut", small_data).figures] == [
        "joined", "direct", "direct.ratio", "relay", "relay.ratio",
    ]  # fmt: skip


def test_every_subject_is_tried_here() -> None:
    tried = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert set(SUBJECTS) <= tried
