"""Vertical training of published sets: together over the wire, joined in one place, and each side alone; three seeds."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.apart import BenchError
from bench.party_sets import SETS, write_job
from bench.records import Figure, Options, Result, Sheet

SEEDS = {"full": (0, 1, 2), "quick": (0,), "tiny": (0,)}
SIDES = {"federated": "together", "joined": "joined in one place", "active": "active alone", "passive": "passive alone"}
ABOUT = (
    "`fedps vertical run` of each set on this machine, two processes that meet over a socket, held-out samples, the best epoch"
    " by them. Joined is the same network on both parties' features in one process. Median over seeds, and least and largest."
)


def measure(options: Options) -> Result:
    """Train each set, with each seed."""
    source, figures, sheets = Path(os.environ.get("FEDPS_DATA", "")), list[Figure](), list[Sheet]()
    with tempfile.TemporaryDirectory(prefix="fedps-bench-") as folder:
        for name in ["made up"] if options.size == "tiny" else SETS:
            runs = [run(name, source, Path(folder), {"seed": seed}) for seed in SEEDS[options.size]]
            sheets.append(_sheet(name, runs))
            for side, said in SIDES.items():
                auc = statistics.median(one[side]["auc"] for one in runs)
                figures.append(Figure(f"{name}.{side}", f"{name}: {said}", auc, "AUC"))
    return Result("parties", ABOUT, tuple(figures), sheets=tuple(sheets))


def run(name: str, source: Path, home: Path, vertical: Mapping[str, Any]) -> dict[str, Any]:
    """Train a set; return what its summary says of the parties."""
    job = write_job(name, source, home, {"lift": ["active", "passive", "joined"], **vertical})
    out = Path(tempfile.mkdtemp(dir=home)) / "run"
    command = [sys.executable, "-m", "fedps", "vertical", "run", str(job), "--run_dir", str(out), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise BenchError(f"{name}: fedps vertical run ended with exit code {done.returncode}\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)["vertical"]
    print(f"{name}, {vertical}: " + ", ".join(f"{side} {found[side]['auc']:.4f}" for side in SIDES), flush=True)
    return found


def _sheet(name: str, runs: Sequence[Mapping[str, Any]]) -> Sheet:
    def cell(values: Sequence[float]) -> str:
        return f"{statistics.median(values):.4f} ({min(values):.4f} to {max(values):.4f})"

    rows = [
        (said, cell([one[side]["auc"] for one in runs]), cell([one[side]["logloss"] for one in runs]))
        for side, said in SIDES.items()
    ]
    return Sheet(name, ("", "AUC", "log loss"), tuple(rows))
