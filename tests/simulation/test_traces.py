"""Files of traces: what is written is read, mistakes name client and field, and times of a day go round."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedps.errors import JobError
from fedps.simulation.traces import FORMAT, Trace, read_traces, write_traces
from fedps.types import ClientId

A, B = ClientId("a"), ClientId("hospital-north")


def written(folder: Path, clients: Any, form: str = FORMAT) -> Path:
    path = folder / "traces.json"
    path.write_text(json.dumps({"format": form, "clients": clients}))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    traces = {
        A: Trace(5200.0, 6.4e5),
        B: Trace(10.5, 3.0, 0.25, 86400.0, ((0.0, 30000.0), (61000.5, 86400.0))),
    }
    write_traces(tmp_path / "t.json", traces, {"seed": 3})
    assert read_traces(tmp_path / "t.json") == traces
    assert json.loads((tmp_path / "t.json").read_text())["about"] == {"seed": 3}


def test_what_is_left_out_is_harmless(tmp_path: Path) -> None:
    path = written(tmp_path, {"a": {"speed": 3, "bandwidth": 4}})
    assert read_traces(path) == {A: Trace(3.0, 4.0)}


GOOD = {"speed": 1.0, "bandwidth": 1.0}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"bandwidth": 1}, "speed: is missing"),
        ({"speed": 1}, "bandwidth: is missing"),
        (GOOD | {"speed": 0}, "speed: 0: must be a number above 0"),
        (GOOD | {"speed": "fast"}, "speed: 'fast': must be a number above 0"),
        (GOOD | {"speed": float("inf")}, "speed: inf: must be"),
        (GOOD | {"speed": float("nan")}, "speed: nan: must be"),
        (GOOD | {"bandwidth": True}, "bandwidth: True: must be"),
        (GOOD | {"dropout": 1}, "dropout: 1: must be a probability"),
        (GOOD | {"dropout": -0.1}, "dropout: -0.1: must be a probability"),
        (GOOD | {"colour": 1}, "colour: there is no such field; there are speed"),
        (GOOD | {"online": [[0, 1]]}, "period: is missing"),
        (GOOD | {"period": -1}, "period: -1: must be"),
        (GOOD | {"period": 10, "online": [0, 1]}, r"online: \[0, 1\]: must be a list"),
        (GOOD | {"period": 10, "online": [[5, 5]]}, r"online: \[5, 5\]: must lie"),
        (GOOD | {"period": 10, "online": [[0, 5], [4, 6]]}, r"online: \[4, 6\]: must lie"),
        (GOOD | {"period": 10, "online": [[0, 11]]}, r"online: \[0, 11\]: must lie"),
        (7, "7: must be {speed"),
    ],
)
def test_mistakes_name_client_and_field(tmp_path: Path, fields: Any, told: str) -> None:
    path = written(tmp_path, {"a": GOOD, "hospital-north": fields})
    with pytest.raises(JobError, match=f"client 'hospital-north': {told}"):
        read_traces(path)


def test_all_mistakes_are_told_at_once_but_not_a_thousand(tmp_path: Path) -> None:
    with pytest.raises(JobError) as caught:
        read_traces(written(tmp_path, {str(k): {"speed": 0} for k in range(20)}))
    assert len(caught.value.mistakes) == 11
    assert "30 more mistakes" in caught.value.mistakes[-1]


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 10**5, '{"format": "fedps.traces/1"}', '{"clients": {}}'])
def test_no_traces_at_all(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(JobError, match=r"t\.json: "):
        read_traces(tmp_path / "t.json")


def test_a_client_that_stands_there_twice(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"format": "fedps.traces/1", "clients": {"a": {}, "a": {}}}')
    with pytest.raises(JobError, match="'a' stands there twice"):
        read_traces(tmp_path / "t.json")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="cannot be read: No such file"):
        read_traces(tmp_path / "none.json")
    with pytest.raises(JobError, match="cannot be written"):
        write_traces(tmp_path / "none" / "t.json", {A: Trace(1, 1)}, {})


@pytest.mark.parametrize(
    ("now", "then"),
    [(0, 10), (10, 10), (19, 19), (20, 50), (55, 55), (60, 110), (115, 115), (1234, 1250), (1299, 1310)],
)
def test_when_a_client_comes(now: float, then: float) -> None:
    assert Trace(1, 1, period=100.0, online=((10.0, 20.0), (50.0, 60.0))).comes_at(now) == then


def test_a_client_without_times_is_always_there() -> None:
    assert Trace(1, 1).comes_at(1e6) == 1e6
