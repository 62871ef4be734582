"""How long a server's save and its load take, beside copying the same bytes to the same disk with fsync.

    .venv/bin/python bench/saves.py [--rows 3706 1000000] [--dim 32] [--folder /tmp]

A table of Adam rows (97 floats for 32 values) and 3 dense tensors, saved as a server saves them at an epoch's end: files
written, synced and renamed, checksums made. `delta` is the second save, after one row in a hundred has changed.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedps.config import Job, Runner
from fedps.server.saving import Saver, WarmStart, make_store
from fedps.table.store import Store
from fedps.types import NO_KEYS, Init, Rule, TableSpec

REPEATS = 5


def main() -> None:
    """Print one line a size and mode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[3706, 1_000_000])
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--folder", type=Path, default=None, help="where to write (the system's temporary folder)")
    asked = parser.parse_args()
    print(
        f"{'rows':>9} {'mode':>6} {'MB':>8} {'save s':>8} {'load s':>8} {'copy s':>8} {'save/copy':>9} {'load/copy':>9}"
    )
    for rows in asked.rows:
        for mode in ("all", "base", "delta"):
            with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
                _measure(Path(folder), rows, asked.dim, mode)


def _measure(folder: Path, rows: int, dim: int, mode: str) -> None:
    runner = Runner(train_data_dir=folder, save_mode=mode, sync_mode="async")
    job = Job(name="bench", folder=folder, runner=runner)
    specs = _specs(rows, dim)
    store = make_store(specs, None)
    _push(store, rows, dim, 1)
    saver = Saver(job, 0, folder, lambda event: None)
    saver.save(store, 1)
    epoch = [1]

    def save() -> None:
        epoch[0] += 1
        saver.save(store, epoch[0])

    def prepare() -> None:
        _push(store, rows, dim, 100)

    saving = _median(save, prepare)
    last = folder / "model" / str(epoch[0])
    files = sorted(last.iterdir())
    copying = _median(lambda: _copy(files, folder / "copy"), lambda: None)
    loading = _median(lambda: make_store(specs, WarmStart(last, 0, 1)), lambda: None)
    size = sum(f.stat().st_size for f in files) / 1e6
    print(
        f"{rows:>9,} {mode:>6} {size:>8.2f} {saving:>8.4f} {loading:>8.4f} {copying:>8.4f} {saving / copying:>9.2f}"
        f" {loading / copying:>9.2f}"
    )


def _specs(rows: int, dim: int) -> tuple[TableSpec, ...]:
    rule = Rule("adam")
    dense = [TableSpec(f"layer{k}", "dense", (64, n), rule) for k, n in enumerate((32, 16, 8))]
    return TableSpec("rows", "sparse", (rows, dim), rule, Init("normal", 0.0, 0.01)), *dense


def _push(store: Store, rows: int, dim: int, every: int) -> None:
    keys = np.arange(0, rows, every)
    store.push("rows", keys, np.full((len(keys), dim), 0.1, np.float32))
    for name in store.names()[1:]:
        store.push(name, NO_KEYS, np.ones((1, store.spec(name).dim), np.float32))


def _copy(files: list[Path], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for file in files:
        with (folder / file.name).open("wb") as target, file.open("rb") as source:
            shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())


def _median(work: Callable[[], object], prepare: Callable[[], None]) -> float:
    """Return the median of some runs, seconds."""
    seconds = []
    for _ in range(REPEATS):
        prepare()
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)[REPEATS // 2]


if __name__ == "__main__":
    main()
