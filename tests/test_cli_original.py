"""Command lines of the original, pasted: its flags, its trainers, its ways to write an override."""

from pathlib import Path

import pytest

from fedps.launch.addresses import Address
from tests.launch.rooms import Room, here, launcher, write_tiny_job


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return write_tiny_job(tmp_path)


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Room:
    return launcher(monkeypatch)


SEED = ["--worker_num=2", "--workers=127.0.0.1:9000,127.0.0.1:9001", "--server_num=1", "--servers=127.0.0.1:0"]
SEED += ["--coordinator_num=1", "--coordinators=127.0.0.1:0"]


@pytest.mark.parametrize("spaced", [False, True], ids=["=", "blank"])
@pytest.mark.parametrize("script", [["../../../tools/static_fl_trainer.py"], ["static_ps_trainer.py"], []])
def test_the_original_command_line_pasted(
    spaced: bool, script: list[str],
    job: Path, launch: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    flags = [word for flag in SEED for word in (flag.split("=") if spaced else [flag])]
    assert here(monkeypatch, "run", *flags, "--log_dir=log", *script, "-m", job) == 0
    given, _, _, _, orders, _ = launch.args
    assert (given.runner.worker_num, given.runner.server_num, given.runner.with_coordinator) == (2, 1, True)
    at = Address("127.0.0.1", 0)
    assert (orders.server_at, orders.coordinator_at, orders.log_dir, orders.script) == ((at,), at, Path("log"), None)
    told = capsys.readouterr().err
    assert told.count("the built-in trainer does its work") == len(script)
    assert told.count("--workers: only their number counts") == 1


TRAINER = "import paddle\nfrom utils.static_ps.reader_helper import get_reader\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("static_fl_trainer.py", TRAINER),
        ("static_ps_trainer.py", "import paddle\n"),
        ("my_trainer.py", TRAINER),
    ],
)
def test_a_trainer_of_paddlerec_that_is_there_is_stood_in_for(
    name: str, text: str,
    job: Path, launch: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    script = tmp_path / name
    script.write_text(text)
    assert here(monkeypatch, "run", script, "-m", job) == 0
    assert launch.args[4].script is None
    assert capsys.readouterr().err.count("the built-in trainer does its work") == 1
    script.write_text("import fedps\n" + text)
    assert here(monkeypatch, "run", script, "-m", job) == 0
    assert Path(launch.args[-2].script.script) == script, "one that was written for fedps runs, whatever its name"


@pytest.mark.parametrize(
    "flags",
    [
        ["-m", "JOB", "-o", "runner.epochs=5", "runner.print_interval=7"],
        ["-o=runner.epochs=5", "runner.print_interval=7", "-m", "JOB"],
        ["--override", "runner.epochs=5", "runner.print_interval=7", "JOB"],
    ],
    ids=["last", "=", "word"],
)
def test_an_override_may_have_many_settings_as_the_original_takes_them(
    flags: list[str], job: Path, launch: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(job) if f == "JOB" else f for f in flags]
    assert here(monkeypatch, "run", "../../../tools/static_ps_trainer.py", *words) == 0
    given = launch.args[0].runner
    assert (given.epochs, given.print_interval) == (5, 7)


def test_flags_of_newer_launchers(
    job: Path, launch: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = ["--trainer_num=2", "--trainers=127.0.0.1:9000,127.0.0.1:9001", "--run_mode=ps", "--config_yaml", str(job)]
    assert here(monkeypatch, "run", *newer, "-bf16", "True") == 0
    assert launch.args[0].runner.worker_num == 2
    told = capsys.readouterr().err
    assert "note: -bf16 True: has no effect" in told
    assert told.count("note:") == 2


@pytest.mark.parametrize("flag", ["--heter_devices=cpu;cpu", "--http_port=8080"])
def test_flags_of_the_original_without_a_meaning_get_one_note(
    flag: str, job: Path, launch: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here(monkeypatch, "run", job, flag) == 0
    told = capsys.readouterr().err
    assert told.startswith(f"note: {flag.replace('=', ' ')}: has no effect")
    assert told.count("note:") == 1
