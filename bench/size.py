"""Large tables: what a row takes in memory, bounds under a stream of ids that all are new, and the longest pause."""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import psutil

from bench.growth import PART
from bench.records import Figure, Options, Result
from fedps.table import rules
from fedps.table.store import Store
from fedps.types import Bounds, Init, Keys, Rule, TableSpec

DIM, SERVERS = 16, 2
RULE, START = Rule("adagrad"), Init("normal", 0.0, 0.01)
NEEDED = 4 * rules.width(RULE, DIM) + 8  # bytes of a row: its values, their state, and its key
ROWS = {"full": 50_000_000, "quick": 1_000_000, "tiny": 20_000}  # with a row, on all servers
STREAM = {"full": 100_000_000, "quick": 2_000_000, "tiny": 40_000}  # distinct ids
BOUND = {"full": 1_000_000, "quick": 100_000, "tiny": 5_000}  # max_rows
EPOCHS = 10  # of a stream
ABOUT = (
    f"Tables of {DIM} floats with AdaGrad over {SERVERS} servers, here in one process and one after the other; ids are any"
    f" int64, a push has {PART:,} of them. Values, state and key of a row are {NEEDED} bytes. A pause is the time of one"
    " push, or of an epoch's end; of the processor means without what other processes took from it."
)


@dataclass
class Pauses:
    """The longest stop, seconds: on the clock, and of the processor."""

    clock: float = 0.0
    processor: float = 0.0

    def time(self, work: Callable[[], object]) -> None:
        """Do some work, and note how long it took."""
        began, spent = time.perf_counter(), time.thread_time()
        work()
        self.clock = max(self.clock, time.perf_counter() - began)
        self.processor = max(self.processor, time.thread_time() - spent)

    def figures(self, key: str, what: str) -> list[Figure]:
        """Return both."""
        return [
            Figure(f"{key}.longest", f"{what}: longest pause", self.clock * 1e3, "ms"),
            Figure(f"{key}.longest.cpu", f"{what}: longest pause, of the processor", self.processor * 1e3, "ms"),
        ]


def measure(options: Options) -> Result:
    """Measure a table without bounds, then each bound under a stream of new ids."""
    rows, ids, most = ROWS[options.size], STREAM[options.size], BOUND[options.size]
    _warm()
    gc.freeze()  # as servers do
    streams = {
        "max_rows": (f"max_rows {most:,}", Bounds(max_rows=most)),
        "admit_after": ("admit_after 2", Bounds(admit_after=2)),
        "expire_after": ("expire_after 1", Bounds(expire_after=1)),
    }
    figures = _grown("grown", f"{rows:,} rows", Bounds(), rows)
    figures += _grown("admitted", f"{rows:,} rows, admit_after 2", Bounds(admit_after=2), rows)
    for key, (what, bounds) in streams.items():
        figures += _streamed(key, f"{what}, {ids:,} distinct ids", bounds, ids)
    return Result("size", ABOUT, tuple(figures))


def _grown(key: str, what: str, bounds: Bounds, rows: int) -> list[Figure]:
    """Give so many ids a row, by as many pushes as it takes."""
    stores, before, pauses = _stores(bounds), _resident(), Pauses()
    began = time.perf_counter()
    for done, keys in enumerate(_pushes(rows)):
        for _ in range(bounds.admit_after):
            _push(stores, keys, pauses)
        if done % 512 == 0:
            print(f"{what}: {done * PART:,}", flush=True)
    seconds = time.perf_counter() - began
    made, said = _count(stores, "rows"), _count(stores, "bytes")
    taken = (_resident() - before) / made
    return [
        Figure(f"{key}.bytes", f"{what}: memory of the process, a row", taken, "B"),
        Figure(f"{key}.share", f"{what}: beside values, state and key", taken / NEEDED, "times"),
        Figure(f"{key}.said", f"{what}: as the servers say, a row", said / made, "B"),
        Figure(f"{key}.rate", f"{what}: rows made", made / seconds, "rows/s"),
        *pauses.figures(key, what),
    ]


def _streamed(key: str, what: str, bounds: Bounds, ids: int) -> list[Figure]:
    """Push each id once, over some epochs."""
    stores, before, pauses, peak = _stores(bounds), _resident(), Pauses(), 0
    most, parts = 0, -(-ids // PART)
    began = time.perf_counter()
    for done, keys in enumerate(_pushes(ids), 1):
        _push(stores, keys, pauses)
        if done % -(-parts // EPOCHS) == 0:
            for store in stores:
                pauses.time(store.end_epoch)
        if done % 64 == 0 or done == parts:
            peak, most = max(peak, _resident() - before), max(most, _count(stores, "rows"))
        if done % 512 == 0:
            print(f"{what}: {done * PART:,}", flush=True)
    return [
        Figure(f"{key}.rows", f"{what}: most rows", max(most, 1), "rows"),
        Figure(f"{key}.memory", f"{what}: most memory", max(peak, 1) / 2**20, "MiB"),
        Figure(f"{key}.rate", f"{what}: ids pushed", ids / (time.perf_counter() - began), "ids/s"),
        *pauses.figures(key, what),
    ]


def _stores(bounds: Bounds) -> list[Store]:
    stores = [Store(shards=SERVERS) for _ in range(SERVERS)]
    for store in stores:
        store.declare([TableSpec("rows", "sparse", (0, DIM), RULE, START, bounds=bounds)])
    return stores


def _pushes(ids: int) -> Iterator[Keys]:
    """Yield so many distinct ids, spread over all of int64, push by push."""
    for first in range(0, ids, PART):
        numbers = np.arange(first, min(first + PART, ids), dtype=np.uint64)
        with np.errstate(over="ignore"):
            mixed = numbers * np.uint64(0x9E3779B97F4A7C15)  # odd, so that no two come to the same
        yield np.sort(mixed.view(np.int64))


def _push(stores: list[Store], keys: Keys, pauses: Pauses) -> None:
    values = np.full((len(keys), DIM), 0.1, np.float32)
    for shard, store in enumerate(stores):
        mine = keys[keys % len(stores) == shard]
        pauses.time(lambda store=store, mine=mine: store.push("rows", mine, values[: len(mine)]))  # type: ignore[misc]


def _count(stores: list[Store], what: str) -> int:
    return sum(getattr(store.counts()["rows"], what) for store in stores)


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _warm() -> None:
    """Load the compiled loops."""
    stores = _stores(Bounds(admit_after=2, expire_after=1, max_rows=8))
    for keys in (np.arange(9), np.arange(9), np.arange(5, 30), np.arange(5, 30)):
        _push(stores, keys, Pauses())
        for store in stores:
            store.end_epoch()
