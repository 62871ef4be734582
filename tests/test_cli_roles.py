"""Roles started by hand: in any order, each with what it needs of the data, and all that can be wrong between them."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.authorities import authority
from tests.launch.runs import WORKERS, descendants, fedps, gone, start, write_job
from tests.ports import free_address


def events(run_dir: Path, role: str) -> list[str]:
    return [json.loads(line)["event"] for line in (run_dir / f"events-{role}.jsonl").read_text().splitlines()]


def machine(job: Path, name: str, *clients: str) -> Path:
    """Make another machine's folder: the job file, and the data of some clients only."""
    folder = job.parent / name
    for part in ("train", "test"):
        (folder / "data" / part).mkdir(parents=True)
        for client in clients:
            shutil.copy(job.parent / "data" / part / f"{client}.csv", folder / "data" / part)
    return Path(shutil.copy(job, folder))


def await_text(path: Path, text: str, process: subprocess.Popen[str]) -> None:
    """Wait until a file of a living process holds a text."""
    deadline = time.monotonic() + 60
    while not path.exists() or text not in path.read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline, f"no {text} in {path}"
        time.sleep(0.05)


def exit_codes(roles: list[subprocess.Popen[str]], said: dict[str, Path], seconds: float = 240) -> list[int]:
    """Wait until all roles have ended; what each of them said is shown where one does not."""
    families = [descendants(role) for role in roles if role.poll() is None]
    deadline = time.monotonic() + seconds
    try:
        codes = [role.wait(max(0.0, deadline - time.monotonic())) for role in roles]
    except subprocess.TimeoutExpired:
        pytest.fail(f"still running after {seconds} s: { {name: text.read_text() for name, text in said.items()} }")
    assert all(gone(family) for family in families)
    return codes


@pytest.mark.timeout(300)  # each worker loads torch and compiles its step, all at once
def test_all_roles_started_in_reverse_order_find_each_other_by_their_certificates_and_end(tmp_path: Path) -> None:
    job, run_dir = write_job(tmp_path, with_coordinator=True, worker_num=WORKERS), tmp_path / "run"
    one, two, three = (free_address() for _ in range(3))
    there = {str(k): machine(job, f"client-{k}", str(k)) for k in range(WORKERS)}
    nowhere = machine(job, "no-data")
    shutil.rmtree(nowhere.parent / "data")
    said = {name: tmp_path / f"{name}.txt" for name in ("coordinator", "s0", "s1", *there)}
    common = ["--run_dir", run_dir, "--log_dir", tmp_path / "log"]
    issued = authority(tmp_path / "certs", *there, servers=2, coordinator=True).folder / "issued"
    roles = [
        start("worker", path, "--client", client, "--worker_id", client, f"--servers={one},{two}",
              f"--coordinators={three}", "--certs", issued / f"client-{client}", *common, out=said[client])
        for client, path in there.items()
    ]  # fmt: skip
    try:
        command = ["coordinator", nowhere, f"--coordinators={three}", "--certs", issued / "coordinator-0", *common]
        roles.append(start(*command, out=said["coordinator"]))
        for shard in ("1", "0"):
            certs = ["--certs", issued / f"server-{shard}"]
            command = ["server", nowhere, "--shard", shard, f"--servers={one},{two}", *certs, *common]
            roles.append(start(*command, out=said[f"s{shard}"]))
        assert exit_codes(roles, said) == [0] * 6, [text.read_text() for text in said.values()]
    finally:
        for role in roles:
            role.kill()
            role.wait()
    assert f"server 0 listens on {one}, and waits for workers" in said["s0"].read_text()
    assert "worker 2 is done" in said["2"].read_text()
    assert "Epoch 0 Var Auc[1]:[" in (tmp_path / "log" / "workerlog.2").read_text()
    coordinated = (tmp_path / "log" / "coordinatorlog.0").read_text()
    assert "fl-ps > recv from client id: 1" in coordinated
    assert "fl-ps > coordinator service addr: 127.0.0.1, " in coordinated
    assert {p.name for p in (run_dir / "model" / "1").iterdir()} == {
        "server-0.safetensors",
        "server-1.safetensors",
    } or (len(list((run_dir / "model" / "1").iterdir())) >= 2)
    assert sorted(p.name for p in (run_dir / "private").iterdir()) == [str(k) for k in range(WORKERS)]
    assert {"ready", "saved", "started", "stopped", "tables"} <= set(events(run_dir, "server-1"))
    assert "selected" in events(run_dir, "coordinator-0")
    told = events(run_dir, "worker-1")
    assert (told[0], told[-1]) == ("started", "done")
    merged = json.loads((run_dir / "summary.json").read_text())
    own = [json.loads((run_dir / f"summary-worker-{k}.json").read_text()) for k in range(WORKERS)]
    users = [sum(one["test_users"] for one in each["clients"].values()) for each in own]
    hits = sum(each["metrics"]["hr@10"] * count for each, count in zip(own, users, strict=True))
    assert merged["metrics"]["hr@10"] == pytest.approx(hits / sum(users))
    assert merged["rounds"][0]["selected"] == [str(k) for k in range(WORKERS)]
    assert f"HR@10: {merged['metrics']['hr@10']:.4f}" in said["coordinator"].read_text()
    assert f"HR@10: {own[2]['metrics']['hr@10']:.4f}" in said["2"].read_text()
    assert "<svg" in (run_dir / "report.html").read_text()


@pytest.mark.timeout(300)
def test_an_organisation_ends_with_a_model_of_its_own_to_score_with(tmp_path: Path) -> None:
    job, at = write_job(tmp_path), free_address()
    there = {client: machine(job, f"org {client}", client) for client in "012"}
    said = {name: tmp_path / f"{name}.txt" for name in (*there, "server")}
    mine = {client: ["--run_dir", tmp_path / f"run {client}"] for client in there}
    common = [f"--servers={at}", f"--worker_num={WORKERS}"]
    roles = [
        start("worker", path, "--client", client, *mine[client], *common, out=said[client])
        for client, path in there.items()
    ]
    try:
        roles.append(start("server", job, *common, "--run_dir", tmp_path / "run", out=said["server"]))
        assert exit_codes(roles, said) == [0] * 4, [text.read_text() for text in said.values()]
    finally:
        for role in roles:
            role.kill()
            role.wait()
    own, summary = tmp_path / "run 1", json.loads((tmp_path / "run 1" / "summary-worker-1.json").read_text())
    done = fedps("infer", there["1"], "--run_dir", own, "--json", "-o", "runner.worker_num=1")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["epochs"]
    assert found["hr@10"] == pytest.approx(summary["metrics"]["hr@10"])
    assert fedps("export", own, "--out", tmp_path / "out", "--private").returncode == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    merged = json.loads((tmp_path / "run" / "summary.json").read_text())
    all_own = [json.loads((tmp_path / f"run {k}" / f"summary-worker-{k}.json").read_text()) for k in there]
    users = [each["clients"][k]["test_users"] for k, each in zip(there, all_own, strict=True)]
    hits = sum(each["metrics"]["hr@10"] * count for each, count in zip(all_own, users, strict=True))
    assert merged["status"] == "ok"
    assert merged["metrics"]["hr@10"] == pytest.approx(hits / sum(users))


def test_a_worker_of_another_shape_is_refused_and_told_why(tmp_path: Path) -> None:
    job, at, run_dir = write_job(tmp_path, epochs=10_000, pace="own"), free_address(), tmp_path / "run"
    other = machine(job, "other", "1")
    tree = yaml.safe_load(job.read_text())
    tree["hyper_parameters"]["fc_layers"] = [32, 8, 4]
    other.write_text(yaml.safe_dump(tree))
    said = tmp_path / "said.txt"
    small = ["--worker_num=2"]
    server = start("server", job, "--worker_num=2", f"--servers={at}", "--run_dir", run_dir, out=said)
    first = machine(job, "first", "0")
    worker = start(
        "worker", first, "--client=0", f"--servers={at}", "--run_dir", run_dir, *small, out=tmp_path / "0.txt"
    )
    try:
        await_text(run_dir / "events-worker-0.jsonl", '"first_batch"', worker)
        mine = ["--run_dir", tmp_path / "mine"]
        done = fedps("worker", other, "--client=1", f"--servers={at}", *mine, *small)
        assert done.returncode == 1
        assert "hyper_parameters.fc_layers: [16, 8, 4] here, [32, 8, 4] there" in done.stderr
        assert worker.poll() is None, "the first one goes on"
        assert server.poll() is None
        assert (
            "refused: the jobs differ in hyper_parameters.fc_layers: [16, 8, 4] here, [32, 8, 4] there"
            in said.read_text()
        )
    finally:
        for role in (worker, server):
            role.terminate()
            role.wait(20)


def test_a_worker_without_servers_gives_up_within_the_limit(tmp_path: Path) -> None:
    job, at = write_job(tmp_path), free_address()
    done = fedps(
        "worker", job, "--client=0", f"--servers={at}", "-o", "runner.start_timeout=0.5", "--run_dir", tmp_path / "r"
    )
    assert done.returncode == 1
    assert f"waiting for server 0 {at} …" in done.stdout
    assert (
        f"error: worker 0: server 0 {at}: nobody listens there after 0.5 s: start it with `fedps server" in done.stderr
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("role", ["server", "coordinator"])
def test_a_taken_port_is_told_and_sigterm_ends_who_stays(role: str, tmp_path: Path) -> None:
    job, at, said = write_job(tmp_path), free_address(), tmp_path / "said.txt"
    process = start(role, job, f"--{role}s={at}", "--stay", "--run_dir", tmp_path / "run", out=said)
    try:
        await_text(said, f"listens on {at}", process)
        again = fedps(role, job, f"--{role}s={at}", "--run_dir", tmp_path / "run")
        assert again.returncode == 2
        assert f"{role}{' 0' * (role == 'server')}: cannot listen on {at}: Address already in use" in again.stderr
        process.terminate()
        assert process.wait(20) == 0
        assert f"{role} 0 has stopped" in said.read_text()
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_ends_a_worker_that_waits(tmp_path: Path) -> None:
    job, at, said = write_job(tmp_path), free_address(), tmp_path / "said.txt"
    process = start("worker", job, "--client=0", f"--servers={at}", "--run_dir", tmp_path / "run", out=said)
    try:
        await_text(said, "waiting for server 0", process)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert said.read_text().endswith("stopped\n")
    finally:
        process.kill()
        process.wait()
