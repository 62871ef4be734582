"""What the product is meant to reach on two cores with MovieLens-1M, and whether it does here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.loops import FORMS
from bench.records import SMALLER, Result, times_better

GROWN = 10_000_000  # rows


@dataclass(frozen=True)
class Aim:
    """A value to reach: at least `due`, or at most where less is better, by its unit.

    Args:
        what: for people.
        due: the value.
        unit: of both values.
        key: `subject.key` of the figure that is judged; a ratio may be given by `of` instead.
        of: finds the value in the results, by subject; None if it was not measured.
    """

    what: str
    due: float
    unit: str
    key: str = ""
    of: Callable[[Mapping[str, Result]], float | None] | None = None


@dataclass(frozen=True)
class Judged:
    """An aim with what was measured.

    Args:
        what, due, unit: the aim.
        value: measured; None if it was not.
        ratio: how many times as good as due.
        met: whether the aim is met; None if it was not measured.
    """

    what: str
    due: float
    unit: str
    value: float | None
    ratio: float | None
    met: bool | None


def beside_best_loop(results: Mapping[str, Result]) -> float | None:
    """Return the job's speed over that of the best plain PyTorch loop on one core, in the same run."""
    if "job" not in results or "step" not in results:
        return None
    job = results["job"].find("geo.warm.rate")
    loops = [figure.value for form in FORMS if (figure := results["step"].find(f"NCF_MLP.{form}"))]
    return job.value / max(loops) if job and loops else None


AIMS = (
    Aim("ten workers, geo: training", 1_500_000, "samples/s", "job.geo.warm.rate"),
    Aim("the same beside the best plain PyTorch loop on one core", 5, "times", of=beside_best_loop),
    Aim("start to the first batch of all workers, step in the cache", 4, "s", "job.geo.warm.start"),
    Aim("start to the first batch of all workers, empty cache", 40, "s", "job.geo.cold.start"),
    Aim("one pass, wall, step in the cache", 12, "s", "job.geo.warm.wall"),
    Aim("memory of the whole job (summed PSS), 1.5 GB", 1430, "MiB", "job.geo.warm.pss"),
    Aim("ten workers, async: training", 150_000, "samples/s", "job.async.rate"),
    Aim("ten workers, sync: training", 150_000, "samples/s", "job.sync.rate"),
    Aim("pull of 5,000 × 32 floats, p50", 1.3, "ms", "wire.1.5000.fedps.p50"),
    Aim("the same with TLS", 2.6, "ms", "wire.1.5000.tls.p50"),
    Aim("ten clients pulling 5,000 × 32 floats", 4_000_000, "rows/s", "wire.10.5000.fedps.rate"),
    Aim("Adam push into 1 M rows, one core", 2_000_000, "rows/s", "table.adam.1000000.fedps"),
    Aim("10 M rows of Adam's state in memory", 4.5, "GB", f"table.grown.{GROWN}.memory"),
    Aim("longest push while growing to them", 50, "ms", f"table.grown.{GROWN}.longest"),
)


def judge(results: Mapping[str, Result]) -> tuple[Judged, ...]:
    """Hold all aims against what was measured.

    Args:
        results: by subject.
    """
    return tuple(_judge(aim, results) for aim in AIMS)


def _judge(aim: Aim, results: Mapping[str, Result]) -> Judged:
    value = aim.of(results) if aim.of else _value(aim.key, results)
    if value is None:
        return Judged(aim.what, aim.due, aim.unit, None, None, None)
    met = value <= aim.due if aim.unit in SMALLER else value >= aim.due
    return Judged(aim.what, aim.due, aim.unit, value, times_better(value, aim.due, aim.unit), met)


def _value(key: str, results: Mapping[str, Result]) -> float | None:
    subject, _, key = key.partition(".")
    figure = results[subject].find(key) if subject in results else None
    return None if figure is None else figure.value
