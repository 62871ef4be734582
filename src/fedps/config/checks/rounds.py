"""Checks of what a coordinator does: selection, the end of a job, simulated devices, distillation.

`unfit` and `shared_by_mistake` are asked while a job runs, of what a selector answers and of the network there is.
"""

import math
from collections.abc import Sequence

from fedps.config.classes import is_class_path
from fedps.config.files import clients_there
from fedps.config.job import Job
from fedps.config.sections.features import OPEN, classic
from fedps.errors import JobError
from fedps.figures import OF_TRAINING

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
    if batch_size is not None and batch_size % job.group:
        loss, fits = job.hyper_parameters.loss, -(-int(batch_size) // job.group) * job.group
        made = (
            "pairs of samples: make it even"
            if loss == "bpr"
            else f"groups of samples: make it a multiple of {job.group}"
        )
        return f"batch_size {batch_size}: with loss {loss} a batch is {made}, e.g. {fits}"
    if geo_step is not None and (mode := job.runner.sync_mode) != "geo":
        return f"geo_step {geo_step}: {mode} has no windows of so many batches: leave it out, or use sync_mode geo"
    return None


def clients(job: Job) -> list[str]:
    """Say that there are fewer clients than a round is to train."""
    workers = job.runner.worker_num or len(clients_there(job))
    wanted = job.runner.clients_per_round
    if not workers or wanted is None or wanted <= workers:
        return []
    return [f"runner.clients_per_round: {wanted}: there are only {workers} clients; use at most {workers}"]


def selector(job: Job) -> list[str]:
    """Say that there is no such selector."""
    name = job.runner.client_selector
    if name in SELECTORS or is_class_path(name):
        return []
    return [f"runner.client_selector: {name!r}: write {', '.join(SELECTORS)}, or module.Class for a class of your own"]


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


def tags(job: Job) -> list[str]:
    """Say which tags nobody carries, and which of those that carry one are no clients."""
    settings = job.selector
    there = [] if job.runner.split_file_list else clients_there(job)
    mistakes = [
        f"selector.{key}: {tag!r}: no client carries this tag; there are {', '.join(settings.tags) or 'none'} in selector.tags"
        for key in ("only", "never")
        for tag in getattr(settings, key)
        if tag not in settings.tags
    ]
    return mistakes + [
        f"selector.tags.{tag}: {client!r}: there is no such client; there are {', '.join(there[:10])}"
        f"{', …' if len(there) > 10 else ''}"
        for tag, named in settings.tags.items()
        for client in named
        if there and client not in there
    ]


def ending(job: Job) -> list[str]:
    """Say where a target or patience cannot end the job."""
    runner, target = job.runner, job.runner.target
    held_out = target.metric not in OF_TRAINING
    watched = [name for name in (*job.metrics, *OF_TRAINING) if not name.endswith("calibration")]  # best at 1
    chosen = target.metric != type(target)().metric or target.value is not None or runner.patience is not None
    mistakes = []
    if chosen and target.metric not in watched:
        mistakes.append(
            f"runner.target.metric: {target.metric!r}: must be one of {', '.join(watched)}; others are watched if they are in"
            " runner.metrics"
        )
    for key, value in (("target.value", target.value), ("patience", runner.patience)):
        if value is None:
            continue
        if not runner.with_coordinator:
            mistakes.append(
                f"runner.{key}: {value}: it is the coordinator that ends a job: set with_coordinator, or leave it out"
            )
        elif held_out and runner.test_data_dir is None:
            mistakes.append(f"runner.{key}: {value}: {target.metric} needs held-out samples: set test_data_dir")
        elif held_out and not runner.eval_every:
            mistakes.append(f"runner.{key}: {value}: {target.metric} is measured at the end only: set eval_every to 1")
    return mistakes


def traces(job: Job) -> list[str]:
    """Say what stands in the way of simulated devices, and which clients have none."""
    if job.traces is None:
        return []
    if not job.runner.with_coordinator:
        return [
            "simulation.traces: simulated devices report to a coordinator; set runner.with_coordinator: true, or leave"
            " simulation.traces out"
        ]
    if job.selector.over_selection > 1:
        return [
            f"selector.over_selection: {job.selector.over_selection:g}: who reports first is not who is first on simulated"
            " devices; leave it out, and give stragglers a selector.deadline"
        ]
    if job.runner.quorum < 1:
        return [
            f"runner.quorum: {job.runner.quorum:g}: who is late here is not who is late on simulated devices; leave it out,"
            " and give stragglers a selector.deadline"
        ]
    from fedps.simulation.traces import read_traces  # noqa: PLC0415  (few jobs have them, and it loads numpy)

    try:
        devices = read_traces(job.traces)
    except JobError as error:
        return [f"simulation.traces: {mistake}" for mistake in error.mistakes]
    there = clients_there(job)
    workers = job.runner.worker_num or len(there)
    if job.runner.split_file_list and workers < len(there):
        there = [str(number) for number in range(workers)]  # who the files are dealt to
    without = [client for client in there if client not in devices]
    if not without:
        return []
    named = f"{without[0]!r}" + (f" and {len(without) - 1} more" if len(without) > 1 else "")
    return [f"simulation.traces: {job.traces}: has no trace for client {named}; there must be one for each client"]


def same_table(job: Job) -> list[str]:
    """Say that nobody could compare what servers give the clients."""
    if not job.security.same_table:
        return []
    mistakes, subject = [], "security.same_table: true: "
    if not job.runner.with_coordinator:
        mistakes.append(
            f"{subject}it is the coordinator that compares: set runner.with_coordinator: true, or leave it out"
        )
    if not job.runner.versioned:
        mistakes.append(
            f"{subject}where each push is applied at once, no two clients are given the same: use sync_mode sync or round, or"
            " geo_merge heat, adaptive or buffered, or leave it out"
        )
    return mistakes


def public_data(job: Job) -> list[str]:
    """Say that the public file is not there."""
    path = job.public_data
    if path is None or path.is_file():
        return []
    return [f"distillation.public_data: {str(path)!r}: there is no such file; name one of lines user,item,label"]


def distillation(job: Job) -> list[str]:
    """Say what stands in the way of distillation."""
    path = job.public_data
    if path is None:
        return []
    subject, mistakes = f"distillation.public_data: {str(path)!r}: ", []
    if not job.runner.with_coordinator:
        mistakes.append(
            f"{subject}it is the coordinator that makes the teacher: set runner.with_coordinator: true, or leave it out"
        )
    if job.traces is not None:
        mistakes.append(
            f"{subject}simulated devices do not count what is trained and sent for it: leave it or simulation.traces out"
        )
    if job.features and (more := [n for n, f in job.features.items() if n not in classic(1, 1) or f.rows == OPEN]):
        mistakes.append(
            f"{subject}clients distill pairs of counted users and items alone; leave it or {', '.join(more)} out"
        )
    if (loss := job.hyper_parameters.loss) != "bce":
        how = "pairs" if loss == "bpr" else "items" if "softmax" in loss else "numbers"
        mistakes.append(
            f"hyper_parameters.loss: {loss}: compares {how}, and knows no soft targets; use bce with distillation.public_data"
        )
    return mistakes


def shared_by_mistake(job: Job, embeddings: Sequence[str], dense: Sequence[str]) -> list[str]:
    """Say which parameters would go to the servers, though clients that distill share none.

    Args:
        job: the job.
        embeddings: names of all embeddings that are not private.
        dense: names of all other parameters that are not.
    """
    if job.public_data is None:
        return []
    return [
        f"runner.{key}: {', '.join(names)}: would be shared, but clients that distill share no weights; list"
        f" {'it' if len(names) == 1 else 'them'} in {key}, or leave distillation.public_data out"
        for key, names in (("local_sparse", embeddings), ("local_dense", dense))
        if names
    ]
