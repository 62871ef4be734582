"""Flags and their ends: what each command hands to its room, and the exit codes; no room does any work here."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedps import __version__
from fedps.cli import FAILED, INTERRUPTED, WRONG, main
from fedps.cli.app import signals_as_interrupt
from fedps.config import Allow, Job
from fedps.data.prepare.write import Split
from fedps.errors import DataError, LostError, RoleError
from fedps.events.events import Scripted
from fedps.launch.addresses import Address
from tests.launch.rooms import Room, here, launcher, write_tiny_job

MANIFEST = {
    "clients": {"0": {"users": 3, "samples": 1500}}, "num_users": 3, "num_items": 9, "source": "s", "synthetic": True,
}  # fmt: skip


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return write_tiny_job(tmp_path)


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Room:
    return launcher(monkeypatch)


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
    assert here(monkeypatch, "run", *[str(job) if f == "JOB" else f for f in flags]) == 0
    given, run_dir, in_process, as_json, *_ = launch.args
    assert isinstance(given, Job)
    assert (given.runner.worker_num, given.runner.server_num, given.runner.epochs) == (2, 3, 5)
    assert (run_dir, in_process, as_json) == (Path("out"), False, False)


def test_what_protects_connections_is_the_jobs_or_a_flags(
    job: Path, launch: Room, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert here(monkeypatch, "run", job, "--certs", "here") == 0
    assert (launch.args[0].security.certs, launch.args[0].security.insecure) == (tmp_path / "here", False)
    job.write_text(job.read_text() + "security: {certs: certs}\n")
    assert here(monkeypatch, "run", job, "--insecure") == 0
    assert (launch.args[0].security.certs, launch.args[0].security.insecure) == (job.parent / "certs", True)


@pytest.mark.parametrize("flag", ["--in-process", "--in_process"])
def test_run_in_process_and_as_json(flag: str, job: Path, launch: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    assert here(monkeypatch, "run", job, flag, "--json") == 0
    assert launch.args[1:4] == (None, True, True)


def test_flags_win_over_the_job_file(job: Path, launch: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    job.write_text("runner: {train_data_dir: train, with_coordinator: true, server_num: 3}\n")
    for flags, coordinated in (([], True), (["--coordinator_num", "0"], False), (["--coordinator_num=1"], True)):
        assert here(monkeypatch, "run", job, *flags, "--server_num=2") == 0
        assert launch.args[0].runner.with_coordinator is coordinated
        assert launch.args[0].runner.server_num == 2


def test_what_only_a_person_can_allow_is_passed_on(job: Path, launch: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, allow in (
        ([], Allow()),
        (["--allow-commands"], Allow(commands=True)),
        (["--allow_private_dump"], Allow(private_dump=True)),
    ):
        assert here(monkeypatch, "run", job, *flags) == 0
        assert launch.args[4].allow == allow


def test_a_script_and_what_it_takes(job: Path, launch: Room, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text("")
    more = ["--", "--lr", "3", "other.yaml"]
    for words in ([script, "-m", job, *more], ["-m", job, script, *more], [script, job, *more], [job, script, *more]):
        assert here(monkeypatch, "run", *words) == 0
        assert launch.args[4].script == Scripted(str(script), ["--lr", "3", "other.yaml"], str(Path.cwd()))
        assert launch.args[0].name == "job"


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
    assert here(monkeypatch, "run", job) == code
    out, told = capsys.readouterr()
    assert told.strip() == said
    assert out == ""


def test_prepare_and_synth_hand_over_their_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, synth = Room(), Room()
    prepare.answer = synth.answer = MANIFEST
    monkeypatch.setattr("fedps.data.prepare.movielens.prepare", prepare)
    monkeypatch.setattr("fedps.data.prepare.synth.synthesize", synth)
    command = ["data", "prepare", "movielens", "--out", tmp_path, "--source", "ml.zip", "--negatives=2", "--seed=3"]
    files = ["--test-negatives", "n", "--test_rating", "r"]
    assert here(monkeypatch, *command, *files, "--partition", "dirichlet", "--clients=4", "--alpha=0.1") == 0
    assert prepare.args == (tmp_path, "ml.zip", Split("dirichlet", 4, 0.1), 2, Path("r"), Path("n"), 3)
    assert "1,500" in capsys.readouterr().out
    assert here(monkeypatch, "data", "synth", "movielens", "--out", tmp_path, "--users=9", "--per_user=5") == 0
    assert synth.args == (tmp_path, 9, 3706, 5, Split(), 4, 0)
    assert "(SYNTHETIC)" in capsys.readouterr().out


def test_real_data_out_of_reach_is_replaced_only_when_asked_and_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, synth = Room(), Room()
    prepare.answer, synth.answer = DataError("no archive"), MANIFEST
    monkeypatch.setattr("fedps.data.prepare.movielens.prepare", prepare)
    monkeypatch.setattr("fedps.data.prepare.synth.synthesize", synth)
    command = ["data", "prepare", "movielens", "--out", tmp_path]
    assert here(monkeypatch, *command) == WRONG
    assert here(monkeypatch, *command, "--or-synthetic", "--source", "mine.zip") == WRONG, "a named source is meant"
    assert synth.args == ()
    capsys.readouterr()
    assert here(monkeypatch, *command, "--or-synthetic") == 0
    told = capsys.readouterr().err
    assert "no archive" in told
    assert "NO REAL DATA" in told


def test_infer_and_export_hand_over_their_flags(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    infer, export = Room(), Room()
    infer.answer, export.answer = {"auc": 0.75, "users": 3}, tmp_path / "model.safetensors"
    monkeypatch.setattr("fedps.serving.infer.infer", infer)
    monkeypatch.setattr("fedps.serving.export.export_run", export)
    assert here(monkeypatch, "infer", job, "--weights", "w.safetensors", "--json") == 0
    assert infer.args[1] == Path("w.safetensors")
    assert json.loads(capsys.readouterr().out) == {"auc": 0.75, "users": 3}
    assert here(monkeypatch, "infer", job, "--weights", "w.safetensors") == 0
    assert capsys.readouterr().out == "auc: 0.7500\nusers: 3\n"
    epochs = Room()
    epochs.answer = {"epochs": [{"epoch": 1, "auc": 0.5}, {"epoch": 2, "auc": 0.75}], "predictions": "p.csv"}
    monkeypatch.setattr("fedps.serving.infer.infer_epochs", epochs)
    assert here(monkeypatch, "infer", job, "--run_dir", "r", "--predictions", "p.csv", "--allow-commands") == 0
    assert epochs.args[1:] == (Path("r"), Path("p.csv"))
    assert epochs.kwargs == {"allow": Allow(commands=True), "log": sys.stdout}
    assert capsys.readouterr().out == "epochs: epoch 1, auc 0.5000\nepochs: epoch 2, auc 0.7500\npredictions: p.csv\n"
    assert here(monkeypatch, "export", tmp_path, "--out", "m", "--epoch=2", "--private", "--format", "safetensors") == 0
    assert export.args[:4] == (tmp_path, Path("m"), 2, True)
    assert str(export.answer) in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert here(monkeypatch, "export", "latest", "--out", "m") == WRONG
    assert "error: latest: no run is in" in capsys.readouterr().err
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "job.yaml").touch()
    assert here(monkeypatch, "export", "latest", "--out", "m") == 0
    assert here(monkeypatch, "infer", job, "--run_dir", "latest") == 0
    assert export.args[0] == epochs.args[1] == Path("runs/one")


def test_config_show_and_check(job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert here(monkeypatch, "config", "check", job, "-o", "runner.sync_mode=sync", "-o", "runner.geo_step=3") == 0
    out, told = capsys.readouterr()
    assert out.startswith("leaves the clients: mlp_item.weight, ")
    assert "; stays with each client: mlp_user.weight\n" in out
    assert "\nserver 0 is told of each client, each epoch: sums over its own samples alone, no score: samples, " in out
    assert out.strip().endswith("no mistakes")
    assert told.splitlines() == [
        "note: runner.geo_step: 3: has no effect with sync_mode sync, only with geo",
        "note: runner.negatives: 4, as the training data holds positives (label 1) alone; 0: none (clients 0, 1)",
    ]
    assert here(monkeypatch, "config", "show", job, "-o", "runner.epochs=3") == 0
    assert "epochs: 3" in capsys.readouterr().out


def test_config_check_finds_what_a_run_would(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (job.parent / "lost.py").write_text("import nothing_of_this_name\n")
    (job.parent / "train" / "1.csv").write_text("1,2,1\n1,2,5\n")
    wrong = [
        "runner.client_selector=lost.Mine", "runner.with_coordinator=true", "runner.model=gone.Net",
        "runner.infer_reader_type=RecDataset", "runner.infer_reader_path=lost", "runner.fl_client=gone.Client",
    ]  # fmt: skip
    assert here(monkeypatch, "config", "check", job, *[word for key in wrong for word in ("-o", key)]) == 2
    told = capsys.readouterr().err
    for said in (
        "runner.client_selector: 'lost.Mine': importing lost fails",
        "runner.infer_reader_path: 'lost.RecDataset': importing lost fails",
        "runner.model: 'gone.Net': no module 'gone'",
        "runner.fl_client: 'gone.Client': no module 'gone'",
        "1.csv, line 2: '1,2,5': label 5 is neither 0 nor 1",
    ):
        assert told.count(said) == 1, told


def test_config_check_and_run_find_addresses_that_cannot_be_listened_at(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for command in (["config", "check", job], ["run", job]):
            flags = [f"--servers=127.0.0.1:{port}", f"--coordinators=localhost:{port}"]
            assert here(monkeypatch, *command, *flags) == 2
            told = capsys.readouterr().err
            assert f"server 0: cannot listen on 127.0.0.1:{port}: Address already in use" in told
            assert f"coordinator: cannot listen on localhost:{port}: Address already in use" in told
    for command in (["config", "check", job], ["run", job]):
        assert here(monkeypatch, *command, *flags) == 2
        assert f"coordinator localhost:{port}: is where server 0 listens" in capsys.readouterr().err
    assert not (job.parent / "runs").exists()
    assert here(monkeypatch, "config", "check", job, "--server_num=2", "--coordinator_num=1") == 0


def test_too_few_open_files_are_told_before_anything_starts(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (28, 28))
    for command in (["config", "check", job], ["run", job]):
        assert here(monkeypatch, *command) == 2
        told = capsys.readouterr().err
        assert "runner.worker_num: 2: 3 processes need 29 open files, and this shell allows 28: raise that by" in told
        assert "`ulimit -n 29`, use fewer clients (split_file_list), or run with --in-process" in told
    assert not (job.parent / "runs").exists()
    monkeypatch.setattr("resource.getrlimit", lambda _: (29, 29))
    assert here(monkeypatch, "config", "check", job) == 0


def test_a_full_disk_is_told_before_anything_starts(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    assert here(monkeypatch, "config", "check", job) == 2
    assert (
        "its disk has 0 MiB left, and a saved epoch takes some 1: free space, or name a folder"
        in capsys.readouterr().err
    )


def test_version_and_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert here(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == __version__
    assert here(monkeypatch, "--help") == 0
    told = capsys.readouterr().out
    assert "fedps run examples/quickstart.yaml" in told
    assert all(
        command in told for command in ("config", "coordinator", "data", "export", "infer", "run", "server", "worker")
    )


def test_a_shell_completes_commands_and_their_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert here(monkeypatch, "--install-completion", "--shell", "bash") == 0
    assert "Completion script installed to" in capsys.readouterr().out
    (script,) = tmp_path.rglob("completions/fedps")
    text = script.read_text()
    commands = ("run", "init", "doctor", "runs", "movielens", "export", "--worker_num", "--install-completion")
    assert [command for command in commands if command not in text] == []
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert str(script) in (tmp_path / ".bashrc").read_text()


@pytest.mark.parametrize("args", [["--help"], ["config", "check", "JOB"], ["config", "show", "JOB"]], ids=" ".join)
def test_what_needs_no_room_loads_none(args: list[str], job: Path) -> None:
    looks = "check" in args  # at data, so that it may load what reads it
    code = (
        "import sys\nfrom fedps.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'numba', 'grpc', 'pyarrow', 'numpy', 'asyncio.events'}\n"
        "print(sorted(heavy & set(sys.modules)) + [m for m in sys.modules if m.startswith('fedps.') and "
        "m.split('.')[1] not in ('cli', 'config', 'errors', 'figures')])"
    )
    argv = [str(job) if a == "JOB" else a for a in args]
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.splitlines()[-1]
    assert not {"'torch'", "'numba'", "'grpc'"} & set(loaded.strip("[]").split(", ")) if looks else loaded == "[]"


@pytest.mark.parametrize(
    ("command", "room", "due"),
    [
        (["server", "JOB", "--servers=127.0.0.1:8101,127.0.0.1:8102", "--shard=1", "--stay"], "serve_here",
         (1, Address("127.0.0.1", 8102), Path("r"), Path("l"), True, False)),
        (["coordinator", "JOB", "--coordinators", "127.0.0.1:8101"], "coordinate_here",
         (Address("127.0.0.1", 8101), Path("r"), Path("l"), False)),
        (["worker", "JOB", "--servers=a:1,b:2", "--coordinators=c:3", "--worker_id=1", "--allow-commands"], "work_here",
         ("1", 1, (Address("a", 1), Address("b", 2)), Address("c", 3), Path("r"), Path("l"), Allow(commands=True), False)),
        (["worker", "-m", "JOB", "--servers=a:1", "--client=1", "--worker-id=7"], "work_here",
         ("1", 7, (Address("a", 1),), None, Path("r"), Path("l"), Allow(), False)),
    ],
    ids=["server", "coordinator", "worker", "client"],
)  # fmt: skip
def test_one_role_in_the_foreground(
    command: list[str], room: str, due: tuple[Any, ...], job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Room()
    monkeypatch.setattr(f"fedps.launch.one_role.{room}", stage)
    words = [str(job) if word == "JOB" else word for word in command]
    assert here(monkeypatch, *words, "--run_dir=r", "--log_dir=l", "--worker_num=2", "-o", "runner.epochs=5") == 0
    assert stage.args[1:] == due
    runner = stage.args[0].runner
    assert (runner.epochs, runner.worker_num, runner.with_coordinator) == (5, 2, any("coord" in w for w in command))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_sighup_interrupt_and_are_given_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), signals_as_interrupt():
        os.kill(os.getpid(), number)
        signal.pause()
    assert signal.getsignal(number) == before


def test_in_another_thread_signals_are_left_alone() -> None:
    done = []

    def inside() -> None:
        with signals_as_interrupt():
            done.append(True)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert done


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    try:
        with signals_as_interrupt():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("flag", ["-o", "--override"])
def test_a_path_of_an_override_counts_from_where_one_stands(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a shell completes it; the file's own paths count from its folder, and no path is made of what is none."""
    there = tmp_path / "there"
    (there / "mine").mkdir(parents=True)
    (there / "mine" / "0.csv").write_text("0,0,1\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "0.csv").write_text("0,0,1\n")
    (tmp_path / "job.yaml").write_text("runner: {train_data_dir: nowhere, test_data_dir: test}\n")
    monkeypatch.chdir(there)
    words = [flag, "runner.train_data_dir=mine", flag, "runner.warmup_model_path=null", flag, "runner.epochs=3"]
    monkeypatch.setattr("sys.argv", ["fedps", "config", "show", "../job.yaml", *words])
    with pytest.raises(SystemExit, match="0"):
        main()
    said = capsys.readouterr().out
    assert f"train_data_dir: {there / 'mine'}" in said
    assert f"test_data_dir: {tmp_path / 'test'}" in said
    assert "epochs: 3" in said
