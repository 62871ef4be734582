"""How long a server's save and its load take, beside copying the same bytes to the same disk with fsync.

A table of Adam rows (97 floats for 32 values) and 3 dense tensors, saved as a server saves them at an epoch's end: files
written, synced and renamed, checksums made. `delta` is the second save, after one row in a hundred has changed.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.clock import seconds_of
from bench.records import Figure, Options, Result
from fedps.config import Job, Runner
from fedps.server.saving import Saver, WarmStart, make_store
from fedps.table.store import Store
from fedps.types import NO_KEYS, Init, Rule, TableSpec

DIM = 32
ROWS = {"full": (3706, 1_000_000), "quick": (3706, 100_000), "tiny": (100,)}
REPEATS = {"full": 5, "quick": 3, "tiny": 1}
MODES = ("all", "base", "delta")
ABOUT = (
    f"One sparse table with Adam's state ({DIM} floats a row) and 3 dense tensors; synced to disk, with checksums. Copying"
    " moves the same files to the same disk, synced too. `delta` saves after one row in a hundred has changed. Median."
)


def measure(options: Options) -> Result:
    """Save and load tables of each size, in each way of saving."""
    figures = list[Figure]()
    for rows in ROWS[options.size]:
        for mode in MODES:
            print(f"{rows:,} rows, {mode}", flush=True)
            with tempfile.TemporaryDirectory(prefix="fedps-bench-") as folder:
                figures += _compare(Path(folder), rows, mode, REPEATS[options.size])
    return Result("saves", ABOUT, tuple(figures))


def _compare(folder: Path, rows: int, mode: str, repeats: int) -> list[Figure]:
    runner = Runner(train_data_dir=folder, save_mode=mode, sync_mode="async")
    job = Job(name="bench", folder=folder, runner=runner)
    specs = _specs(rows)
    store = make_store(specs, None)
    _push(store, rows, 1)
    saver, epoch = Saver(job, 0, folder), [0]

    def save() -> None:
        epoch[0] += 1
        for work in saver.begin(store, epoch[0]):
            work()

    save()

    saving = _median(save, repeats, lambda: _push(store, rows, 100))
    last = folder / "model" / str(epoch[0])
    files = sorted(last.iterdir())
    copying = _median(lambda: _copy(files, folder / "copy"), repeats)
    loading = _median(lambda: make_store(specs, WarmStart(last, 0, 1)), repeats)
    size = sum(file.stat().st_size for file in files) / 1e6
    key, what = f"{rows}.{mode}", f"{rows:,} rows, save_mode {mode} ({size:,.1f} MB)"
    return [
        Figure(f"{key}.save", f"{what}: save", saving * 1e3, "ms"),
        Figure(f"{key}.copy", f"{what}: copying the files, beside save", copying * 1e3, "ms", ours=f"{key}.save"),
        Figure(f"{key}.load", f"{what}: load", loading * 1e3, "ms"),
    ]


def _specs(rows: int) -> tuple[TableSpec, ...]:
    rule = Rule("adam")
    dense = [TableSpec(f"layer{k}", "dense", (64, n), rule) for k, n in enumerate((32, 16, 8))]
    return TableSpec("rows", "sparse", (rows, DIM), rule, Init("normal", 0.0, 0.01)), *dense


def _push(store: Store, rows: int, every: int) -> None:
    keys = np.arange(0, rows, every)
    store.push("rows", keys, np.full((len(keys), DIM), 0.1, np.float32))
    for name in store.names()[1:]:
        store.push(name, NO_KEYS, np.ones((1, store.spec(name).dim), np.float32))


def _copy(files: list[Path], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for file in files:
        with (folder / file.name).open("wb") as target, file.open("rb") as source:
            shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())


def _median(work: Callable[[], object], repeats: int, prepare: Callable[[], object] = lambda: None) -> float:
    """Return the median of some runs, seconds."""
    seconds = []
    for _ in range(repeats):
        prepare()
        seconds.append(seconds_of(work))
    return sorted(seconds)[repeats // 2]
