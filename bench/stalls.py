"""How long pulls wait while a server's tables are saved, or summed up in a snapshot, and how long a snapshot takes to lay.

One thread pulls and pushes as a server's loop does, with a pause between; what is written is written beside it. A pull is
timed from when it could come: so it waits for whatever the loop is at then. All ways take turns, round after round.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from bench.clock import quantile, seconds_of
from bench.records import Figure, Options, Result
from fedps.config import Job, Runner
from fedps.server import records
from fedps.server.beside import InThread, Work, in_turns
from fedps.server.saving import Saver
from fedps.storage.disk import Folder
from fedps.storage.log import Log
from fedps.table.moment import Part
from fedps.table.store import Store
from fedps.types import Init, Rule, TableSpec

DIM = 32
ROWS = {"full": 1_000_000, "quick": 100_000, "tiny": 1000}
ROUNDS = {"full": 5, "quick": 3, "tiny": 1}
TOUCHED = 1000  # rows of a pull, and of a push
EVERY = 4  # pulls for a push
PAUSE = 0.001  # seconds between pulls
IDLE = 1.0  # seconds
SPEC = TableSpec("rows", "sparse", (0, DIM), Rule("adam"), Init("normal", 0.0, 0.01))
ABOUT = (
    f"One sparse table with Adam's state ({DIM} floats a row). Pulls of {TOUCHED:,} rows drawn at random, and a push of as many"
    f" after every {EVERY} of them. The longest of all rounds, or the median round's 99th percentile."
)


class Loop:
    """Pulls and pushes, and how long the pulls took."""

    def __init__(self, store: Store, rows: int) -> None:
        self._store, self._rng, self._rows = store, np.random.default_rng(0), rows
        self._values = np.full((TOUCHED, DIM), 0.1, np.float32)

    def during(self, begin: Callable[[], Iterator[Work]] | None) -> tuple[list[float], float]:
        """Pull until works are done, or for a while; return the seconds of each pull, and of all."""
        return asyncio.run(self._during(begin))

    async def _during(self, begin: Callable[[], Iterator[Work]] | None) -> tuple[list[float], float]:
        loop, taken, ended = asyncio.get_running_loop(), list[float](), asyncio.Event()
        began, turn = time.perf_counter(), 0

        def done(error: Exception | None) -> None:
            ended.set()
            if error is not None:
                raise error

        if begin is None:
            loop.call_later(IDLE, ended.set)
        else:
            loop.call_soon(lambda: in_turns(InThread(), begin(), done))
        while not ended.is_set():
            keys = np.unique(self._rng.integers(0, self._rows, TOUCHED))
            came = time.perf_counter()
            await asyncio.sleep(0)  # whatever the loop is to do comes first
            self._store.pull("rows", keys)
            taken.append(time.perf_counter() - came)
            if turn % EVERY == 0:
                self._store.push("rows", keys, self._values[: len(keys)])
            turn += 1
            await asyncio.sleep(PAUSE)
        return taken, time.perf_counter() - began


def measure(options: Options) -> Result:
    """Measure pulls beside nothing, a save and a snapshot; then lay that snapshot."""
    rows, rounds = ROWS[options.size], ROUNDS[options.size]
    store = Store()
    store.declare([SPEC])
    for at in range(0, rows, 50_000):
        keys = np.arange(at, min(at + 50_000, rows))
        store.push("rows", keys, np.full((len(keys), DIM), 0.1, np.float32))
    with tempfile.TemporaryDirectory(prefix="fedps-bench-") as name:
        folder = Path(name)
        disk = Folder(folder / "state")
        saver, log, loop = _saver(folder), Log(disk), Loop(store, rows)
        list(log.recover())
        epoch = iter(range(1, 1 + rounds))
        works = {
            "idle": None,
            "save": lambda: saver.begin(store, next(epoch)),
            "snapshot": lambda: _snapshot(store, log),
        }
        found: dict[str, list[tuple[list[float], float]]] = {way: [] for way in works}
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", flush=True)
            for way, begin in works.items():
                found[way].append(loop.during(begin))
        disk.close()
        settling = seconds_of(store.settle)
        freezing = max(seconds_of(store.still) for _ in range(rounds))
        laying = min(seconds_of(lambda: _lay(folder / "state")) for _ in range(rounds))
    figures = [figure for way in works for figure in _figures(way, found[way], rows)]
    return Result(
        "stalls",
        ABOUT,
        (
            *figures,
            Figure("freeze", f"{rows:,} rows: to freeze them", freezing * 1e3, "ms"),
            Figure("settle", f"{rows:,} rows: to settle all at an epoch's end", settling * 1e3, "ms"),
            Figure("lay", f"{rows:,} rows: to read a snapshot and lay it", laying, "s"),
        ),
    )


def _figures(way: str, found: list[tuple[list[float], float]], rows: int) -> Iterator[Figure]:
    what = f"{rows:,} rows, {way}"
    p99 = sorted(quantile(taken, 0.99) for taken, _ in found)
    yield Figure(f"{way}.p99", f"{what}: pull, 99th percentile", p99[len(p99) // 2] * 1e3, "ms")
    yield Figure(f"{way}.longest", f"{what}: longest pull", max(max(taken) for taken, _ in found) * 1e3, "ms")
    if way != "idle":
        yield Figure(f"{way}.seconds", f"{what}: until it is on disk", min(took for _, took in found), "s")


def _saver(folder: Path) -> Saver:
    runner = Runner(train_data_dir=folder, sync_mode="async", keep_epochs=2)
    return Saver(Job(name="bench", folder=folder, runner=runner), 0, folder)


def _snapshot(store: Store, log: Log) -> Iterator[Work]:
    """Write a snapshot as a server does."""
    compaction = log.compact()
    for table, facts, arrays in store.frozen():
        yield partial(compaction.write, records.encode(records.Laid(table, facts), arrays))
    yield partial(compaction.commit, log.position)


def _lay(folder: Path) -> None:
    store = Store()
    store.declare([SPEC])
    with Folder(folder) as disk:
        for data in Log(disk).recover():
            entry = records.decode(data)
            if isinstance(entry.record, records.Laid):
                store.lay(Part(entry.record.table, entry.record.facts, tuple(entry.arrays)))
