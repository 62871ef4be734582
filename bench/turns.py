"""The seed's job run in two ways, in turns: what one way costs beside the other, on the same work and machine."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench.jobs import Run, run_job, write_job
from bench.records import Figure, Options
from bench.splits import shorten

MODES: dict[str, dict[str, Any]] = {
    "geo, windows of 10 batches": {"sync_mode": "geo", "geo_step": 10},
    "geo, windows of 100 batches": {"sync_mode": "geo", "geo_step": 100},
    "async": {"sync_mode": "async"},
    "sync": {"sync_mode": "sync"},
}
SHARE = {"full": 4, "quick": 16, "tiny": 1}  # one sample in so many, for async and sync


def in_each_mode(options: Options, folder: Path, ways: dict[str, dict[str, Any]], pairs: int) -> list[Figure]:
    """Run one pass of the job, without evaluation, in both ways in each mode; see `in_turns`.

    Args:
        options: of the command.
        folder: for the runs, and `job.yaml`.
        ways: of each way its name and what `write_job` is told of it; the second is the plain one.
        pairs: how many runs of each.
    """
    figures, data = list[Figure](), Path(options.data)
    shorten(data / "train", folder / "train", SHARE[options.size])
    one, other = ways
    for mode, keys in list(MODES.items())[: 1 if options.size == "tiny" else None]:
        train = folder / "train" if mode in ("async", "sync") else data / "train"

        def run(way: str, train: Path = train, keys: dict[str, Any] = keys) -> Run:
            job = write_job(folder, data, train, test=False, **ways[way], **keys)
            return run_job(job, Path(tempfile.mkdtemp(dir=folder)) / "run", folder / "cache")

        figures += in_turns(mode, mode, (one, other), pairs, run)
    return figures


def in_turns(key: str, what: str, ways: tuple[str, str], pairs: int, run: Callable[[str], Run]) -> list[Figure]:
    """Run both ways so many times, and return samples a second of each, and the first's over the second's.

    Whatever else the machine does falls on both alike only in the median of many pairs; seconds of the processor tell more
    where it does much.

    Args:
        key: of the figures.
        what: is measured, for people.
        ways: names of the two ways; the second is the plain one.
        pairs: how many runs of each.
        run: runs the job in the way of this name.
    """
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    for pair in range(pairs):
        for way in ways if pair % 2 else reversed(ways):
            print(f"{what}: {way}, run {pair + 1} of {pairs}", flush=True)
            runs[way].append(run(way))
    both = list(zip(*runs.values(), strict=True))
    rates = {way: [run.rate for run in of] for way, of in runs.items()}
    ratio = f"{what}: {ways[0]} over {ways[1]}, median of {pairs} pairs"
    return [
        *(Figure(f"{key}.{way}", f"{what}: {way}", max(of), "samples/s", median(of)) for way, of in rates.items()),
        Figure(f"{key}.ratio", ratio, median(one.rate / other.rate for one, other in both), "times"),
        Figure(
            f"{key}.processor", f"{ratio}, seconds of the processor",
            median(one.processor / other.processor for one, other in both), "times",
        ),
    ]  # fmt: skip
