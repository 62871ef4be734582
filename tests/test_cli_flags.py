"""Flags and their ends: what each command hands to its room, and the exit codes; no room does any work here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedps import __version__
from fedps.cli import FAILED, INTERRUPTED, WRONG, main
from fedps.config import Job
from fedps.data.prepared import Split
from fedps.errors import DataError, LostError, RoleError

MANIFEST = {
    "clients": {"0": {"users": 3, "samples": 1500}}, "num_users": 3, "num_items": 9, "source": "s", "synthetic": True,
}  # fmt: skip


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "train").mkdir()
    for client in range(2):
        (tmp_path / "train" / f"{client}.csv").write_text("0,1,1\n")
    path = tmp_path / "job.yaml"
    path.write_text("runner: {train_data_dir: train}\n")
    return path


class Room:
    """Stands for a room's function: notes how it was called, and answers or raises."""

    def __init__(self) -> None:
        self.answer: Any = {"status": "ok"}
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.args, self.kwargs = args, kwargs
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Room:
    room = Room()
    monkeypatch.setattr("fedps.launch.launcher.run", room)
    return room


def fedps(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    """Run the command line in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["fedps", *map(str, args)])
    try:
        main()
    except SystemExit as end:
        assert end.code is None or isinstance(end.code, int)
        return end.code or 0
    return 0


@pytest.mark.parametrize(
    "flags",
    [
        ["JOB", "--worker_num=2", "--server_num=3", "--run_dir=out", "-o", "runner.epochs=5"],
        ["JOB", "--worker-num", "2", "--server-num", "3", "--run-dir", "out", "--override", "runner.epochs=5"],
        ["--worker_num=2", "--server_num", "3", "-m", "JOB", "-o=runner.epochs=5", "--run_dir", "out"],
        ["-o", "runner.epochs=4", "-o", "runner.epochs=5", "-o", "runner.server_num=9", "JOB", "--server_num=3", "--run_dir=out"],
    ],
    ids=["original", "dashes", "-m", "flags win"],
)  # fmt: skip
def test_run_takes_flags_in_every_spelling(
    flags: list[str], job: Path, launch: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fedps(monkeypatch, "run", *[str(job) if f == "JOB" else f for f in flags]) == 0
    given, run_dir, in_process, as_json = launch.args
    assert isinstance(given, Job)
    assert (given.runner.worker_num, given.runner.server_num, given.runner.epochs) == (2, 3, 5)
    assert (run_dir, in_process, as_json) == (Path("out"), False, False)


@pytest.mark.parametrize("flag", ["--in-process", "--in_process"])
def test_run_in_process_and_as_json(flag: str, job: Path, launch: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fedps(monkeypatch, "run", job, flag, "--json") == 0
    assert launch.args[1:] == (None, True, True)


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ({"status": "failed"}, FAILED, ""),
        (RoleError("worker 3", "it broke", "Traceback: here"), FAILED, "error: Traceback: here\nerror: worker 3: it broke"),
        (DataError("a.csv, line 3: bad"), WRONG, "error: a.csv, line 3: bad"),
        (LostError("no server [0]"), WRONG, "error: no server [0]"),
        (KeyboardInterrupt(), INTERRUPTED, "stopped"),
    ],
    ids=["failed", "role", "data", "lost", "ctrl-c"],
)  # fmt: skip
def test_exit_codes_tell_what_happened(
    answer: Any, code: int, said: str,
    job: Path, launch: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    launch.answer = answer
    assert fedps(monkeypatch, "run", job) == code
    out, told = capsys.readouterr()
    assert told.strip() == said
    assert out == ""


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["run"], "no job file: write `fedps run JOB.yaml`"),
        (["run", "JOB", "--epoch", "3"], "--epoch"),
        (["run", "JOB", "--server_num", "many"], "many"),
        (["run", "JOB", "--server_num", "0"], "runner.server_num: 0: must be at least 1"),
        (["run", "JOB", "--worker_num", "7"], "runner.worker_num: 7:"),
        (["infer", "JOB"], "--weights"),
        (["frobnicate"], "frobnicate"),
        (["config", "show"], "no job file"),
        (["data", "prepare", "movielens", "--out", "x", "--partition", "iid", "--clients", "0"], "--clients"),
        (["run", "--epoch"], "see `fedps run --help`"),
        (["data", "prepare", "movielens", "--out", "x", "--partition", "zip"], "zip"),
        (["data", "prepare", "movielens", "--out", "x", "--clients", "5"], "--clients 5: zipcode makes one client"),
        (["data", "synth", "movielens", "--out", "x", "--partition", "iid", "--alpha", "1"], "--alpha 1.0: iid knows no"),
        (["config", "check", "JOB", "-o", "runner.sync_mode=off"], "put the word in quotes"),
    ],
    ids=lambda args: " ".join(args)[:40],
)  # fmt: skip
def test_wrong_flags_exit_with_2_before_anything_starts(
    args: list[str], said: str,
    job: Path, launch: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert fedps(monkeypatch, *[job if a == "JOB" else a for a in args]) == WRONG
    assert launch.args == ()
    assert said in capsys.readouterr().err


def test_prepare_and_synth_hand_over_their_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, synth = Room(), Room()
    prepare.answer = synth.answer = MANIFEST
    monkeypatch.setattr("fedps.data.movielens.prepare", prepare)
    monkeypatch.setattr("fedps.data.synth.synthesize", synth)
    command = ["data", "prepare", "movielens", "--out", tmp_path, "--source", "ml.zip", "--negatives=2", "--seed=3"]
    files = ["--test-negatives", "n", "--test_rating", "r"]
    assert fedps(monkeypatch, *command, *files, "--partition", "dirichlet", "--clients=4", "--alpha=0.1") == 0
    assert prepare.args == (tmp_path, "ml.zip", Split("dirichlet", 4, 0.1), 2, Path("r"), Path("n"), 3)
    assert "1,500" in capsys.readouterr().out
    assert fedps(monkeypatch, "data", "synth", "movielens", "--out", tmp_path, "--users=9", "--per_user=5") == 0
    assert synth.args == (tmp_path, 9, 3706, 5, Split(), 4, 0)
    assert "(SYNTHETIC)" in capsys.readouterr().out


def test_real_data_out_of_reach_is_replaced_only_when_asked_and_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, synth = Room(), Room()
    prepare.answer, synth.answer = DataError("no archive"), MANIFEST
    monkeypatch.setattr("fedps.data.movielens.prepare", prepare)
    monkeypatch.setattr("fedps.data.synth.synthesize", synth)
    command = ["data", "prepare", "movielens", "--out", tmp_path]
    assert fedps(monkeypatch, *command) == WRONG
    assert fedps(monkeypatch, *command, "--or-synthetic", "--source", "mine.zip") == WRONG, "a named source is meant"
    assert synth.args == ()
    capsys.readouterr()
    assert fedps(monkeypatch, *command, "--or-synthetic") == 0
    told = capsys.readouterr().err
    assert "no archive" in told
    assert "NO REAL DATA" in told


def test_infer_and_export_hand_over_their_flags(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    infer, export = Room(), Room()
    infer.answer, export.answer = {"auc": 0.75, "users": 3}, tmp_path / "model.safetensors"
    monkeypatch.setattr("fedps.client.infer.infer", infer)
    monkeypatch.setattr("fedps.export.export_run", export)
    assert fedps(monkeypatch, "infer", job, "--weights", "w.safetensors", "--json") == 0
    assert infer.args[1] == Path("w.safetensors")
    assert json.loads(capsys.readouterr().out) == {"auc": 0.75, "users": 3}
    assert fedps(monkeypatch, "infer", job, "--weights", "w.safetensors") == 0
    assert capsys.readouterr().out == "auc: 0.7500\nusers: 3\n"
    assert (
        fedps(monkeypatch, "export", tmp_path, "--out", "m", "--epoch=2", "--private", "--format", "safetensors") == 0
    )
    assert export.args == (tmp_path, Path("m"), 2, True)
    assert str(export.answer) in capsys.readouterr().out


def test_config_show_and_check(job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert fedps(monkeypatch, "config", "check", job, "-o", "runner.sync_mode=sync", "-o", "runner.geo_step=3") == 0
    out, told = capsys.readouterr()
    assert out.strip().endswith("no mistakes")
    assert told == "note: runner.geo_step: 3: has no effect with sync_mode sync, only with geo\n"
    assert fedps(monkeypatch, "config", "show", job, "-o", "runner.epochs=3") == 0
    assert "epochs: 3" in capsys.readouterr().out


def test_version_and_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert fedps(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == __version__
    assert fedps(monkeypatch, "--help") == 0
    told = capsys.readouterr().out
    assert "fedps run examples/quickstart.yaml" in told
    assert all(command in told for command in ("config", "data", "export", "infer", "run"))


@pytest.mark.parametrize("args", [["--help"], ["config", "check", "JOB"], ["config", "show", "JOB"]], ids=" ".join)
def test_what_needs_no_room_loads_none(args: list[str], job: Path) -> None:
    code = (
        "import sys\nfrom fedps.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'numba', 'grpc', 'pyarrow', 'numpy', 'asyncio.events'}\n"
        "print(sorted(heavy & set(sys.modules)) + [m for m in sys.modules if m.startswith('fedps.') and "
        "m.split('.')[1] not in ('cli', 'config', 'errors')])"
    )
    argv = [str(job) if a == "JOB" else a for a in args]
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
