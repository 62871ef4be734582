"""How the job's speed grows with workers and with servers."""

import tempfile
from pathlib import Path

from fedps.bench.jobs import run_job, write_job
from fedps.bench.records import Curve, Figure, Options, Result
from fedps.bench.splits import deal

WORKERS = {"full": (1, 2, 5, 10, 20), "quick": (1, 10), "tiny": (1, 12)}
SERVERS = {"full": (1, 2, 4), "quick": (1, 2), "tiny": (2,)}
RUNS = {"full": 2, "quick": 1, "tiny": 1}
ABOUT = (
    "The job of `job`, mode geo, without evaluation, on the same samples whatever the number of workers: the clients' files are"
    " joined for fewer workers, cut by user for more. Servers: with one worker a client. The compiled step is in the cache."
)


def measure(options: Options) -> Result:
    """Run the job with every number of workers, then of servers; the best of some runs each."""
    data = Path(options.data)
    own = len(list((data / "train").glob("*.csv")))
    figures: list[Figure] = []
    lines: dict[str, list[tuple[float, float]]] = {"workers": [], "servers": []}
    cases = [("workers", n, n, 1) for n in WORKERS[options.size]] + [
        ("servers", n, own, n) for n in SERVERS[options.size]
    ]
    with tempfile.TemporaryDirectory(prefix="fedps-bench-") as name:
        folder = Path(name)
        for kind, number, workers, servers in cases:
            train = folder / f"train{workers}"
            if not train.exists():
                deal(data / "train", train, workers)
            job = write_job(folder, data, train, test=False, server_num=servers)
            rates = []
            for run in range(RUNS[options.size]):
                print(f"{number} {kind}, run {run + 1} of {RUNS[options.size]}", flush=True)
                rates.append(run_job(job, folder / f"{kind}{number}-{run}", folder / "cache").rate)
            what = f"{number} {kind if number > 1 else kind[:-1]}"
            figures.append(Figure(f"{kind}.{number}", f"{what}: training", max(rates), "samples/s"))
            lines[kind].append((number, max(rates)))
    curves = tuple(
        Curve(kind, f"The job with more {kind}", kind, "samples/s", (("geo", tuple(points)),))
        for kind, points in lines.items()
    )
    return Result("scaling", ABOUT, tuple(figures), curves)
