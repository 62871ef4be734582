"""A table that grows from nothing: how much memory it takes, and how long its longest pause is."""

import numpy as np
import psutil

from bench.clock import quantile, seconds_of
from bench.records import Figure
from fedps.table.sparse import SparseTable
from fedps.types import Init, Rule, TableSpec

PART = 8192  # rows of a push, as the product's client cuts them
WEIGH_EVERY = 16  # pushes


def grow(rows: int, dim: int) -> list[Figure]:
    """Push new rows, part by part, into a table with Adam's state until it has so many."""
    rule, start = Rule("adam"), Init("normal", 0.0, 0.01)
    _warm(dim)
    table = SparseTable(TableSpec("grown", "sparse", (rows, dim), rule, start))
    parts = -(-rows // PART)
    values, peak, seconds = np.full((PART, dim), 0.1, np.float32), 0, list[float]()
    process = psutil.Process()
    for part in range(parts):
        keys = np.arange(part, rows, parts)  # spread over all ids, as new ids come
        seconds.append(seconds_of(lambda keys=keys: table.push(keys, values[: len(keys)])))  # type: ignore[misc]
        if part % WEIGH_EVERY == 0 or part == parts - 1:
            peak = max(peak, process.memory_info().rss)
    what = f"growth to {rows:,} rows with Adam's state"
    return [
        Figure(f"grown.{rows}.memory", f"{what}: memory of the process", peak / 1e9, "GB"),
        Figure(f"grown.{rows}.longest", f"{what}: longest push of {PART:,} new rows", max(seconds) * 1e3, "ms"),
        Figure(f"grown.{rows}.p99", f"{what}: p99 of pushes", quantile(seconds, 0.99) * 1e3, "ms"),
        Figure(f"grown.{rows}.rate", f"{what}: rows made", rows / sum(seconds), "rows/s"),
    ]


def _warm(dim: int) -> None:
    """Load the compiled loops."""
    small = SparseTable(TableSpec("small", "sparse", (4, dim), Rule("adam")))
    small.push(np.arange(4), np.ones((4, dim), np.float32))
