"""How fast each selector gets to a quality, on the simulated clock of a hundred virtual clients with heavy-tailed speeds."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml

from bench.jobs import write_job
from bench.records import Curve, Figure, Options, Result
from bench.splits import spread
from fedps.config import load_job
from fedps.events.ledger import Ledger
from fedps.launch.inprocess import run_in_process
from fedps.simulation.generate import Population, make_traces
from fedps.simulation.traces import write_traces
from fedps.types import ClientId

SELECTORS = {
    "full": ("random", "all", "round_robin", "by_samples", "power_of_choice", "oort", "fedcs"),
    "quick": ("random", "power_of_choice", "oort"),
    "tiny": ("random", "all"),
}
CLIENTS = {"full": 100, "quick": 100, "tiny": 12}
PICKED = {"full": 10, "quick": 10, "tiny": 3}  # a round
ROUNDS = {"full": 30, "quick": 12, "tiny": 4}
EVERY = {"full": 2, "quick": 2, "tiny": 1}  # rounds between two evaluations
LENGTH = {"all": 1 / 6, "oort": 3}  # times as many rounds: those of `all` are long, those of `oort` short
SETTINGS: Mapping[str, Mapping[str, Any]] = {  # of `selector`; all else is left out
    "oort": {"max_picks": 3, "alpha": 1},  # 3: as often as `random` picks a client in its rounds, on average
    "power_of_choice": {"candidates": 40},  # with twice those picked, the default, more of them are large and slow
}
TARGETS = {"half": 0.5, "end": 1.0}  # what `random` has reached after this share of its rounds
ALPHA = 1.0  # skew of the numbers of users that clients have
ABOUT = (
    "Virtual clients in one process, in unequal numbers of users; training is real, devices are simulated: log-normal speeds"
    " and bandwidths, a factor of 27 between the slowest and the fastest twentieth of each, medians 5,000 samples/s and"
    " 0.5 MB/s. Mode geo (20 batches of 256 a window). A round takes as long as its slowest client. The targets are"
    " what `random` has reached after half of its rounds, and in the end. oort has max_picks 3 and alpha 1,"
    " power_of_choice 40 candidates; the others have no settings. One seed: small differences say nothing."
)


@dataclass(frozen=True)
class Course:
    """What came of one selector.

    Args:
        points: (simulated hours, HR@10) of every evaluated round.
        durations: simulated seconds of the evaluated rounds.
        sent: bytes that clients sent in all.
    """

    points: tuple[tuple[float, float], ...]
    durations: tuple[float, ...]
    sent: int

    def reaches(self, target: float) -> float | None:
        """Return the simulated hours until a target was first met, None if it never was."""
        return next((hours for hours, found in self.points if found >= target), None)


def measure(options: Options) -> Result:
    """Run the same job with each selector, on the same devices."""
    size, courses = options.size, dict[str, Course]()
    with tempfile.TemporaryDirectory(prefix="fedps-bench-") as folder:
        bench = Bench(options, Path(folder))
        for name in SELECTORS[size]:
            courses[name] = bench.run(name, courses.get("random"))
    lines = tuple((name, course.points) for name, course in courses.items())
    title = f"{CLIENTS[size]} simulated clients, {PICKED[size]} a round"
    curve = Curve("selection", title, "simulated hours", "HR@10", lines)
    figures, missed = judged(courses)
    return Result("selection", ABOUT, figures, (curve,), missed)


def judged(courses: Mapping[str, Course]) -> tuple[tuple[Figure, ...], tuple[str, ...]]:
    """Return how long each selector took to each target, beside `random`, and notes on those that did not get there.

    Args:
        courses: by selector; `random` is among them.
    """
    figures, missed, chance = list[Figure](), list[str](), courses["random"].points
    for key, share in TARGETS.items():
        target = chance[round(share * (len(chance) - 1))][1]
        times = {name: took for name, course in courses.items() if (took := course.reaches(target)) is not None}
        for name, took in times.items():
            figures.append(Figure(f"{name}.{key}.time", f"{name}: to HR@10 {target:.3f}, simulated", took * 3600, "s"))
            what = f"{name}: as fast as random to {target:.3f}"
            figures.append(Figure(f"{name}.{key}.ratio", what, times["random"] / took, "times"))
        missed += [f"{name} did not reach {target:.3f} in its rounds." for name in courses if name not in times]
    for name, course in courses.items():
        hours, found = course.points[-1]
        figures.append(Figure(f"{name}.last", f"{name}: in the end, after {hours:.2f} simulated hours", found, "HR@10"))
    return tuple(figures), tuple(missed)


class Bench:
    """Clients' files and devices, made once, and the job on them.

    Args:
        options: on what data, and how much.
        folder: for data and run folders.
    """

    def __init__(self, options: Options, folder: Path) -> None:
        self._size, self._folder, data = options.size, folder, Path(options.data)
        count = CLIENTS[self._size]
        print(f"dealing the data out to {count} clients", flush=True)
        rng = np.random.default_rng(0)
        spread(data, folder / "data", rng.dirichlet(np.full(count, ALPHA)), rng)
        clients = [ClientId(str(number)) for number in range(count)]
        write_traces(folder / "traces.json", make_traces(clients, Population()), asdict(Population()))
        (folder / "data" / "manifest.json").write_text((data / "manifest.json").read_text(encoding="utf-8"))

    def run(self, name: str, chance: Course | None) -> Course:
        """Run the job with one selector.

        Args:
            name: of the selector.
            chance: what came of `random`; FedCS takes its deadline and the size of an upload from there.
        """
        print(name, flush=True)
        began, size = time.time(), self._size
        job = load_job(self._write(name, chance))
        ledger = Ledger(job, began)
        run_in_process(job, self._folder / name, ledger.take)
        summary = ledger.summary(time.time(), None)
        rounds = summary["rounds"]
        points = tuple((r["simulated_clock"] / 3600, r["hr@10"]) for r in rounds)
        print(f"{name}: {points[-1][1]:.4f} in {time.time() - began:.0f} s ({size})", flush=True)
        return Course(points, tuple(r["simulated_seconds"] for r in rounds), summary["bytes"]["sent_by_clients"])

    def _write(self, name: str, chance: Course | None) -> Path:
        size = self._size
        rounds = max(2, round(ROUNDS[size] * LENGTH.get(name, 1)))
        runner: dict[str, Any] = {"client_selector": name, "epochs": rounds, "eval_every": EVERY[size]}
        runner |= {"geo_step": 20, "pace": "own", "train_batch_size": 256, "worker_num": CLIENTS[size]}
        if name not in ("all", "fedcs"):
            runner["clients_per_round"] = PICKED[size]
        path = write_job(self._folder, self._folder / "data", **runner)
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) | {"simulation": {"traces": "traces.json"}}
        tree["selector"] = dict(SETTINGS.get(name, {}))
        if name == "fedcs" and chance is not None:
            upload = chance.sent / (ROUNDS[size] * PICKED[size]) / 2**20
            tree["selector"] = {"deadline": median(chance.durations), "upload_mib": upload}
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        return path
