"""What the model is worth with each mode and merge: the quick start's job, seed after seed, pass after pass."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.jobs import execute, write_job
from bench.records import Curve, Figure, Options, Result, Sheet

MODES: dict[str, dict[str, Any]] = {
    "one client with all data": {"worker_num": 1, "split_file_list": True, "geo_step": 100},
    "async": {"sync_mode": "async"},
    "sync": {"sync_mode": "sync"},
    "sync, own pace": {"sync_mode": "sync", "pace": "own"},
    "geo adaptive": {},
    "geo adaptive, own pace": {"pace": "own"},
    "geo adaptive, 25": {"geo_step": 25},
    "geo adaptive, 25, own pace": {"geo_step": 25, "pace": "own"},
    "geo adaptive, 100": {"geo_step": 100},
    "geo adaptive, 100, own pace": {"geo_step": 100, "pace": "own"},
    "geo heat": {"geo_merge": "heat"},
    "geo mean": {"geo_merge": "mean"},
    "geo original": {"geo_merge": "original"},
    "geo sum": {"geo_merge": "sum"},
    "geo buffered": {"geo_merge": "buffered"},
    "round": {"sync_mode": "round"},
    "round, touched": {"sync_mode": "round", "row_average": "touched"},
}
SHORT = {"full": tuple(MODES), "quick": ("async", "geo adaptive", "geo mean", "round"), "tiny": ("geo adaptive",)}
SEEDS = {"full": (0, 1, 2), "quick": (0,), "tiny": (0, 1)}
LONG = {"full": ("async", "sync", "geo adaptive", "round"), "quick": ("geo adaptive",), "tiny": ()}
PASSES = {"short": 2, "long": 20}
RECIPE = {"schedule": "linear", "final": 0.1, "weight_decay": 1e-5}  # against overfitting in 20 passes
OWN = {"async": {"learning_rate": 0.002, "private_learning_rate": 0.0032}}  # it averages nobody, so no rate grows by √N
NEGATIVES = 8
ONCE = ("async", "sync", "round")  # with one seed: 20 passes take many minutes, or come to little
HEAD = ("", "HR@10", "± HR", "NDCG@10", "± NDCG", "AUC", "MiB sent a pass", "seconds, all in")
ABOUT = (
    "`fedps run` of examples/quickstart.yaml (NCF_MLP, user table private, Adam at 0.001, batch 512), a worker process a"
    " client and 1 server; `one client with all data` is one worker with all files. HR@10 and NDCG@10 of 1 positive among"
    " 99 negatives after the last pass; ± is half of the way between the best and the worst seed. Seconds are of the whole"
    " command, evaluations included."
)


@dataclass(frozen=True)
class Found:
    """What one run came to.

    Args:
        hr, ndcg, auc: after its last pass.
        points: (pass, HR@10) of each.
        mib: MiB that all clients sent in a pass.
        seconds: of the whole command.
    """

    hr: float
    ndcg: float
    auc: float
    points: tuple[tuple[float, float], ...]
    mib: float
    seconds: float


def measure(options: Options) -> Result:
    """Run two passes with every mode and merge, then twenty with the recipe for long jobs."""
    size, figures = options.size, list[Figure]()
    sheets, curves = list[Sheet](), list[Curve]()
    with tempfile.TemporaryDirectory(prefix="fedps-bench-") as folder:
        bench = Bench(Path(options.data), Path(folder))
        for key, names in (("short", SHORT[size]), ("long", LONG[size])):
            found = {name: bench.runs(key, name, _seeds(key, name, SEEDS[size])) for name in names}
            if not found:
                continue
            title = f"{PASSES[key]} passes" + (f", {_recipe()}" if key == "long" else "")
            figures += [
                Figure(f"{key}.{n}.hr", f"{n}: HR@10, {title}", _mean(r, "hr"), "HR@10") for n, r in found.items()
            ]
            sheets.append(Sheet(title, HEAD, tuple(_row(name, runs) for name, runs in found.items())))
            lines = tuple((name, runs[0].points) for name, runs in found.items())
            curves.append(Curve(f"merges-{key}", title, "passes", "HR@10", lines))
    return Result("merges", ABOUT, tuple(figures), tuple(curves), sheets=tuple(sheets))


class Bench:
    """The job, in all its forms.

    Args:
        data: prepared data.
        folder: for job files and run folders.
    """

    def __init__(self, data: Path, folder: Path) -> None:
        self._data, self._folder = data, folder

    def runs(self, key: str, name: str, seeds: Sequence[int]) -> list[Found]:
        """Run the job with one mode and merge, once a seed."""
        found = []
        for seed in seeds:
            run_dir, long = self._folder / f"{key} {name} {seed}", key == "long"
            runner: dict[str, Any] = {"geo_step": 10, "with_coordinator": False}
            runner |= {"epochs": PASSES[key], "seed": seed} | ({"negatives": NEGATIVES} if long else {}) | MODES[name]
            job = write_job(self._folder, self._data, optimizer=_optimizer(name) if long else None, **runner)
            summary = execute(job, run_dir).summary
            found.append(_found(summary))
            print(f"{PASSES[key]} passes, {name}, seed {seed}: HR@10 {found[-1].hr:.4f}", flush=True)
        return found


def _seeds(key: str, name: str, seeds: Sequence[int]) -> Sequence[int]:
    return seeds[:1] if key == "long" and name in ONCE else seeds


def _optimizer(name: str) -> Mapping[str, object]:
    return RECIPE | OWN.get(name, {})


def _found(summary: Mapping[str, Any]) -> Found:
    rounds, last = summary["rounds"], summary["rounds"][-1]
    points = tuple((float(r["round"]), r["hr@10"]) for r in rounds)
    mib = summary["bytes"]["sent_by_clients"] / 2**20 / len(rounds)
    return Found(last["hr@10"], last["ndcg@10"], last["auc"], points, mib, summary["wall_seconds"])


def _recipe() -> str:
    shown = ", ".join(f"{key} {value}" for key, value in RECIPE.items())
    return (
        f"{NEGATIVES} negatives drawn anew, {shown} (async: {', '.join(f'{k} {v}' for k, v in OWN['async'].items())})"
    )


def _row(name: str, runs: Sequence[Found]) -> tuple[str, ...]:
    return (
        name, f"{_mean(runs, 'hr'):.3f}", _spread(runs, "hr"), f"{_mean(runs, 'ndcg'):.3f}", _spread(runs, "ndcg"),
        f"{_mean(runs, 'auc'):.3f}", f"{_mean(runs, 'mib'):,.0f}", f"{_mean(runs, 'seconds'):,.1f}",
    )  # fmt: skip


def _mean(runs: Sequence[Found], name: str) -> float:
    return fmean(getattr(run, name) for run in runs)


def _spread(runs: Sequence[Found], name: str) -> str:
    values = [getattr(run, name) for run in runs]
    return f"{(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else ""
