"""Networks of features trained over ten clients, in each mode, beside the same network trained on all data in one place."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bench.apart import BenchError
from bench.jobs import execute
from bench.records import Figure, Options, Result, Sheet
from fedps.config import load_job
from fedps.data.prepare.featured import prepare_fields, prepare_ratings, prepare_sequences
from fedps.data.prepare.movielens import prepare
from fedps.data.prepare.write import Split
from fedps.data.read.client import read_trained
from fedps.types import ClientId, Samples

CTR: dict[str, Any] = {"embedding_dim": 16, "hidden_units": [64, 32]}


Keys = Mapping[str, Mapping[str, Any]]  # sections of a job, and keys of each; `optimizer` is that of hyper_parameters


@dataclass(frozen=True)
class Task:
    """A network and what it learns.

    Attributes:
        data: which of `_prepare`.
        hyper: its hyperparameters.
        runner: keys of the central loop and of all modes: its passes among them.
        modes: for each mode the keys that suit it: those of a user who has read the guide to modes.
        metrics: what is compared, the first by the aims.
        aims: by how much a mode may stay below the central loop.
        features: what the job says of them, in place of the data's manifest.
    """

    data: str
    hyper: Mapping[str, Any]
    runner: Mapping[str, Any]
    modes: Mapping[str, Keys] = field(default_factory=dict)
    metrics: tuple[str, ...] = ("auc", "gauc", "logloss")
    aims: Mapping[str, float] = field(
        default_factory=lambda: {"async": 0.002, "sync": 0.002, "geo": 0.005, "round": 0.005}
    )
    features: Mapping[str, Any] = field(default_factory=dict)


def _short_rounds(passes: int, batches: int, size: int) -> dict[str, Mapping[str, Any]]:
    """Return keys of rounds of an eighth of a pass, `batches` of `size` samples each; as all that short rounds need."""
    return {
        "runner": {
            "with_coordinator": True, "epochs": 8 * passes, "round_iterations": batches, "train_batch_size": size,
            "row_average": "touched", "optimizer_state": "keep", "eval_every": 0,
        },
        "server_optimizer": {"class": "momentum", "beta1": 0.5, "learning_rate": 1},
    }  # fmt: skip


PLAIN = 0.001 / 10**0.5  # ten clients take √10 times this by default, which is the loop's rate
FRAPPE: dict[str, Keys] = {
    "async": {"runner": {"train_batch_size": 128}, "optimizer": {"private_learning_rate": 0.0015}},
    "sync": {"runner": {"train_batch_size": 26}, "optimizer": {"learning_rate": PLAIN}},
    "geo": {"runner": {"train_batch_size": 64, "geo_step": 5}},
    "round": _short_rounds(10, batches=34, size=26),
}
RATINGS: dict[str, Keys] = {
    "sync": {"runner": {"train_batch_size": 51}, "optimizer": {"learning_rate": PLAIN}},
    "geo": {"runner": {"train_batch_size": 128, "geo_step": 10}, "optimizer": {"learning_rate": PLAIN}},
    "round": _short_rounds(7, batches=156, size=64) | {"optimizer": {"private_learning_rate": 0.001}},
}
SEQUENCES: dict[str, Keys] = {
    "async": {"runner": {"train_batch_size": 16}},
    "sync": {"runner": {"train_batch_size": 8}},
    "geo": {"runner": {"train_batch_size": 8, "geo_step": 5}},
    "round": _short_rounds(10, batches=9, size=8) | {"optimizer": {"learning_rate": 0.002}},
}
PAIRS: dict[str, Keys] = {
    "async": {"optimizer": {"learning_rate": 0.0015}},
    "sync": {"runner": {"train_batch_size": 256}},
    "geo": {"runner": {"train_batch_size": 256, "geo_step": 5}},
    "round": _short_rounds(4, batches=48, size=256),
}
CATALOGUE = {"async": 0.005, "sync": 0.005, "geo": 0.005, "round": 0.005}
RANKED = ("full_ndcg@10", "full_hr@10")
HISTORIES = {
    "user": {"kind": "id", "rows": 6040, "optional": True}, "item": {"kind": "id", "rows": 3706},
    "history": {"kind": "ids", "table": "item", "max": 50}, "label": {"kind": "label"},
}  # fmt: skip
TASKS = {
    "DeepFM, ML-1M ratings": Task("ratings", CTR | {"mode": "DeepFM"}, {"epochs": 7}, RATINGS),
    "DCN-v2, ML-1M ratings": Task("ratings", CTR | {"mode": "DCNv2"}, {"epochs": 7}, RATINGS),
    "DeepFM, Frappe": Task("frappe", CTR | {"mode": "DeepFM"}, {"epochs": 10, "train_batch_size": 256}, FRAPPE),
    "DCN-v2, Frappe": Task(
        "frappe", CTR | {"mode": "DCNv2"}, {"epochs": 10, "train_batch_size": 256},
        FRAPPE | {"geo": {"runner": {"train_batch_size": 64, "geo_step": 2}}},
    ),
    "SASRec, ML-1M sequences": Task(
        "sequences", {"mode": "SASRec", "embedding_dim": 32, "loss": "in_batch_softmax"},
        {"epochs": 10, "train_batch_size": 32, "eval_every": 0, "remote_sparse": ["embedding_item.weight"]},
        SEQUENCES, RANKED, CATALOGUE, HISTORIES,
    ),
    "TwoTower, ML-1M": Task(
        "pairs", {"mode": "TwoTower", "embedding_dim": 32, "hidden_units": [32], "loss": "in_batch_softmax"},
        {"epochs": 4, "negatives": 0, "eval_every": 0}, PAIRS, RANKED, CATALOGUE,
    ),
}  # fmt: skip
MODES = ("async", "sync", "geo", "round")
TINY = {"DeepFM, made-up fields": Task("fields", CTR | {"mode": "DeepFM"}, {"epochs": 1, "train_batch_size": 64})}
ABOUT = (
    "Ten clients (zip codes of ML-1M; Frappe's users dealt out), user-side tables private, SASRec's shared; `fedps run` of each"
    " mode, beside a plain PyTorch loop over all clients' samples, shuffled: the same network, start and passes, Adam at 0.001,"
    " batches of 256 (Frappe), 512 or 32 (SASRec). Modes have the batch, the rates and the window that suit them, by their"
    " guide (`TASKS` in `bench/central.py`), which the loop's were not picked for: on validation samples, those of DeepFM in"
    " async, sync and geo by these same figures. Both scored by `fedps infer` on the clients' held-out samples."
)


def measure(options: Options) -> Result:
    """Train each task in one place and in each mode."""
    source, figures, sheets = Path(os.environ.get("FEDPS_DATA", "")), list[Figure](), list[Sheet]()
    tasks, modes = (TINY, ("geo",)) if options.size == "tiny" else (TASKS, MODES)
    with tempfile.TemporaryDirectory(prefix="fedps-bench-") as folder:
        for name, task in tasks.items():
            found = compare(name, task, Path(folder), source, modes)
            sheets.append(_sheet(name, task, found))
            figures += [
                Figure(f"{name}.{mode}.{metric}", f"{name}: {mode}", value, metric)
                for mode, values in found.items()
                for metric, value in values.items()
            ]
    return Result("central", ABOUT, tuple(figures), sheets=tuple(sheets))


def compare(name: str, task: Task, home: Path, source: Path, modes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return what a task comes to by the central loop, and in each mode: by metric."""
    found = dict[str, dict[str, float]]()
    data = _prepare(task.data, home, source)
    for mode in ("central", *modes):
        job = _write(home, data, task, mode)
        weights = home / f"{task.hyper['mode']}.safetensors"
        if mode == "central":
            train_centrally(job, weights)
            command = [sys.executable, "-m", "fedps", "infer", str(job), "--weights", str(weights), "--json"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
            if done.returncode:
                raise BenchError(f"fedps infer ended with exit code {done.returncode}\n{done.stderr[-2000:]}")
            figures = json.loads(done.stdout)
        else:
            figures = execute(job, Path(tempfile.mkdtemp(dir=home)) / "run").summary["metrics"]
        found[mode] = {metric: float(figures[metric]) for metric in task.metrics}
        print(f"{name}, {mode}: " + ", ".join(f"{k} {v:.4f}" for k, v in found[mode].items()), flush=True)
    return found


def train_centrally(path: Path, weights: Path) -> None:
    """Train a job's network by a plain PyTorch loop on all clients' samples, and save its weights."""
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    from fedps.config.sections.features import spaces  # noqa: PLC0415
    from fedps.data.samples import ClientData  # noqa: PLC0415
    from fedps.models.build import build  # noqa: PLC0415
    from fedps.models.inputs import tensors  # noqa: PLC0415
    from fedps.models.loss import items_of, training_loss  # noqa: PLC0415

    job = load_job(path)
    torch.set_flush_denormal(True)
    torch.manual_seed(job.runner.seed)
    model, train = build(job), Samples.joined(list(read_trained(job).values()))
    data = ClientData(train, None, ClientId("all"), 0, shuffle=True, spaces=spaces(job.inputs))
    loss = training_loss(model, job, lambda: data.frequencies(items_of(model)))
    optimizer = torch.optim.Adam(model.parameters(), lr=job.hyper_parameters.optimizer.learning_rate, fused=True)
    rng, size = np.random.default_rng(job.runner.seed), job.runner.train_batch_size
    for _ in range(job.runner.epochs):
        order = rng.permutation(len(train.label))
        for at in range(0, len(order), size):
            batch = train.at(order[at : at + size])
            optimizer.zero_grad(set_to_none=True)
            loss(model(*tensors(model, batch.columns)), torch.from_numpy(batch.label)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    save_file({name: weight.detach().contiguous() for name, weight in model.named_parameters()}, weights)


def _prepare(kind: str, home: Path, source: Path) -> Path:
    out = home / kind
    if not out.exists():
        if kind == "frappe":
            prepare_fields(out, sorted((source / "ctr").glob("frappe.*.libfm.gz")), 10, seed=0)
        elif kind == "fields":
            rng, lines = np.random.default_rng(0), home / "made-up.libfm"
            rows = rng.integers(0, [2, 20, 30, 5], (1000, 4)).tolist()
            lines.write_text("".join(f"{a} {b}:1 {100 + c}:1 {200 + d}:1\n" for a, b, c, d in rows))
            prepare_fields(out, [lines], 2, seed=0)
        elif kind == "pairs":
            prepare(out, None, per_positive=0)
        else:
            (prepare_ratings if kind == "ratings" else prepare_sequences)(out, None, Split(), seed=0)
    return out


def _write(home: Path, data: Path, task: Task, mode: str) -> Path:
    own = task.modes.get(mode, {})
    runner = {
        "train_data_dir": str(data / "train"), "test_data_dir": str(data / "test"), "train_batch_size": 512,
        "metrics": list(task.metrics), **task.runner, **own.get("runner", {}),
        **({} if mode == "central" else {"sync_mode": mode}),
    }  # fmt: skip
    optimizer = {"learning_rate": 0.001, **own.get("optimizer", {})}
    job = {"runner": runner, "hyper_parameters": {**task.hyper, "optimizer": optimizer}}
    job |= {"features": dict(task.features)} if task.features else {}
    job |= {"server_optimizer": dict(own["server_optimizer"])} if "server_optimizer" in own else {}
    path = home / "job.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


def _sheet(name: str, task: Task, found: Mapping[str, Mapping[str, float]]) -> Sheet:
    rows, first = [], task.metrics[0]
    for mode, values in found.items():
        gap = values[first] - found["central"][first]
        said = "" if mode == "central" else f"{gap:+.4f} (aim: at least -{task.aims[mode]})"
        rows.append((mode, *(f"{values[metric]:.4f}" for metric in task.metrics), said))
    return Sheet(name, ("", *task.metrics, f"{first} beside central"), tuple(rows))
