"""The seed's job as a command of its own: written to a file, run by `fedps run`, read back from its run folder."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bench.apart import BenchError

LONGEST = 3600.0  # seconds that one job may take


@dataclass(frozen=True)
class Run:
    """What one run of a job took.

    Args:
        wall: seconds from the command to its exit.
        start: seconds from the command until every worker has trained its first batch.
        rate: samples a second over the training span.
        pss: MiB, the largest sum of all roles' proportional memory.
        samples: trained.
        processor: seconds of it, of all roles: on a machine with other work it tells more than the rate.
    """

    wall: float
    start: float
    rate: float
    pss: float
    samples: int
    processor: float


def write_job(
    folder: Path, data: Path, train: Path | None = None, test: bool = True,
    optimizer: Mapping[str, object] | None = None, certs: Path | None = None, **runner: object,
) -> Path:  # fmt: skip
    """Write a job file like examples/quickstart.yaml, with a coordinator and one epoch.

    Args:
        folder: where to write `job.yaml`.
        data: prepared data; its manifest says how many users and items there are.
        train: another folder of training files than `data` has.
        test: whether to evaluate.
        optimizer: further keys of the optimizer.
        certs: folder of an authority; None: connections are in the clear.
        runner: further keys.
    """
    facts = json.loads((data / "manifest.json").read_text(encoding="utf-8"))
    keys: dict[str, object] = {
        "sync_mode": "geo",
        "geo_step": 100,
        "train_data_dir": str((train or data / "train").resolve()),
        "train_batch_size": 512,
        "epochs": 1,
        "with_coordinator": True,
        "local_sparse": ["mlp_user.weight"],
        "remote_sparse": ["mlp_item.weight"],
    }
    if test:
        keys["test_data_dir"] = str((data / "test").resolve())
    hyper = {
        "optimizer": {"class": "adam", "learning_rate": 0.001, **(optimizer or {})},
        "num_users": facts["num_users"],
        "num_items": facts["num_items"],
        "mode": "NCF_MLP",
        "fc_layers": [64, 32, 16, 8],
    }
    path = folder / "job.yaml"
    tree = {"runner": keys | runner, "hyper_parameters": hyper, "security": {"certs": str(certs)} if certs else {}}
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


class Done(NamedTuple):
    """A job that was run: its `summary.json`; when it began, seconds since 1970; seconds from the command to its exit.

    `processor`: seconds of it, of the command and all that it started.
    """

    summary: dict[str, Any]
    began: float
    wall: float
    processor: float


def execute(job: Path, run_dir: Path, cache: Path | None = None) -> Done:
    """Run a job to its end.

    Args:
        job: the job file.
        run_dir: a folder to make for the run.
        cache: the folder of compiled steps, an empty one makes the run a cold one; None takes the user's.

    Raises:
        BenchError: the job failed, or did not end.
    """
    environment = {} if cache is None else {"FEDPS_CACHE": str(cache)}
    command = [sys.executable, "-m", "fedps", "run", str(job), "--run_dir", str(run_dir), "--json"]
    began_at, began, spent = time.time(), time.perf_counter(), _spent()
    try:
        done = subprocess.run(  # noqa: S603
            command, env=os.environ | environment, capture_output=True, text=True, check=False,
            timeout=LONGEST,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BenchError(f"fedps run did not end within {LONGEST:g} s") from None
    wall = time.perf_counter() - began
    if done.returncode:
        raise BenchError(f"fedps run ended with exit code {done.returncode}\n{done.stderr[-2000:]}")
    return Done(json.loads((run_dir / "summary.json").read_text(encoding="utf-8")), began_at, wall, _spent() - spent)


def run_job(job: Path, run_dir: Path, cache: Path) -> Run:
    """Run a job to its end, and return what it took; see `execute`.

    Raises:
        BenchError: the job failed, or did not end.
    """
    summary, began_at, wall, processor = execute(job, run_dir, cache)
    lines = (run_dir / "events.jsonl").read_text(encoding="utf-8").splitlines()
    first = [event["time"] for line in lines if (event := json.loads(line))["event"] == "first_batch"]
    return Run(
        wall,
        max(first) - began_at,
        summary["samples_per_second"],
        summary["memory_mib"]["sum_pss"],
        summary["samples"],
        processor,
    )


def _spent() -> float:
    """Return seconds of the processor of all processes that were started here and have ended, and of theirs."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
