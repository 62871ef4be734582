"""A coordinator's process killed by the system while clients talk to it over the network, and their own replaced."""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from fedps.config import Job
from fedps.config.files import client_files_of
from fedps.coordinator.resuming import learned_in
from fedps.net.channel import Channel
from fedps.types import ClientInfo
from fedps.wire.frame import Limits
from fedps.wire.messages import Assignment, RoundReport
from tests.conftest import MakeJob
from tests.coordinator.callers import NONE
from tests.greeting import hello
from tests.ports import free_address

ROUNDS, KILLS, WAIT = 60, 5, 100.0


class Client:
    """Trains each round for a moment; from time to time another process goes on from what it has done."""

    def __init__(self, job: Job, name: str, address: str) -> None:
        self.trained: list[int] = []
        self.error: Exception | None = None
        self._job, self._name, self._address, self._rng = job, name, address, random.Random(name)
        self.thread = threading.Thread(target=self._live, daemon=True)
        self.thread.start()

    def _live(self) -> None:
        done, process, due = 0, 0, None
        try:
            while due is None or due.state != "FINISH":
                process += 1
                greeting = hello(self._job, self._name, f"process {process}", "coordinator")
                with closing(Channel(self._address, greeting, Limits(), WAIT)) as channel:
                    while due is None or due.state != "FINISH":
                        info = ClientInfo(samples=5, trained=5, seconds=1.0, loss=0.5) if due else ClientInfo(samples=5)
                        answer = channel.request(RoundReport(done, info), (NONE,) * 4).result(WAIT).message
                        assert isinstance(answer, Assignment)
                        due = answer
                        time.sleep(self._rng.uniform(0, 0.04))
                        if self._rng.random() < 0.1:  # it dies as it trains, or as it is told
                            break
                        if due.state == "JOIN":
                            self.trained.append(due.round)
                        done = due.round
        except Exception as error:
            self.error = error


@contextmanager
def coordinator(job: Job, address: str, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Start a coordinator; kill it at the end, unless it has ended."""
    script = Path(__file__).with_name("alone.py")
    command = [sys.executable, "-P", str(script), str(job.folder / "job.yaml"), address, str(folder)]
    with (
        (folder / "said").open("a") as said,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n", (folder / "said").read_text()
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_a_coordinator_is_killed_again_and_again_and_each_round_is_trained_once(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(epochs=ROUNDS, with_coordinator=True, worker_num=10)
    address, rng, folder = free_address(), random.Random(0), tmp_path / "run"
    folder.mkdir()
    clients = [Client(job, name, address) for name in client_files_of(job)]
    for _ in range(KILLS):
        with coordinator(job, address, folder) as process:
            time.sleep(rng.uniform(0.05, 0.6))
            process.kill()  # SIGKILL: no word of farewell
            process.wait(WAIT)
    with coordinator(job, address, folder) as last:
        for client in clients:
            client.thread.join(WAIT)
        assert last.wait(WAIT) == 0, (folder / "said").read_text()
    assert [client.error for client in clients] == [None] * 10
    assert all(client.trained == list(range(1, ROUNDS + 1)) for client in clients)
    found = learned_in(folder)
    assert found is not None and found.state.round == ROUNDS + 1
    last_of = {(client, turn.round): turn.trained for client, turn in found.turns}
    assert len(last_of) == 10 * ROUNDS and set(last_of.values()) == {5}
