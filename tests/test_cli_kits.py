"""A kit that has come: the worker takes all from it but its data, and says what is wrong with it."""

import json
import shutil
from pathlib import Path

import pytest

from fedps.cli import WRONG
from fedps.launch.addresses import Address
from tests.launch.rooms import Room, here
from tests.launch.runs import fedps, start, write_job
from tests.ports import free_address
from tests.test_cli_roles import exit_codes


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job of three clients beside an authority; nobody works."""
    monkeypatch.chdir(tmp_path)
    job = write_job(tmp_path, with_coordinator=True)
    for words in (["init"], ["issue", "client", "0", "1", "2"], ["issue", "server", "0"]):
        assert here(monkeypatch, "certs", *words) == 0
    return job


def make_kit(monkeypatch: pytest.MonkeyPatch, job: Path, *more: str, client: str = "1") -> None:
    flags = ["--servers=a:1,b:2", "--coordinators=c:3", f"--out={client}.kit", *more]
    assert here(monkeypatch, "certs", "kit", client, "--job", job, *flags) == 0


def data_of(client: str) -> Path:
    """Prepared data of one client alone, as it has it at home."""
    folder = Path(f"data-of-{client}")
    for part in ("train", "test"):
        (folder / part).mkdir(parents=True)
        shutil.copy(Path("data") / part / f"{client}.csv", folder / part)
    return folder


def test_a_worker_takes_all_from_its_kit_but_its_data(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_kit(monkeypatch, job, "-o", "runner.epochs=7")
    data = data_of("1")
    shutil.rmtree("data")
    job.unlink()
    work = Room()
    monkeypatch.setattr("fedps.launch.one_role.work_here", work)
    for kit in ("1.kit", "1"):  # its file, and the folder in which it lies open by then
        assert here(monkeypatch, "worker", "--kit", kit, "--data", data, "-o", "runner.infer_batch_size=9") == 0
        found, client, _, servers, coordinator, *_ = work.args
        assert (client, servers, coordinator) == ("1", (Address("a", 1), Address("b", 2)), Address("c", 3))
        assert (found.name, found.runner.epochs, found.runner.worker_num, found.runner.server_num) == ("job", 7, 3, 2)
        assert found.runner.train_data_dir == data.absolute() / "train"
        assert found.security.certs == Path("1/certs").absolute()
        assert found.runner.infer_batch_size == 9
    assert here(monkeypatch, "worker", "--kit", "1", "--data", data, "--servers=d:4,e:5") == 0
    assert work.args[3] == (Address("d", 4), Address("e", 5))


def test_what_a_kit_is_not_for_is_told_before_anybody_is_waited_for(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_kit(monkeypatch, job)
    data, other = data_of("1"), Path("other")
    other.mkdir()
    text = job.read_text()
    job.write_text(text.replace("geo_step: 5", "geo_step: 6"))
    Path("damaged.kit").write_bytes(Path("1.kit").read_bytes()[:-40])
    for words, said in [
        (["--kit", "1.kit", "--data", data, "--client", "2"], "--client 2: the kit is of client 1: leave --client out"),
        (
            ["--kit", "1.kit", "--data", other],
            "--data other: holds no folder train; name one that `fedps data prepare`",
        ),
        (
            ["--kit", "1.kit", "--data", data, "-m", job],
            "another job than the kit's: runner.geo_step: 6 here, 5 there, in the",
        ),
        (
            ["--kit", "1.kit", "--data", data, "-o", "runner.seed=9"],
            "another job than the kit's: runner.seed: 9 here, 0 there",
        ),
        (["--kit", "damaged.kit", "--data", data], "damaged.kit: is no kit, or a damaged one"),
        (["-m", job, "--client", "1"], "where are the servers? give --servers host:port,…; or --kit"),
    ]:
        assert here(monkeypatch, "worker", *words) == WRONG
        assert said in capsys.readouterr().err


def test_a_kit_without_held_out_data_measures_nothing(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_kit(monkeypatch, job)
    data = data_of("1")
    shutil.rmtree(data / "test")
    work = Room()
    monkeypatch.setattr("fedps.launch.one_role.work_here", work)
    assert here(monkeypatch, "worker", "--kit", "1.kit", "--data", data) == 0
    assert work.args[0].runner.test_data_dir is None


@pytest.mark.timeout(300)  # each worker compiles its step, all at once
def test_clients_with_kits_and_one_that_joined_by_a_token_train_encrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two have kits, the third made its key itself; who has another's certificate is told so, and they go on."""
    monkeypatch.chdir(tmp_path)
    job, at, door = write_job(tmp_path), free_address(), free_address()
    for words in (["init"], ["issue", "server", "0"], ["issue", "client", "0", "1"]):
        assert here(monkeypatch, "certs", *words) == 0
    for client in "01":
        assert here(monkeypatch, "certs", "kit", client, "-m", job, f"--servers={at}", f"--out={client}.kit") == 0
    token = fedps("certs", "token", "2").stdout.strip()
    said = {name: tmp_path / f"{name}.txt" for name in ("door", "server", *"012")}
    serving = start("certs", "serve", "certs", "--at", door, out=said["door"])
    roles = [start("server", job, f"--servers={at}", "--certs=certs", "--run_dir=at-server", out=said["server"])]
    try:
        for client in "01":
            words = ["--kit", f"{client}.kit", "--data", str(data_of(client)), f"--run_dir=at-{client}"]
            roles.append(start("worker", *words, out=said[client]))
        while (joined := fedps("certs", "join", door, "--token", token, "--out", "two")).returncode:
            assert "no authority answers there" in joined.stderr
        common = ["worker", job, f"--servers={at}", "--worker_num=3"]
        wrong = fedps(*common, "--client=1", "--certs=two", "--run_dir=at-wrong")
        assert (wrong.returncode, "two: is the folder of client 2, and this is client 1" in wrong.stderr) == (
            WRONG,
            True,
        )
        roles.append(start(*common, "--client=2", "--certs=two", "--run_dir=at-2", out=said["2"]))
        assert exit_codes(roles, said) == [0] * 4, [text.read_text() for text in said.values()]
    finally:
        serving.terminate()
        for role in roles:
            role.kill()
            role.wait()
        serving.wait()
    whole = json.loads(Path("at-server/summary.json").read_text())
    own = [json.loads(Path(f"at-{k}/summary-worker-{k}.json").read_text()) for k in range(3)]
    assert [each["status"] for each in (whole, *own)] == ["ok"] * 4
    assert "hr@10" in whole["metrics"]
