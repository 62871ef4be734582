"""A made-up report, for tests of what is written."""

from bench.aims import judge
from bench.records import Curve, Figure, Result
from bench.suite import Report

MACHINE = {
    "processor": "A Chip",
    "cores": "2",
    "load": "0.1",
    "memory": "8 GiB",
    "system": "Linux x86_64",
    "python": "3.11.7",
}
DATA = {"source": "ml-1m.zip", "synthetic": False, "clients": 10, "users": 6040, "items": 3706, "samples": 4970845}


def job(rate: float = 2_000_000.0, wall: float = 24.0) -> Result:
    figures = (
        Figure("geo.warm.wall", "geo, warm: wall", wall, "s", 25.0),
        Figure("geo.warm.rate", "geo, warm: training", rate, "samples/s"),
    )
    return Result("job", "The job.", figures, notes=("A note.",))


def step() -> Result:
    figures = (
        Figure("NCF_MLP.fedps", "NCF_MLP: fedps", 1_000_000.0, "samples/s"),
        Figure("NCF_MLP.adam", "NCF_MLP: Adam", 250_000.0, "samples/s", 200_000.0, ours="NCF_MLP.fedps"),
        Figure("NCF_MLP.fused", "NCF_MLP: fused", 500_000.0, "samples/s", ours="NCF_MLP.fedps"),
    )
    return Result("step", "The step.", figures)


def scaling() -> Result:
    figures = (Figure("workers.1", "1 worker: training", 1e6, "samples/s"),)
    lines = (("geo", ((1.0, 1e6), (10.0, 2e6))), ("other", ((1.0, 1e5), (10.0, 3e6))))
    return Result(
        "scaling", "More workers.", figures, (Curve("workers", "More workers", "workers", "samples/s", lines),)
    )


def report(*results: Result, synthetic: bool = False, failed: dict[str, str] | None = None) -> Report:
    found = {result.subject: result for result in results}
    return Report(MACHINE, DATA | {"synthetic": synthetic}, "quick", 12.345, judge(found), found, failed or {})
