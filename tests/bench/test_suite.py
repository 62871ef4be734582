"""The suite: subjects in processes of their own, one that fails beside others that do not, and the command."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bench.apart import BenchError, apart
from bench.clock import in_turn, quantile, rate
from bench.machine import describe_machine
from bench.records import Options
from bench.subjects import SUBJECTS
from bench.suite import Report, run_suite
from fedps.errors import JobError


def run(*subjects: str, data: Path | None) -> tuple[Report, str]:
    told = io.StringIO()
    return run_suite(subjects, data, "tiny", Console(file=told, width=200)), told.getvalue()


def bench(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[2])  # it is not installed
    path = {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "bench", *words]
    return subprocess.run(
        command, cwd=cwd, env=os.environ | path, capture_output=True, text=True, check=False, timeout=100
    )


def test_subjects_run_in_the_suites_order_on_the_data(small_data: Path) -> None:
    report, told = run("saves", "rounds", data=small_data)
    assert list(report.results) == ["rounds", "saves"]
    assert report.failed == {}
    assert (report.data["clients"], report.data["users"], report.data["synthetic"]) == (10, 120, True)
    assert SUBJECTS["rounds"] in told
    assert "/" not in report.data["source"]


def test_a_subject_that_fails_does_not_stop_the_next(small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SUBJECTS, "clock", "a module that measures nothing")
    report, told = run("clock", "saves", data=small_data)
    assert list(report.failed) == ["clock"]
    assert list(report.results) == ["saves"]
    assert "has no attribute 'measure'" in told


def test_a_process_that_fails_is_told_by_its_last_words(small_data: Path) -> None:
    with pytest.raises(BenchError, match=r"(?s)nothing: ended with exit code 1\n.*No module named 'bench.nothing'"):
        apart("nothing", Options(str(small_data), "tiny"), lambda line: None)


def test_what_a_subject_is_at_is_told(small_data: Path) -> None:
    told: list[str] = []
    apart("saves", Options(str(small_data), "tiny"), told.append)
    assert told == ["100 rows, all", "100 rows, base", "100 rows, delta"]


def test_an_unknown_subject() -> None:
    with pytest.raises(JobError, match="'speed': no such subject; there are job, step, table"):
        run("speed", data=None)


@pytest.mark.parametrize("manifest", [None, "", "{", "[]", '{"format": "another"}'])
def test_a_folder_without_prepared_data(manifest: str | None, tmp_path: Path) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(JobError, match=r"--data .*: holds no prepared data; make some by"):
        run("saves", data=tmp_path)


def test_the_command_writes_its_files(small_data: Path, tmp_path: Path) -> None:
    done = bench("rounds", "--quick", "--data", str(small_data), "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not measured" in done.stdout and "written: out/bench.md, bench.json" in done.stdout
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert (found["size"], list(found["results"])) == ("quick", ["rounds"])
    assert str(tmp_path) not in (tmp_path / "out" / "bench.json").read_text()


def test_the_commands_mistakes_and_help(tmp_path: Path) -> None:
    done = bench("speed", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: 'speed': no such subject" in done.stderr
    text = bench("--help", cwd=tmp_path).stdout
    assert all(f"{subject} " in text and about in " ".join(text.split()) for subject, about in SUBJECTS.items())
    assert list(tmp_path.iterdir()) == []


def test_contenders_take_turns() -> None:
    turns: list[str] = []
    taken = in_turn({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, 2)
    assert turns == ["a", "b"] * 3  # the first round does not count
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 2, "b": 2}


def test_rates_are_of_the_best_and_the_median_round() -> None:
    figure = rate("key", "what", "rows/s", 100, [4.0, 2.0, 5.0], ours="other")
    assert (figure.value, figure.median, figure.ours) == (50.0, 25.0, "other")
    assert [quantile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 2.0, 3.0, 3.0]


def test_the_machine_is_described_without_its_name() -> None:
    import platform

    facts = describe_machine()
    assert {"processor", "cores", "memory", "python", "numpy"} <= facts.keys()
    assert platform.node() not in facts.values()
