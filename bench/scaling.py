"""How the job's speed grows with workers and with servers."""

import tempfile
from pathlib import Path

from bench.jobs import run_job, write_job
from bench.records import Curve, Figure, Options, Result
from bench.splits import deal

WORKERS = {"full": (1, 2, 5, 10, 20), "quick": (1, 10), "tiny": (1, 12)}
SERVERS = {"full": (1, 2, 4), "quick": (1, 2), "tiny": (2,)}
RUNS = {"full": 2, "quick": 1, "tiny": 1}
ABOUT = (
    "The job of `job`, mode geo, without evaluation, on the same samples whatever the number of workers: the clients' files are"
    " joined for fewer workers, cut by user for more. Servers: with one worker a client. The compiled step is in the cache."
)


def measure(options: Options) -> Result:
    """Run the job with every number of workers, then of servers; the best of some runs each."""
    own = len(list((Path(options.data) / "train").glob("*.csv")))
    cases = {
        "workers": [(n, n, 1) for n in WORKERS[options.size]],
        "servers": [(n, own, n) for n in SERVERS[options.size]],
    }
    figures, curves = list[Figure](), list[Curve]()
    with tempfile.TemporaryDirectory(prefix="fedps-bench-") as folder:
        speed = Speed(options, Path(folder))
        for kind, numbers in cases.items():
            points = [(float(number), speed.of(workers, servers)) for number, workers, servers in numbers]
            for number, rate in points:
                what = f"{number:g} {kind if number > 1 else kind[:-1]}"
                figures.append(Figure(f"{kind}.{number:g}", f"{what}: training", rate, "samples/s"))
            curves.append(Curve(kind, f"The job with more {kind}", kind, "samples/s", (("geo", tuple(points)),)))
    return Result("scaling", ABOUT, tuple(figures), tuple(curves))


class Speed:
    """The job's speed by workers and servers; each pair is measured once.

    Args:
        options: on what data, and how often.
        folder: for training files, run folders and compiled steps.
    """

    def __init__(self, options: Options, folder: Path) -> None:
        self._data, self._runs, self._folder = Path(options.data), RUNS[options.size], folder
        self._measured: dict[tuple[int, int], float] = {}

    def of(self, workers: int, servers: int) -> float:
        """Return samples a second, of the best run."""
        case = workers, servers
        if case not in self._measured:
            self._measured[case] = max(self._run(workers, servers, number) for number in range(self._runs))
        return self._measured[case]

    def _run(self, workers: int, servers: int, number: int) -> float:
        print(f"{workers} workers, {servers} servers, run {number + 1} of {self._runs}", flush=True)
        train = self._folder / f"train{workers}"
        if not train.exists():
            deal(self._data / "train", train, workers)
        job = write_job(self._folder, self._data, train, test=False, server_num=servers)
        return run_job(job, self._folder / f"{workers}-{servers}-{number}", self._folder / "cache").rate
