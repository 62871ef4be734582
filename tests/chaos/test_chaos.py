"""A short storm over a small job, and what a storm is made of; the long ones are `make chaos`."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.chaos.outcome import faults_of, run_under
from tests.chaos.storm import AT_END, Fault, draw
from tests.chaos.wires import Wire
from tests.launch.runs import write_job

SHARES = 300_000  # bytes: fewer than those of the job


@pytest.mark.timeout(240)
def test_each_answered_push_counts_once_whoever_is_killed_frozen_or_cut_off(tmp_path: Path) -> None:
    faults = [
        Fault(0.1, "kill", "server", 1, again=0.2),
        Fault(0.3, "cut", "server", 0, which=1),
        Fault(0.5, "freeze", "worker", 2, seconds=0.5),
        Fault(0.7, "kill", "worker", 1),
        Fault(0.9, "kill", "coordinator", 0),
        Fault(AT_END, "kill", "server", 0, seconds=0.05),
    ]
    job = write_job(tmp_path, epochs=6, server_num=2, with_coordinator=True, eval_every=3)
    outcome = run_under(faults, SHARES, job, tmp_path / "run", timeout=200)
    assert faults_of(outcome) == []
    fell = {(blow["kind"], blow["role"]) for blow in outcome.fell}
    assert fell == {(fault.kind, fault.role) for fault in faults}, outcome.told
    summary = outcome.summary
    samples = sum(len(file.read_text().splitlines()) for file in (tmp_path / "data" / "train").iterdir())
    assert summary["samples"] == 6 * samples, "each epoch of each client counts once"
    assert [figures["round"] for figures in summary["rounds"]] == [3, 6]
    assert summary["faults"]["restarts"] >= 4
    assert summary["faults"]["retries"] >= 3


def test_a_seed_is_one_schedule() -> None:
    one, same, other = (draw(seed, 40, workers=10, servers=2, coordinator=True) for seed in (7, 7, 8))
    assert one == same != other
    assert [fault.at for fault in one] == sorted(fault.at for fault in one)
    assert {fault.kind for fault in one} == {"kill", "freeze", "cut", "cut off"}
    assert {fault.role for fault in one} == {"worker", "server", "coordinator"}


@pytest.fixture
def echo() -> Iterator[tuple[Wire, socket.socket]]:
    """A wire, and the door of whom it leads to."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        wire = Wire(f"127.0.0.1:{door.getsockname()[1]}")
        yield wire, door
        wire.close()


def test_a_wire_carries_bytes_both_ways_until_it_is_cut(echo: tuple[Wire, socket.socket]) -> None:
    wire, door = echo
    host, _, port = wire.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as near, door.accept()[0] as far:
        near.sendall(b"there")
        assert far.recv(9) == b"there"
        far.sendall(b"back")
        assert near.recv(9) == b"back"
        assert wire.bytes == 9
        assert wire.cut(0) == 1
        for end in (near, far):
            with suppress(ConnectionResetError):
                assert end.recv(9) == b""
    assert wire.cut(0) == 0, "nothing is left to cut"
