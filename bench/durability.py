"""What it costs that a server's death loses nothing, and how soon one is back.

The seed's job runs with and without a log, in turns: same data, same machine, one after the other. And a server with a
million rows is started anew on what another left of it: a snapshot, and records behind it.
"""

import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from bench.clock import seconds_of
from bench.records import Figure, Options, Result
from bench.turns import in_each_mode
from fedps.config import Job, load_job
from fedps.server.gate import Closing
from fedps.server.merge import Merged
from fedps.server.server import ParameterServer
from fedps.storage.disk import Folder
from fedps.storage.log import Log
from fedps.types import ClientId, Init, Rows, Rule, TableSpec

PAIRS = {"full": 9, "quick": 2, "tiny": 1}  # runs with a log, and as many without
ROWS, DIM, PUSH = {"full": 1_000_000, "quick": 100_000, "tiny": 1000}, 32, 10_000
BEHIND = 60  # pushes behind the snapshot: some 80 MB, about as many bytes as a log may have
RESTARTS = {"full": 5, "quick": 3, "tiny": 1}
ABOUT = (
    "`fedps run` of the quick start (10 workers, 1 server, a coordinator, one pass, no evaluation) with `durability: group` and `none`"
    " in turns; a ratio is the median of the pairs'. A restart: from making the server to being ready for clients, rows of 32"
    " floats with Adam's state."
)


def measure(options: Options) -> Result:
    """Measure what the log costs in each mode, and how long a restart takes."""
    with tempfile.TemporaryDirectory(prefix="fedps-bench-") as name:
        folder = Path(name)
        ways = {f"durability {kind}": {"durability": kind} for kind in ("group", "none")}
        figures = in_each_mode(options, folder, ways, PAIRS[options.size])
        figures += _restarted(load_job(folder / "job.yaml"), folder, options)
    return Result("durability", ABOUT, tuple(figures))


def _restarted(job: Job, folder: Path, options: Options) -> list[Figure]:
    rows = ROWS[options.size]
    size = _leave(job, folder, rows)
    taken = list[float]()
    for _ in range(RESTARTS[options.size]):
        with Folder(folder / "state") as disk:
            taken.append(seconds_of(lambda disk=disk: _server(job, folder, disk)))  # type: ignore[misc]
    return [
        Figure(
            "restart", f"restart with {rows:,} rows, {size / 2**20:,.0f} MiB on disk", min(taken), "s", median(taken)
        )
    ]


def _leave(job: Job, folder: Path, rows: int) -> int:
    """Leave the state of a server with so many rows; return its bytes."""
    rng = np.random.default_rng(0)
    with Folder(folder / "state") as disk:
        server = _server(job, folder, disk)
        server.shard.declare((TableSpec("rows", "sparse", (0, DIM), Rule("adam"), Init("normal", 0.0, 0.01)),))
        values = rng.normal(size=(PUSH, DIM)).astype(np.float32)

        def push(number: int, keys: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
            changes = {"rows": Merged(Rows(keys, values[: len(keys)]), 1.0)}
            server.shard.apply(Closing(changes, ((ClientId("0"), number),)))

        for number, first in enumerate(range(0, rows, PUSH)):
            push(number, np.arange(first, min(first + PUSH, rows)))
        server.sum_up()
        for number in range(BEHIND):
            push(number, np.sort(rng.choice(rows, min(PUSH, rows), replace=False)))
        return sum(file.stat().st_size for file in (folder / "state").iterdir())


def _server(job: Job, folder: Path, disk: Folder) -> ParameterServer:
    return ParameterServer(job, 0, folder, lambda event: None, log=Log(disk))
