"""Knowledge distillation between clients: its keys, and what does not fit together among them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field

from fedps.config.kinds import Count, Positive, Section, word

if TYPE_CHECKING:
    from fedps.config.job import Job

LARGEST = 1 << 17  # samples: as many rows as an array of a message may have


class Distillation(Section):
    """Clients that share no weights learn from each other's predictions of public users and items."""

    public_data: Path | None = Field(
        None, description="file of lines user,item,label that all clients may know; left out: no distillation"
    )
    samples: Annotated[Count, Field(le=LARGEST)] = Field(
        100_000, description="pairs of a public user and a public item to score a round, 4 bytes each up and 4 down"
    )
    passes: Count = Field(
        3, description="times a round that clients train on public samples and taught pairs, before their own data"
    )
    teacher: Annotated[Literal["mean", "weighted", "stacked"], BeforeValidator(word)] = Field(
        "mean", description="mean of the clients' logits, weighted by their samples, or stacked to fit public labels"
    )
    temperature: Positive = Field(1.0, description="the teacher's logits are divided by it; over 1 softens them")


def misfits(job: "Job") -> list[str]:
    """Say what stands in the way of distillation."""
    path = job.public_data
    if path is None:
        return []
    told, found = f"distillation.public_data: {str(path)!r}: ", []
    if not job.runner.with_coordinator:
        found.append(
            f"{told}it is the coordinator that makes the teacher: set runner.with_coordinator: true, or leave it out"
        )
    if job.traces is not None:
        found.append(
            f"{told}simulated devices do not count what is trained and sent for it: leave it or simulation.traces out"
        )
    if job.hyper_parameters.loss == "bpr":
        found.append(
            "hyper_parameters.loss: bpr: compares pairs, and knows no soft targets; use bce with distillation.public_data"
        )
    return found


def missing(job: "Job") -> list[str]:
    """Say that the public file is not there."""
    path = job.public_data
    if path is None or path.is_file():
        return []
    return [f"distillation.public_data: {str(path)!r}: there is no such file; name one of lines user,item,label"]


def shared(job: "Job", embeddings: Sequence[str], dense: Sequence[str]) -> list[str]:
    """Say which parameters would still go to the servers; `embeddings` and `dense` are the names of all that would."""
    if job.public_data is None:
        return []
    return [
        f"runner.{key}: {', '.join(names)}: would be shared, but clients that distill share no weights; list"
        f" {'it' if len(names) == 1 else 'them'} in {key}, or leave distillation.public_data out"
        for key, names in (("local_sparse", embeddings), ("local_dense", dense))
        if names
    ]


def idle(job: "Job") -> list[str]:
    """Return a note for each key that has no effect, for want of public samples."""
    if job.public_data is not None:
        return []
    known = Distillation.model_fields
    return [
        f"distillation.{key}: {value}: has no effect without distillation.public_data"
        for key in known
        if (value := getattr(job.distillation, key)) != known[key].default
    ]
