"""R1: what is private never leaves the client. Every byte between workers and servers passes a recording proxy.

Private rows and user ids are marked, and the recording is searched for them in every plain encoding. The control
declares the same table shared, and must then be found: a search that cannot hit proves nothing.
"""

import asyncio
import base64
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import MakeJob

from fedps.client.worker import run_worker
from fedps.config import Job
from fedps.data.reader import client_files
from fedps.net.listener import serve
from fedps.server.server import ParameterServer
from fedps.table import snapshot

FIRST_USER = 700_001  # marked ids, far from any item id
USERS, ITEMS = 8, 30
MODES = [{"sync_mode": "async"}, {"sync_mode": "sync"}, {"sync_mode": "geo"}, {"sync_mode": "round"}]


@contextmanager
def served(job: Job, run_dir: Path) -> Iterator[str]:
    """Run one real server on a real socket; yield its address."""
    loop, stop, address = asyncio.new_event_loop(), asyncio.Event(), []
    ready = threading.Event()

    def note(text: str) -> None:
        address.append(text)
        ready.set()

    server = ParameterServer(job, 0, run_dir, lambda event: None)
    work = serve(server, "127.0.0.1:0", server.limits, note, stop)
    thread = threading.Thread(target=loop.run_until_complete, args=[work])
    thread.start()
    try:
        assert ready.wait(10)
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


class Tap:
    """A TCP proxy that keeps all it carries, both ways."""

    def __init__(self, target: str) -> None:
        host, _, port = target.partition(":")
        self._target, self._recorded, self._lock = (host, int(port)), bytearray(), threading.Lock()
        self._door = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._door.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        self._carriers: list[threading.Thread] = []

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._door.accept()
            except OSError:
                return
            outer = socket.create_connection(self._target)
            for source, sink in ((inner, outer), (outer, inner)):
                carrier = threading.Thread(target=self._carry, args=[source, sink])
                carrier.start()
                self._carriers.append(carrier)

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with closing(sink):
            try:
                while data := source.recv(1 << 16):
                    with self._lock:
                        self._recorded += data
                    sink.sendall(data)
            except OSError:
                return

    def close(self) -> bytes:
        """Stop, and return the recording."""
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        for thread in (self._thread, *self._carriers):
            thread.join(10)
        return bytes(self._recorded)


def write_data(folder: Path) -> Path:
    rng = np.random.default_rng(3)
    (folder / "train").mkdir(parents=True)
    for client in range(2):
        user = FIRST_USER + 2 * np.repeat(np.arange(USERS), 20) + client
        rows = np.column_stack([user, rng.integers(0, ITEMS, len(user)), rng.integers(0, 2, len(user))])
        np.savetxt(folder / "train" / f"c{client}.csv", rows, fmt="%d", delimiter=",")
    return folder / "train"


def recorded_run(job: Job, run_dir: Path, events: list[dict[str, object]]) -> bytes:
    """Train all clients of a job through a tap; return what passed."""
    with served(job, run_dir) as address:
        tap = Tap(address)
        clients = client_files(job.runner.train_data_dir)
        threads = [
            threading.Thread(target=run_worker, args=[job, c, [tap.address], run_dir, events.append]) for c in clients
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return tap.close()


def encodings_of_ids(users: list[int]) -> list[bytes]:
    """Every plain way an id may be written."""
    found = []
    for u in users:
        found += [u.to_bytes(8, e) for e in ("little", "big")] + [str(u).encode(), f"{u:x}".encode()]
    return found


def encodings_of_row(row: np.ndarray) -> list[bytes]:
    """Every plain way a row of floats may be written; four values at a time, since one alone may be chance."""
    found = []
    for dtype in ("<f4", ">f4", "<f8", ">f8", "<f2", ">f2"):
        raw = row[:4].astype(dtype).tobytes()
        found += [raw, base64.b64encode(raw)[:-2], raw.hex().encode()]
    halves = (row[:4].astype("<f4").view("<u4") >> 16).astype("<u2")  # bfloat16
    return [*found, halves.tobytes()]


def private_rows(run_dir: Path) -> np.ndarray:
    blocks = [snapshot.load(p / "3", "tables")[0]["mlp_user.weight"][2] for p in (run_dir / "private").glob("*")]
    return np.concatenate(blocks)[:, :8]


@pytest.mark.parametrize("mode", MODES, ids=lambda m: str(m["sync_mode"]))
def test_no_private_row_and_no_user_id_leaves_a_client(
    mode: dict[str, object], make_job: MakeJob, tmp_path: Path
) -> None:
    hyper: dict[str, object] = {"num_users": 800_000, "num_items": ITEMS}
    job = make_job(hyper, train_data_dir=str(write_data(tmp_path / "data")), test_data_dir=None, epochs=3, **mode)
    events: list[dict[str, object]] = []
    wire = recorded_run(job, tmp_path / "run", events)
    done = [e for e in events if e["event"] == "done"]
    ours = sum(int(str(e["bytes_sent"])) + int(str(e["bytes_received"])) for e in done)
    assert len(done) == 2
    assert ours <= len(wire) < 2 * ours, "the tap must have seen the run, and little beside our messages"
    users = [FIRST_USER + 2 * u + c for u in range(USERS) for c in range(2)]
    told = json.dumps(events).encode()
    for needle in encodings_of_ids(users):
        assert needle not in wire
    for user in users:
        assert str(user).encode() not in told, "events go to the launcher: they name no user either"
    rows = private_rows(tmp_path / "run")
    assert len(rows) == 2 * USERS
    assert np.abs(rows).max() > 0.03, "the private table must have learned"
    for row in rows:
        for needle in encodings_of_row(row):
            assert needle not in wire
    assert b"mlp_user" not in wire, "the frame's schema names no private table"
    assert b"mlp_item" in wire


def test_the_control_the_same_table_shared_is_found(make_job: MakeJob, tmp_path: Path) -> None:
    hyper: dict[str, object] = {"num_users": 800_000, "num_items": ITEMS}
    job = make_job(
        hyper, train_data_dir=str(write_data(tmp_path / "data")), test_data_dir=None, sync_mode="async", local_sparse=[]
    )
    wire = recorded_run(job, tmp_path / "run", [])
    users = [FIRST_USER + 2 * u + c for u in range(USERS) for c in range(2)]
    assert all(u.to_bytes(8, "little") in wire for u in users)
    assert b"mlp_user" in wire
    tables, _ = snapshot.load(tmp_path / "run" / "model" / "1", "server-0")
    start = tables["mlp_item.weight"][2][:, :8]
    assert any(row[:4].astype("<f4").tobytes() in wire for row in start), "rows are found where they do travel"
