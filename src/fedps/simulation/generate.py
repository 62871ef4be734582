"""Made-up traces whose spread is that of real devices: most are middling, a few are very slow.

Lai et al. (Oort, OSDI 2021, section 2.2; FedScale, ICML 2022, section 3) find that phones differ by an order of
magnitude and more in how fast they compute (AI Benchmark) and transfer (MobiPerf), with heavy tails. Two laws have such
tails: the log-normal one, and for the time a sample takes, Pareto's. Clients are away in stretches, in a day's rhythm.
The medians are round numbers of ours, not measurements; name your own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedps.errors import JobError
from fedps.simulation.traces import Trace
from fedps.types import ClientId

Law = Literal["lognormal", "pareto", "same"]
DAY = 86400.0  # seconds
DIGITS = 6  # of a number in the file
LEAST, MOST = 1e-3, 1e9  # of a speed or bandwidth, however unlikely the draw


@dataclass(frozen=True)
class Spread:
    """How a quantity is spread over clients.

    Args:
        law: `lognormal` (median · e^(spread · normal)), `pareto` (the time that one unit takes is Pareto's with tail
            index 1 / spread, its median 1 / median) or `same` (all have the median).
        median: of the quantity.
        spread: 0 is none; 1 puts a factor of 27 between the slowest and the fastest twentieth of `lognormal`.
    """

    law: Law = "lognormal"
    median: float = 1.0
    spread: float = 1.0

    def draw(self, count: int, rng: np.random.Generator) -> list[float]:
        """Return a value a client."""
        if self.law == "same":
            factors = np.ones(count)
        elif self.law == "lognormal":
            factors = np.exp(self.spread * rng.standard_normal(count))
        else:  # the time is x_m · u^(-spread); at its median u is 1/2
            factors = (2 * (1 - rng.random(count))) ** self.spread
        return [_short(min(max(self.median * factor, LEAST), MOST)) for factor in factors.tolist()]


@dataclass(frozen=True)
class Population:
    """A made-up population of devices.

    Args:
        speed: samples a second.
        bandwidth: bytes a second.
        online: share of the day in which a client is there, above 0; 1: always.
        stretch: mean seconds that it then stays.
        dropout: probability that it drops out of a round.
        seed: of all draws.
    """

    speed: Spread = Spread(median=5000.0)
    bandwidth: Spread = Spread(median=500_000.0)
    online: float = 1.0
    stretch: float = 4 * 3600.0
    dropout: float = 0.0
    seed: int = 0


def make_traces(clients: Sequence[ClientId], population: Population) -> dict[ClientId, Trace]:
    """Draw a device for each client; the same for the same names and population.

    Raises:
        JobError: a quantity that cannot be; names its flag.
    """
    if mistakes := _mistakes(population):
        raise JobError(mistakes)
    streams = [np.random.default_rng((population.seed, purpose)) for purpose in range(3)]
    speeds = population.speed.draw(len(clients), streams[0])
    bandwidths = population.bandwidth.draw(len(clients), streams[1])
    traces = {}
    for client, speed, bandwidth in zip(clients, speeds, bandwidths, strict=True):
        online = _stretches(population, streams[2]) if population.online < 1 else ()
        traces[client] = Trace(speed, bandwidth, population.dropout, DAY if online else 0.0, online)
    return traces


def _mistakes(population: Population) -> list[str]:
    mistakes = []
    for flag, spread in (("speed", population.speed), ("bandwidth", population.bandwidth)):
        if not LEAST <= spread.median <= MOST:
            mistakes.append(f"--{flag}-median {spread.median:g}: must be from {LEAST:g} to {MOST:g}")
        if not 0 <= spread.spread <= 5:
            mistakes.append(f"--{flag}-spread {spread.spread:g}: must be from 0 to 5; 1 is heavy-tailed already")
    if not 0 < population.online <= 1:
        mistakes.append(f"--online {population.online:g}: must be a share of the day above 0 and at most 1")
    if not 1 <= population.stretch <= DAY:
        mistakes.append(f"--stretch {population.stretch:g}: must be from 1 to {DAY:g} seconds")
    if not 0 <= population.dropout < 1:
        mistakes.append(f"--dropout {population.dropout:g}: must be a probability of at least 0, below 1")
    return mistakes


def _stretches(population: Population, rng: np.random.Generator) -> tuple[tuple[float, float], ...]:
    """Return when a client is online in a day: exponential stretches, on and off in turn, from a random phase on.

    The lengths are scaled so that they fill the day with exactly the share asked for.
    """
    count = max(1, math.ceil(population.online * DAY / population.stretch))
    on, off = rng.exponential(1.0, count), rng.exponential(1.0, count)
    on, off = on / on.sum() * population.online * DAY, off / off.sum() * (1 - population.online) * DAY
    ends = np.cumsum(np.column_stack([off, on]).ravel())[1::2]
    shift = rng.random() * DAY
    pieces = []
    for end, length in zip(ends.tolist(), on.tolist(), strict=True):
        begin = (end - length + shift) % DAY
        pieces.append((begin, min(begin + length, DAY)))
        if begin + length > DAY:
            pieces.append((0.0, begin + length - DAY))  # past midnight
    rounded = sorted((_short(begin), _short(end)) for begin, end in pieces)
    return _joined([(begin, end) for begin, end in rounded if begin < end])


def _joined(periods: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Join periods that touch once they are rounded."""
    joined: list[tuple[float, float]] = []
    for begin, end in periods:
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return tuple(joined)


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
