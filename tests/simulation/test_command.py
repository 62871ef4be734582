"""`fedps data traces`: devices for named or counted clients, and what it says of wrong flags."""

from pathlib import Path

import pytest

from fedps.simulation.traces import read_traces
from tests.launch.rooms import here


def test_traces_of_prepared_data(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "traces.json"
    flags = ("--data", small_data, "--online", "0.5", "--dropout", "0.1", "--speed", "pareto", "--seed", "3")
    assert here(monkeypatch, "data", "traces", *flags, "--out", out) == 0
    traces = read_traces(out)
    assert set(traces) == {file.stem for file in (small_data / "train").glob("*.csv")}
    assert all(trace.dropout == 0.1 and trace.online for trace in traces.values())
    assert f"simulated devices of 10 clients in {out}" in capsys.readouterr().out


def test_a_number_of_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert here(monkeypatch, "data", "traces", "--clients", 100, "--out", tmp_path / "t.json") == 0
    assert set(read_traces(tmp_path / "t.json")) == {str(k) for k in range(100)}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ((), "either --clients N or --data FOLDER"),
        (("--clients", "3", "--data", "x"), "either --clients N or --data FOLDER"),
        (("--data", "nowhere"), "holds no train/<client>.csv"),
        (("--clients", "3", "--online", "2"), "--online 2: must be a share"),
        (("--clients", "3", "--speed", "cauchy"), "cauchy"),
    ],
)
def test_wrong_flags(
    flags: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert here(monkeypatch, "data", "traces", *flags, "--out", tmp_path / "t.json") == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "t.json").exists()
