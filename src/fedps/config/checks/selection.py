"""What does not fit together among the keys of selection, which `checks` asks, and in what a round is to be trained with."""

import math
from collections.abc import Sequence

from fedps.config.job import Job

MAX_SHARE = 100.0  # of the job's learning rate, that a round or a push may take
SELECTORS = ("all", "random", "round_robin", "by_samples", "power_of_choice", "oort", "fedcs")  # built in


def unfit(
    job: Job, learning_rate: float | None = None, batch_size: int | None = None, geo_step: int | None = None,
    iterations: int = 0,
) -> str | None:  # fmt: skip
    """Say why a job cannot train a round with settings of its own; None if it can.

    The coordinator asks it of a selector's answer, a client of what it is assigned.

    Args:
        job: the job.
        learning_rate: in place of the job's, which None takes; so with the others.
        batch_size: samples of a batch.
        geo_step: batches of a window.
        iterations: batches in all; 0: a pass.
    """
    for name, value, kind in (
        ("learning_rate", learning_rate, "number"),
        ("batch_size", batch_size, "whole number"),
        ("geo_step", geo_step, "whole number"),
    ):
        if value is not None and not 0 < value < math.inf:
            return f"{name} {value}: must be a positive {kind}"
    if iterations < 0:
        return f"iterations {iterations}: must be 0, for a pass, or more"
    rate = job.hyper_parameters.optimizer.learning_rate
    if learning_rate is not None and learning_rate > MAX_SHARE * rate:
        return f"learning_rate {learning_rate:g}: is more than {MAX_SHARE:g} times the job's, {rate:g}: raise that one"
    if batch_size is not None and batch_size % 2 and job.hyper_parameters.loss == "bpr":
        return (
            f"batch_size {batch_size}: with loss bpr a batch is pairs of samples: make it even, e.g. {batch_size + 1}"
        )
    if geo_step is not None and (mode := job.runner.sync_mode) != "geo":
        return f"geo_step {geo_step}: {mode} has no windows of so many batches: leave it out, or use sync_mode geo"
    return None


def deadline(job: Job) -> list[str]:
    """Say what fedcs lacks."""
    if job.runner.client_selector != "fedcs" or job.selector.deadline is not None:
        return []
    return [
        "selector.deadline: None: client_selector fedcs fits clients into it: say how many seconds a round may take"
    ]


def candidates(job: Job) -> list[str]:
    """Say where there are fewer to choose among than to choose."""
    wanted, drawn = job.runner.clients_per_round, job.selector.candidates
    if job.runner.client_selector != "power_of_choice" or wanted is None or drawn is None or drawn >= wanted:
        return []
    return [f"selector.candidates: {drawn}: are fewer than the clients_per_round, {wanted}; use at least {wanted}"]


def tags(job: Job, clients: Sequence[str]) -> list[str]:
    """Say which tags nobody carries, and which of those that carry one are no clients.

    Args:
        job: the job.
        clients: all there are; none if that is not known.
    """
    settings = job.selector
    found = [
        f"selector.{key}: {tag!r}: no client carries this tag; there are {', '.join(settings.tags) or 'none'} in selector.tags"
        for key in ("only", "never")
        for tag in getattr(settings, key)
        if tag not in settings.tags
    ]
    return found + [
        f"selector.tags.{tag}: {client!r}: there is no such client; there are {', '.join(clients[:10])}"
        f"{', …' if len(clients) > 10 else ''}"
        for tag, named in settings.tags.items()
        for client in named
        if clients and client not in clients
    ]


def ending(job: Job) -> list[str]:
    """Say where a target or patience cannot end the job."""
    runner, target = job.runner, job.runner.target
    held_out = target.metric in ("hr@10", "ndcg@10", "auc")
    found = []
    for key, value in (("target.value", target.value), ("patience", runner.patience)):
        if value is None:
            continue
        if not runner.with_coordinator:
            found.append(
                f"runner.{key}: {value}: it is the coordinator that ends a job: set with_coordinator, or leave it out"
            )
        elif held_out and runner.test_data_dir is None:
            found.append(f"runner.{key}: {value}: {target.metric} needs held-out samples: set test_data_dir")
        elif held_out and not runner.eval_every:
            found.append(f"runner.{key}: {value}: {target.metric} is measured at the end only: set eval_every to 1")
    return found
