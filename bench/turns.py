"""One job run in two ways, in turns: what one way costs beside the other, on the same work and machine."""

from collections.abc import Callable
from statistics import median

from bench.jobs import Run
from bench.records import Figure


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
