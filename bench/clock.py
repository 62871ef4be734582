"""Timing fairly: contenders take turns, round after round, so that a busy machine slows them all alike."""

import time
from collections.abc import Callable, Mapping
from statistics import median

from bench.records import Figure

Work = Callable[[], object]


def seconds_of(work: Work) -> float:
    """Return how long a piece of work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turn(contenders: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Let each contender work once a round, after a first round that does not count; return their seconds."""
    for work in contenders.values():
        work()
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            taken[name].append(seconds_of(work))
    return taken


def rate(key: str, what: str, unit: str, amount: float, seconds: list[float], ours: str = "") -> Figure:
    """Return how much was done a second, in the best round and in the median one."""
    return Figure(key, what, amount / min(seconds), unit, amount / median(seconds), ours)


def quantile(seconds: list[float], share: float) -> float:
    """Return the value that this share of all stays below."""
    ordered = sorted(seconds)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
