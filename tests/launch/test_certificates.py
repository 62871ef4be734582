"""A whole run by mutual TLS, whose certificates change under it."""

import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import fedps
from fedps.config import load_job
from fedps.errors import JobError, RefusedError
from fedps.net.channel import Channel
from fedps.net.tls import Certificates
from fedps.wire.frame import Limits
from tests.authorities import authority
from tests.greeting import hello
from tests.launch.runs import events, start_and_wait_for_training, write_job, write_long_job

WAIT = 120.0  # seconds; far beyond what any of this takes


@pytest.mark.timeout(500)
def test_a_client_whose_data_the_run_does_not_have_is_refused_though_its_certificate_is_good(tmp_path: Path) -> None:
    made, run_dir = authority(tmp_path / "certs", "0", "1", "2", "stranger"), tmp_path / "run"
    path = write_long_job(tmp_path)
    process = start_and_wait_for_training(run_dir, path, "--certs", made.folder)
    try:
        (address,) = (str(e["address"]) for e in events(run_dir) if e["event"] == "ready")
        certificates = Certificates(made.folder, "client", "stranger")
        greeting = hello(load_job(run_dir / "job.yaml"), "stranger")
        with closing(Channel(address, greeting, Limits(), WAIT, certificates)) as channel:
            with pytest.raises(RefusedError, match="this job has no client 'stranger'") as caught:
                channel.welcome.result(WAIT)
        assert caught.value.kind == "identity"
        until(lambda: any(e["event"] == "refused" for e in events(run_dir)))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT)
    assert [(e["client"], e["kind"]) for e in events(run_dir) if e["event"] == "refused"] == [
        ("client stranger", "identity")
    ]
    assert "stranger" not in [e["client"] for e in events(run_dir) if e["event"] == "joined"]


@pytest.mark.timeout(500)
def test_python_code_runs_a_job_with_certificates_and_within_one_process_without_to_the_same_figures(
    tmp_path: Path,
) -> None:
    settings: dict[str, Any] = {
        "security.certs": authority(tmp_path / "certs", "0", "1", "2").folder,
        "geo_merge": "adaptive",
    }
    job = write_job(tmp_path)
    guarded, within = (
        fedps.run(job, run_dir=tmp_path / name, in_process=name == "within", quiet=True, **settings)
        for name in ("guarded", "within")
    )
    assert guarded.metrics == within.metrics and guarded.job.security.certs == settings["security.certs"]
    assert not any(e["event"] == "refused" for e in events(tmp_path / "guarded"))
    with pytest.raises(JobError, match="client 3"):
        (tmp_path / "data" / "train" / "3.csv").write_text("3,7,1\n")
        fedps.run(job, run_dir=tmp_path / "lacks one", quiet=True, **settings)


@pytest.mark.timeout(500)
def test_a_client_that_is_revoked_ends_and_is_told_why_and_the_others_train_on(tmp_path: Path) -> None:
    made, run_dir = authority(tmp_path / "certs", "0", "1", "2"), tmp_path / "run"
    job = write_long_job(tmp_path, sync_mode="geo")
    process = start_and_wait_for_training(run_dir, job, "--certs", made.folder)
    try:
        made.renew("server", "0")
        made.renew("client", "0")
        made.revoke("client", "1")
        until(lambda: any(e["event"] == "failed" for e in events(run_dir)))
        told = next(e for e in events(run_dir) if e["event"] == "failed")
        assert (told["role"], told["id"]) == ("worker", "1")
        assert "the certificate of client 1 was revoked: ask who runs the federation" in str(told["error"])
        assert told["traceback"] == "", "a sentence says it all"
        before = progress(run_dir)
        until(lambda: all(progress(run_dir).get(k, 0) > before.get(k, 0) + 1 for k in ("0", "2")))
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=WAIT)
    assert "worker 1: the certificate of client 1 was revoked" in said and "Traceback" not in said
    assert not any(e["event"] == "restarted" for e in events(run_dir)), "it would be refused again"
    refused: list[dict[str, Any]] = [e for e in events(run_dir) if e["event"] == "refused"]
    assert {(e["client"], e["kind"]) for e in refused} == {("1", "identity")}


def progress(run_dir: Path) -> dict[str, int]:
    """How often each worker has told of its training."""
    found = dict[str, int]()
    for event in events(run_dir):
        if event["event"] == "progress":
            found[str(event["id"])] = found.get(str(event["id"]), 0) + 1
    return found


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
