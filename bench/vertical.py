"""A vertical network in one process: what each party's part costs, beside the same network whole, on one core."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from bench.clock import Work, in_turn, rate
from bench.ctr import FORMS, loop
from bench.records import Figure, Options, Result
from fedps.config import Job
from fedps.config.sections.features import spaces
from fedps.config.vertical import VerticalJob, side_job
from fedps.data.samples import ClientData
from fedps.training.learner import Learner
from fedps.training.plan import make_plan
from fedps.types import ClientId, Samples

SAMPLES = {"full": 400_000, "quick": 100_000, "tiny": 2_000}
ROUNDS = {"full": 5, "quick": 3, "tiny": 1}
BATCH = 4096
PARTIES: dict[str, Any] = {  # MovieLens-1M's, as `fedps data prepare movielens --task vertical` has it
    "items": {
        "item": {"kind": "id", "rows": 3706},
        "genres": {"kind": "ids", "rows": 18, "pooling": "mean", "max": 4},
        "label": {"kind": "label"},
    },
    "users": {
        name: {"kind": "id", "rows": rows}
        for name, rows in {"user": 6040, "gender": 2, "age": 7, "occupation": 21, "zip": 3439}.items()
    },
}
HYPER = {"mode": "DeepFM", "embedding_dim": 16, "hidden_units": [64, 64], "optimizer": {"learning_rate": 0.001}}
ABOUT = (
    "SYNTHETIC samples of MovieLens-1M's features, drawn evenly: users' five ids with one party, film, genres and label with the"
    f" other. DeepFM, rows of 16 floats, layers of 64 and 64, batch {BATCH}, Adam; one process on one core, nothing on a wire."
    " The whole network has all features in one place. Contenders take turns; best round, and median."
)


def measure(options: Options) -> Result:
    """Train the parts in turn, and the whole network by a compiled step and by PyTorch."""
    from fedps.training.draws import one_core  # noqa: PLC0415  (imports torch)

    one_core()
    samples = SAMPLES[options.size] // BATCH * BATCH or BATCH
    with tempfile.TemporaryDirectory(prefix="fedps-bench-") as folder:
        job, whole = _jobs(Path(folder))
        data = {party: _data(side_job(job, party), samples) for party in job.order}
        order, spent = np.random.default_rng(0).permutation(samples).astype(np.int32), dict[str, float]()
        every = _joined(whole, data)
        learner = Learner(make_plan(whole), whole, every, local_optimizer=True)
        contenders: dict[str, Work] = {"parts": _parts(job, data, order, spent)}
        contenders["whole"] = partial(learner.train, order, BATCH)
        contenders["torch"] = loop("fused", whole, every, order)
        taken = in_turn(contenders, ROUNDS[options.size])
    said = {"parts": "both parties' parts and the top", "whole": "the whole network", "torch": FORMS["fused"]}
    figures = [
        rate(name, said[name], "samples/s", samples, seconds, "" if name == "parts" else "parts")
        for name, seconds in taken.items()
    ]
    passes = (1 + ROUNDS[options.size]) * samples
    figures += [
        Figure(f"cost.{part}", f"{part}: of a sample, mean of the core's time", 1e9 * seconds / passes, "ns")
        for part, seconds in spent.items()
    ]
    return Result("vertical", ABOUT, tuple(figures))


def _jobs(folder: Path) -> tuple[VerticalJob, Job]:
    """Return the job of both parties, and that of the whole network."""
    parties = {name: {"data": str(folder / f"{name}.csv"), "features": features} for name, features in PARTIES.items()}
    tree = {
        "name": "bench", "folder": str(folder), "hyper_parameters": HYPER, "parties": parties,
        "vertical": {"active": "items", "passive": "users", "network": "DeepFM", "train_batch_size": BATCH},
    }  # fmt: skip
    job = VerticalJob.model_validate(tree)
    both = {name: feature for party in job.order for name, feature in job.parties[party].features.items()}
    return job, side_job(job, "items").model_copy(update={"features": both})


def _data(job: Job, samples: int) -> ClientData:
    """Draw a party's samples."""
    from fedps.models.inputs import made_up  # noqa: PLC0415

    rng = np.random.default_rng(len(job.inputs))
    columns = {n: made_up(job.inputs, n, samples, rng) for n, f in job.inputs.items() if f.kind != "label"}
    columns |= {n: rng.permutation(c) for n, c in columns.items() if isinstance(c, np.ndarray)}
    drawn = Samples(columns, rng.integers(0, 2, samples).astype(np.float32))
    return ClientData(drawn, None, ClientId("bench"), 0, shuffle=False, spaces=spaces(job.inputs))


def _joined(job: Job, data: dict[str, ClientData]) -> ClientData:
    """Return all parties' features of the samples in one place."""
    columns = {name: column for one in data.values() for name, column in one.train.columns.items()}
    drawn = Samples(columns, data["items"].train.label)
    return ClientData(drawn, None, ClientId("bench"), 0, shuffle=False, spaces=spaces(job.inputs))


def _parts(job: VerticalJob, data: dict[str, ClientData], order: Any, spent: dict[str, float]) -> Callable[[], None]:
    """Return what trains both parties' parts on some samples, and notes the seconds of the core that each thing took."""
    from fedps.vertical.half import Half, Top  # noqa: PLC0415

    @contextmanager
    def noted(part: str) -> Iterator[None]:
        began = process_time()
        yield
        spent[part] = spent.get(part, 0.0) + process_time() - began

    halves = {party: Half(job, party, data[party]) for party in job.order}
    top, label = Top(job, {party: half.width for party, half in halves.items()}, len(order)), data["items"].train.label

    def train() -> None:
        for at in range(0, len(order), BATCH):
            samples, cuts = order[at : at + BATCH], []
            for party, half in halves.items():
                with noted(f"{party}, forward"):
                    cuts.append(half.forward(samples))
            with noted("top"):
                stepped = top.step(cuts, label[samples])
            for (party, half), gradient in zip(halves.items(), stepped.gradients, strict=True):
                with noted(f"{party}, backward"):
                    half.backward(gradient)

    return train
