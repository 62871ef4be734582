"""Click models on made-up clicks in Criteo's form: a step beside plain PyTorch loops on one core, and four workers beside one."""

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bench.clock import Work, in_turn, rate
from bench.jobs import execute
from bench.loops import optimizers
from bench.records import Figure, Options, Result
from fedps.config import Job, load_job
from fedps.data.prepare.clicks import synthesize_clicks
from fedps.data.read.client import read_client
from fedps.data.samples import ClientData
from fedps.training.learner import Learner
from fedps.training.plan import make_plan
from fedps.types import ClientId, Column, ids_of

FORMS = {
    "fused": "PyTorch loop, Adam(fused=True)",
    "sparse": "PyTorch loop, sparse=True and SparseAdam",
    "compiled": "PyTorch loop, torch.compile and Adam(fused=True)",
}
NETWORKS: dict[str, dict[str, Any]] = {
    "DeepFM": {"hidden_units": [400, 400, 400]},
    "DCNv2": {"hidden_units": [400, 400, 400], "num_cross_layers": 3},
}
SAMPLES = {"full": 1_000_000, "quick": 200_000, "tiny": 4_000}  # of all four clients
VALUES = {"full": 10_000_000, "quick": 10_000_000, "tiny": 2_000}
BATCHES = {"full": 40, "quick": 20, "tiny": 2}  # of a round
ROUNDS = {"full": 5, "quick": 3, "tiny": 1}
BATCH, CLIENTS = 1024, 4
ABOUT = (
    "SYNTHETIC clicks in Criteo's form: 13 numbers, 26 ids by Zipf's law over 10 M values in open id spaces; rows of 16 floats,"
    " three layers of 400, batch 1024. The step: one client's samples on one core; fedps trains with lazy Adam, which is what"
    " SparseAdam does, and the loops train the same batches, laid out in memory, their tables no larger than this client's."
    " Contenders take turns; best round, and median. Workers: `fedps run`, geo, windows of 10 batches, two cores."
)


def measure(options: Options) -> Result:
    """Train both networks by all contenders, then a pass with one worker and with four."""
    import torch  # noqa: PLC0415  (only where it is measured)

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    size, figures, notes = options.size, list[Figure](), list[str]()
    with tempfile.TemporaryDirectory(prefix="fedps-bench-") as folder:
        home = Path(folder)
        synthesize_clicks(home / "data", SAMPLES[size], CLIENTS, VALUES[size], seed=0)
        for network in list(NETWORKS)[: 1 if size == "tiny" else None]:
            print(f"{network}: planning", flush=True)
            job = load_job(_write(home, network))
            plan = make_plan(job)
            if plan.reason:
                notes.append(f"{network}: fedps trains by torch here: {plan.reason}")
            print(f"{network}: training", flush=True)
            data = read_client(job, ClientId("0"))
            learner = Learner(plan, job, data, local_optimizer=True)
            order = data.order(0)[: BATCHES[size] * BATCH]
            contenders: dict[str, Work] = {"fedps": partial(learner.train, order, BATCH)}
            counted = _counted(home, network, data)
            forms = list(FORMS)[: 2 if size == "tiny" else None]  # torch compiles for a minute
            contenders |= {form: loop(form, counted, data, order) for form in forms}
            taken = in_turn(contenders, ROUNDS[size])
            ours = f"{network}.fedps"
            figures.append(rate(ours, f"{network}: fedps", "samples/s", len(order), taken.pop("fedps")))
            figures += [
                rate(f"{network}.{form}", f"{network}: {FORMS[form]}", "samples/s", len(order), seconds, ours)
                for form, seconds in taken.items()
            ]
        figures += _workers(home)
    return Result("ctr", ABOUT, tuple(figures), notes=tuple(notes))


def _workers(home: Path) -> list[Figure]:
    """Train a pass of DeepFM with all files in one worker's hands, and with a worker for each."""
    found = []
    for count in (1, CLIENTS):
        print(f"{count} workers", flush=True)
        job = _write(home, "DeepFM", worker_num=count, split_file_list=True, geo_step=10, epochs=1)
        summary = execute(job, home / f"run-{count}").summary
        what = f"DeepFM: fedps run, {count} worker{'s' * (count > 1)}"
        found.append(Figure(f"workers.{count}", what, summary["samples_per_second"], "samples/s"))
    return found


def _write(home: Path, network: str, features: Mapping[str, Any] | None = None, **runner: object) -> Path:
    """Write a job of made-up clicks."""
    tree = {
        "runner": {"train_data_dir": "data/train", "sync_mode": "geo", "train_batch_size": BATCH, **runner},
        "hyper_parameters": {
            "mode": network, "embedding_dim": 16, "optimizer": {"class": "lazy_adam", "learning_rate": 0.001}, **NETWORKS[network],
        },
    }  # fmt: skip
    path = home / f"{network}{'-counted' if features else ''}.yaml"
    path.write_text(yaml.safe_dump(tree | ({"features": dict(features)} if features else {}), sort_keys=False))
    return path


def _counted(home: Path, network: str, data: ClientData) -> Job:
    """Return the job with tables of exactly the rows that a client has, numbered from 0, as a plain loop would."""
    job = load_job(home / f"{network}.yaml")
    features = {name: feature.model_dump(exclude_unset=True) for name, feature in job.inputs.items()}
    for space, keys in data.keys.items():
        features[space]["rows"] = len(keys)
    return load_job(_write(home, network, features))


def loop(form: str, job: Job, data: ClientData, order: Any) -> Callable[[], None]:
    """Return what trains some samples batch by batch, whenever it is called."""
    import torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    from fedps.models.build import build  # noqa: PLC0415
    from fedps.models.inputs import inputs_of, tensors  # noqa: PLC0415

    model: Any = build(job)
    columns: dict[str, Column] = {
        name: (ids_of(data.slots[name]) if name in data.slots else np.asarray(data.train.columns[name]))[order]
        for name in inputs_of(model)
    }
    inputs, label = tensors(model, columns), torch.from_numpy(data.train.label[order])
    every = optimizers("sparse" if form == "sparse" else "fused", model, 0.001)
    step = torch.compile(model) if form == "compiled" else model

    def train() -> None:
        for at in range(0, len(order), BATCH):
            batch = slice(at, at + BATCH)
            for optimizer in every:
                optimizer.zero_grad(set_to_none=True)
            logits = step(*(column[batch] for column in inputs))
            nn.functional.binary_cross_entropy_with_logits(logits, label[batch]).backward()  # type: ignore[no-untyped-call]
            for optimizer in every:
                optimizer.step()

    return train
