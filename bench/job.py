"""The seed's job whole: ten worker processes, a server and a coordinator, from the command to its exit."""

import tempfile
from pathlib import Path
from statistics import median

from bench.jobs import Run, run_job, write_job
from bench.records import Figure, Options, Result
from bench.splits import shorten

WARM = {"full": 3, "quick": 2, "tiny": 1}  # runs with a warm cache
SHARE = {"full": 1, "quick": 8, "tiny": 1}  # one sample in so many, for async and sync
ABOUT = (
    "`fedps run` as a command of its own: one worker process a client, 1 server, 1 coordinator, NCF_MLP, batch 512, one pass,"
    " evaluation included. Cold: the cache of compiled steps is empty. Wall: from the command to its exit. Start: from"
    " the command until every worker has trained its first batch."
)


def measure(options: Options) -> Result:
    """Run the job cold and warm in mode geo, then async and sync."""
    data = Path(options.data)
    with tempfile.TemporaryDirectory(prefix="fedps-bench-") as name:
        folder = Path(name)
        cache = folder / "cache"
        job = write_job(folder, data)
        print("geo, cold", flush=True)
        cold = run_job(job, folder / "cold", cache)
        warm = []
        for number in range(WARM[options.size]):
            print(f"geo, warm, run {number + 1} of {WARM[options.size]}", flush=True)
            warm.append(run_job(job, folder / f"warm{number}", cache))
        figures = [*_geo("geo.cold", "geo, cold", [cold]), *_geo("geo.warm", "geo, warm", warm)]
        train = data / "train"
        if SHARE[options.size] > 1:
            train = folder / "train"
            shorten(data / "train", train, SHARE[options.size])
        for mode in ("async", "sync"):
            print(mode, flush=True)
            job = write_job(folder, data, train, sync_mode=mode)
            figures += _batchwise(mode, run_job(job, folder / mode, cache))
    notes = [f"geo trains {cold.samples:,} samples."]
    if SHARE[options.size] > 1:
        notes.append(f"async and sync train one sample in {SHARE[options.size]} only (--quick).")
    return Result("job", ABOUT, tuple(figures), notes=tuple(notes))


def _geo(key: str, what: str, runs: list[Run]) -> list[Figure]:
    def least(name: str) -> tuple[float, float | None]:
        values = [getattr(run, name) for run in runs]
        return min(values), median(values) if len(values) > 1 else None

    rates = [run.rate for run in runs]
    (wall, walls), (start, starts), (pss, pieces) = (least(name) for name in ("wall", "start", "pss"))
    return [
        Figure(f"{key}.wall", f"{what}: wall", wall, "s", walls),
        Figure(f"{key}.start", f"{what}: start", start, "s", starts),
        Figure(f"{key}.rate", f"{what}: training", max(rates), "samples/s", median(rates) if len(rates) > 1 else None),
        Figure(f"{key}.pss", f"{what}: memory of all processes (summed PSS)", pss, "MiB", pieces),
    ]


def _batchwise(mode: str, run: Run) -> list[Figure]:
    return [
        Figure(f"{mode}.rate", f"{mode}: training", run.rate, "samples/s"),
        Figure(f"{mode}.wall", f"{mode}: wall", run.wall, "s"),
    ]
