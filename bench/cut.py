"""Two parties at work over a socket: on this machine, through a relay that takes its time, and all in one process."""

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from bench.apart import BenchError
from bench.party_sets import EXAMPLES
from bench.records import Figure, Options, Result
from fedps.data.prepare.parties import synthesize_parties

PER_USER = {"full": 66, "quick": 33, "tiny": 2}  # samples of each of 6,040 users
ROUNDS = {"full": 3, "quick": 2, "tiny": 1}
FEDPS = (sys.executable, "-m", "fedps", "vertical")
DELAY = 0.02  # seconds, one way
GULP = 1 << 18
ABOUT = (
    "SYNTHETIC twin of MovieLens-1M at two parties, the example's DeepFM (rows of 16 floats, layers of 64 and 64, batch 4096, 4 in"
    " flight, one pass): samples a second of training, without matching and evaluation, as the active party has them. The relay"
    " holds what is sent 20 ms each way, and takes some of the two cores. Contenders take turns; median, and best."
)


def measure(options: Options) -> Result:
    """Train one pass in each way, in turns."""
    found: dict[str, list[float]] = {"direct": [], "relay": [], "joined": []}
    with tempfile.TemporaryDirectory(prefix="fedps-bench-") as folder:
        home = Path(folder)
        synthesize_parties(home / "data", per_user=PER_USER[options.size])
        job = _write(home)
        for number in range(ROUNDS[options.size]):
            together = _together(job, home / f"direct-{number}")
            found["direct"].append(together["federated"])
            found["joined"].append(together["joined"])
            found["relay"].append(_apart(job, home / f"relay-{number}"))
            print(f"round {number + 1}: {found}", flush=True)
    direct, relayed, joined = (median(found[way]) for way in ("direct", "relay", "joined"))
    figures = (
        Figure("joined", "all in one process", joined, "samples/s"),
        Figure("direct", "both parties on this machine", direct, "samples/s"),
        Figure("direct.ratio", "the same, to one process", direct / joined, "×"),
        Figure("relay", "20 ms one way between them", relayed, "samples/s"),
        Figure("relay.ratio", "the same, to without", relayed / direct, "×"),
    )
    return Result("cut", ABOUT, figures)


def _write(home: Path) -> Path:
    tree = yaml.safe_load((EXAMPLES / "vertical_movielens.yaml").read_text())
    tree["vertical"] |= {"epochs": 1, "lift": [], "holdout": 0}
    for name, own in tree["parties"].items():
        own["data"] = str(home / "data" / f"{name}.csv")
    job = home / "job.yaml"
    job.write_text(yaml.safe_dump(tree, sort_keys=False))
    return job


def _together(job: Path, run_dir: Path) -> dict[str, float]:
    """Return the samples a second of both parties here, and of all in one process."""
    command = [*FEDPS, "run", str(job), "-o", "vertical.lift=[joined]", "--run_dir", str(run_dir), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise BenchError(f"fedps vertical run ended with exit code {done.returncode}\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)["vertical"]
    return {stage: found[stage]["samples_per_second"] for stage in ("federated", "joined")}


def _apart(job: Path, run_dir: Path) -> float:
    """Return the samples a second of parties between which a relay stands."""
    port = free_port()
    with relay(port) as address:
        ways = {"items": f"127.0.0.1:{port}", "users": address}
        parties = [
            subprocess.Popen(  # noqa: S603
                [*FEDPS, "party", name, str(job), "-o", f"vertical.address={at}", "--run_dir", str(run_dir / name)],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )
            for name, at in ways.items()
        ]  # fmt: skip
        for party in parties:
            _, said = party.communicate()
            if party.returncode:
                raise BenchError(f"fedps vertical party ended with exit code {party.returncode}\n{said[-2000:]}")
    lines = [json.loads(line) for file in (run_dir / "items").glob("events*.jsonl") for line in file.open()]
    return next(float(line["samples_per_second"]) for line in lines if line["event"] == "staged")


def free_port() -> int:
    """Return a port that nobody listens at just now."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port: int = door.getsockname()[1]
        return port


@contextmanager
def relay(port: int, delay: float = DELAY) -> Iterator[str]:
    """Stand before a port of this machine, and hold all that is sent so many seconds; yield where to dial instead."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    address: list[str] = []

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(GULP):
            loop.call_later(delay, sink.write, data)
        loop.call_later(delay, sink.close)

    async def meet(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            far_source, far_sink = await asyncio.open_connection("127.0.0.1", port)
        except OSError:  # nobody listens yet: it dials again
            sink.close()
            return
        await asyncio.gather(carry(source, far_sink), carry(far_source, sink))

    async def stand() -> None:
        server = await asyncio.start_server(meet, "127.0.0.1", 0)
        address.append("{}:{}".format(*server.sockets[0].getsockname()[:2]))
        ready.set()

    def live() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(stand())
        loop.run_forever()

    thread = threading.Thread(target=live, name="relay", daemon=True)
    thread.start()
    ready.wait()
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
