"""Flags that are wrong, contradict each other or the job: told with both names, before anything starts."""

from pathlib import Path

import pytest

from fedps.cli import WRONG
from tests.launch.rooms import here, launcher, write_tiny_job


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["run"], "no job file: write `fedps run JOB.yaml`"),
        (["run", "JOB", "--epoch", "3"], "--epoch"),
        (["run", "JOB", "--server_num", "many"], "many"),
        (["run", "JOB", "--server_num", "0"], "runner.server_num: 0: must be at least 1"),
        (["run", "JOB", "--worker_num", "7"], "runner.worker_num: 7:"),
        (["run", "JOB", "--worker_num=3", "--workers=a:1,b:1"], "--worker_num 3 and --workers (2 addresses) contradict"),
        (["run", "JOB", "--coordinator_num=0", "--coordinators=a:1"], "--coordinator_num 0 and --coordinators (1 address)"),
        (["run", "JOB", "--coordinator_num=2"], "0 or 1"),
        (["run", "JOB", "--servers=localhost"], "--servers: 'localhost': is no host:port; write host:port"),
        (["run", "JOB", "--servers=192.0.2.1:10"], "server 0 192.0.2.1:10: is not this machine"),
        (["run", "JOB", "--coordinators=no.invalid:10"], "host 'no.invalid': is not known here"),
        (["run", "JOB", "--heter_worker_num=2;2"], "--heter_worker_num 2;2: all workers are alike here; if these are the second party"),
        (["run", "JOB", "--heter_workers=a:1"], "--heter_workers a:1: all workers are alike here; if these are the second party"),
        (["run", "nowhere.py", "-m", "JOB"], "nowhere.py: there is no such script"),
        (["run", "static_fl_trainer.py"], "no job file"),
        (["run", "JOB", "JOB"], "is a second job file"),
        (["run", "JOB", "-m", "JOB"], "is a second job file"),
        (["run", "JOB", "10"], "'10': is neither a job file (.yaml, .yml) nor a training script"),
        (["run", "JOB", "--in-process", "--log_dir=log"], "--in-process and --log_dir log contradict each other"),
        (["run", "SCRIPT", "JOB", "--in-process"], "a script runs once per role"),
        (["run", "JOB", "-o", "runner.geo_stepp=5"], "runner.geo_stepp: 5: there is no such key"),
        (["run", "JOB", "-o", "runner.epochs=many"], "runner.epochs: 'many'"),
        (["run", "JOB", "-o", "runner.train_data_dir=nowhere"], "there is no such folder"),
        (["run", "JOB", "-o", "hyper_parameters.mf_dimm=5"], "did you mean 'mf_dim'?"),
        (["run", "JOB", "-o", "nonsense"], "write key=value"),
        (["server", "JOB"], "--servers"),
        (["server", "JOB", "--servers=127.0.0.1:0"], "--servers 127.0.0.1:0: nobody could find a free port"),
        (["server", "JOB", "--servers=127.0.0.1:1,127.0.0.1:2"], "name the server to be, from 0 to 1"),
        (["server", "JOB", "--servers=127.0.0.1:1", "--shard=1"], "--shard 1: name the server to be, from 0 to 0"),
        (["server", "JOB", "--servers=192.0.2.1:1"], "server 0 192.0.2.1:1: is not this machine"),
        (["coordinator", "JOB"], "--coordinators"),
        (["coordinator", "JOB", "--coordinators=127.0.0.1:1,127.0.0.1:2"], "name one address"),
        (["coordinator", "--coordinators=127.0.0.1:0"], "nobody could find a free port"),
        (["worker", "JOB", "--servers=127.0.0.1:1"], "give --client NAME, or --worker_id K"),
        (["worker", "JOB", "--servers=127.0.0.1:1", "--client=9"], "--client 9: this client's data is not here"),
        (["worker", "JOB", "--servers=127.0.0.1:1", "--worker_id=2"], "workers are numbered from 0 to 1"),
        (["worker", "JOB", "--servers=127.0.0.1:1", "--worker_id=-1"], "--worker_id"),
        (["worker", "JOB", "--servers=127.0.0.1:1", "--client=0", "-o", "runner.with_coordinator=true"], "where is the coordinator"),
        (["infer", "JOB", "--weights=w", "--run_dir=r"], "--weights and --run_dir contradict each other"),
        (["infer", "JOB", "--weights=w", "--predictions=p"], "--weights and --predictions contradict each other"),
        (["run", "static_ps_trainer.py", "JOB", "foo"], "'foo': is nothing that the built-in trainer takes"),
        (["run", "static_fl_trainer.py", "-m", "JOB", "--", "-x", "3"], "'-x': is nothing that the built-in trainer takes"),
        (["run", "JOB", "-o", "runner.epochs=1", "epochs=2"], "'epochs=2': is neither a job file"),
        (["run", "tools/static_infer.py", "-m", "JOB"], "write `fedps infer JOB.yaml`"),
        (["run", "JOB", "--run_mode=collective"], "--run_mode collective: there is no other mode than ps here"),
        (["run", "JOB", "--dry-run"], "`fedps config check` looks at a job without running it"),
        (["run", "JOB", "--quiet"], "--json prints the summary and nothing else"),
        (["run", "JOB", "--checkpoint", "rd"], "`fedps run --resume RUN_DIR` goes on with a run that was broken off"),
        (["run", "JOB", "--resume", "rd"], "rd: there is no such folder; `fedps runs` lists the runs there are"),
        (["run", "JOB", "--resume", "rd", "--in-process"], "--resume rd and --in-process contradict each other"),
        (["run", "JOB", "--resume", "rd", "--run_dir", "r"], "--resume rd and --run_dir r contradict each other"),
        (["run", "JOB", "--nnodes=2"], "For several machines, start `fedps server`"),
        (["run", "JOB", "--gpus", "0"], "runner.use_gpu=true"),
        (["frobnicate"], "Available commands: audit, certs, compare, config, coordinator, data, doctor, export, import, infer, init, "),
        (["frobnicate"], " run, runs, ser"),
        (["data", "frobnicate"], "Available commands: prepare, synth, traces."),
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    launch = launcher(monkeypatch)
    (tmp_path / "script.py").write_text("")
    places = {"JOB": write_tiny_job(tmp_path), "SCRIPT": tmp_path / "script.py"}
    assert here(monkeypatch, *[places.get(a, a) for a in args]) == WRONG
    assert launch.args == ()
    assert said in capsys.readouterr().err
