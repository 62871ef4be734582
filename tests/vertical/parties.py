"""Vertical jobs of made-up parties, for tests: who has what, and their samples in the agreed order."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedps.config.sections.features import labels, spaces
from fedps.config.vertical import VerticalJob, side_job
from fedps.data.samples import ClientData
from fedps.models.inputs import made_up
from fedps.types import ClientId, Samples

ITEM: dict[str, Any] = {  # the active party's
    "item": {"kind": "id", "rows": 40},
    "genres": {"kind": "ids", "rows": 6, "pooling": "mean"},
    "label": {"kind": "label"},
}
USER: dict[str, Any] = {"user": {"kind": "id", "rows": 30}, "age": {"kind": "number"}}
HYPER: dict[str, Any] = {"embedding_dim": 4, "hidden_units": [8, 6], "optimizer": {"learning_rate": 0.01}}


def vertical_job(
    folder: Path, parties: Mapping[str, Mapping[str, Any]] | None = None, hyper: Mapping[str, Any] | None = None,
    classes: Mapping[str, Mapping[str, str]] | None = None, **vertical: object,
) -> VerticalJob:  # fmt: skip
    """Return a job of parties by their features, the active one first; `classes` has their `bottom` and `top`."""
    parties = {"shop": ITEM, "bank": USER} if parties is None else parties
    active, *passive = parties
    data = {"data": str(folder / "data.csv")}
    return VerticalJob.model_validate(
        {
            "name": "job", "folder": str(folder),
            "vertical": {"active": active, "passive": passive, "train_batch_size": 32, **vertical},
            "hyper_parameters": {**HYPER, **(hyper or {})},
            "parties": {
                name: {**data, "features": features, **(classes or {}).get(name, {})}
                for name, features in parties.items()
            },
        }
    )  # fmt: skip


def data_of(job: VerticalJob, party: str, samples: int = 100, test: int = 50, seed: int = 0) -> ClientData:
    """Make up a party's samples; what is to be learned follows from the number of the sample, alike for all parties."""
    inputs, rng = side_job(job, party).inputs, np.random.default_rng((seed, len(party)))
    columns = {name: made_up(inputs, name, samples + test, rng) for name, f in inputs.items() if f.kind != "label"}
    label = np.random.default_rng(seed).integers(0, 2, samples + test).astype(np.float32)
    every = Samples(columns, label if labels(job.parties[party].features) else np.zeros_like(label))
    train, held = every.at(slice(0, samples)), every.at(slice(samples, None))
    return ClientData(train, held, ClientId(party), job.vertical.seed, shuffle=False, spaces=spaces(inputs))


def batches(samples: int, size: int, epochs: int = 1) -> Sequence[NDArray[np.int32]]:
    """Return the batches of some epochs, each in an order of its own."""
    orders = [np.random.default_rng(epoch).permutation(samples).astype(np.int32) for epoch in range(epochs)]
    return [order[at : at + size] for order in orders for at in range(0, samples, size)]
