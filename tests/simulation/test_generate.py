"""Made-up traces: the same for the same seed, spread as population, online for the share population."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from fedps.errors import JobError
from fedps.simulation.generate import DAY, Population, Spread, make_traces
from fedps.simulation.traces import read_traces, write_traces
from fedps.types import ClientId

MANY = [ClientId(str(k)) for k in range(4000)]


def speeds(spread: Spread, seed: int = 0) -> list[float]:
    return sorted(t.speed for t in make_traces(MANY, Population(speed=spread, seed=seed)).values())


def test_the_same_seed_makes_the_same_traces() -> None:
    population = Population(online=0.3, seed=5)
    assert make_traces(MANY[:50], population) == make_traces(MANY[:50], population)
    assert make_traces(MANY[:50], population) != make_traces(MANY[:50], replace(population, seed=6))


def test_other_bandwidths_leave_speeds_alone() -> None:
    one, other = (make_traces(MANY, Population(bandwidth=Spread("pareto", m))).values() for m in (1e4, 1e6))
    assert [t.speed for t in one] == [t.speed for t in other]


def test_lognormal_speeds() -> None:
    logs = np.log(speeds(Spread("lognormal", 5000, 0.7)))
    assert np.mean(logs) == pytest.approx(np.log(5000), abs=0.05)
    assert np.std(logs) == pytest.approx(0.7, abs=0.05)


def test_pareto_times_have_their_tail() -> None:
    times = 1 / np.array(speeds(Spread("pareto", 5000, 0.5)))  # tail index 2: P(time > t) = (x_m / t)²
    assert np.median(times) == pytest.approx(1 / 5000, rel=0.05)
    least = np.median(times) * 0.5**0.5
    assert times.min() >= least * 0.9999
    assert np.mean(times > 4 * least) == pytest.approx(1 / 16, abs=0.02)


def test_all_the_same() -> None:
    assert set(speeds(Spread("same", 123, 4))) == {123.0}


@pytest.mark.parametrize("share", [0.05, 0.4, 0.95])
@pytest.mark.parametrize("stretch", [60.0, 4 * 3600.0, DAY])
def test_clients_are_online_for_their_share(share: float, stretch: float, tmp_path: Path) -> None:
    population = Population(online=share, stretch=stretch, dropout=0.2)
    found = make_traces(MANY[:40], population)
    for trace in found.values():
        assert sum(end - begin for begin, end in trace.online) == pytest.approx(share * DAY, abs=30)
        assert trace.dropout == 0.2
    write_traces(tmp_path / "t.json", found, asdict(population))
    assert read_traces(tmp_path / "t.json") == found
    assert len({trace.online for trace in found.values()}) > 30


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"speed": Spread("same", 0)}, "--speed-median 0: must be from 0.001"),
        ({"bandwidth": Spread("lognormal", 1, 9)}, "--bandwidth-spread 9: must be from 0 to 5"),
        ({"bandwidth": Spread("lognormal", 1, float("nan"))}, "--bandwidth-spread nan"),
        ({"online": 0.0}, "--online 0: must be a share"),
        ({"stretch": 0.5}, "--stretch 0.5: must be from 1"),
        ({"dropout": 1.0}, "--dropout 1: must be a probability"),
    ],
)
def test_wishes_that_cannot_be(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(JobError, match=told):
        make_traces(MANY[:1], replace(Population(), **wrong))  # type: ignore[arg-type]
