"""Checks of what is trained: the network, where its parameters live, and what its optimizers can do in a mode."""

import os
from itertools import combinations

from fedps.config.classes import is_class_path
from fedps.config.job import Job
from fedps.config.mistakes import nearest, shown
from fedps.config.sections.runner import MERGED
from fedps.config.sections.training import TOWERS, USED_BY

FEWER_IDS = "number ids from 0 when the data is prepared, or hash them to fewer, e.g. id % 1000000"


def class_path(job: Job) -> list[str]:
    """Say that the network cannot be a class."""
    path = job.runner.model
    if path is None or is_class_path(path):
        return []
    return [f"runner.model: {path!r}: write module.Class, e.g. net.MyNet for class MyNet of net.py"]


def places(job: Job) -> list[str]:
    """Say which parameters are to live in two places."""
    return [
        f"runner.{one}: {name!r}: is in {other} too; keep it in one of them"
        for one, other in combinations(("local_sparse", "remote_sparse", "local_dense"), 2)
        for name in sorted(set(getattr(job.runner, one) or ()) & set(getattr(job.runner, other)))
    ]


def layers(job: Job) -> list[str]:
    """Say that the MLP's input cannot be halved between user and item."""
    hyper = job.hyper_parameters
    if job.runner.model is not None or hyper.mode not in USED_BY["fc_layers"] or hyper.fc_layers[0] % 2 == 0:
        return []
    return [
        f"hyper_parameters.fc_layers: {shown(list(hyper.fc_layers))}: the first size is user row + item row, equally"
        f" long: make it even, e.g. {hyper.fc_layers[0] + 1}"
    ]


def rows(job: Job) -> list[str]:
    """Say which tables have more rows than this machine has memory for: hashed ids of 64 bits are no rows."""
    hyper, memory = job.hyper_parameters, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if job.runner.model is not None:  # it may have another use for these numbers
        return []
    if hyper.mode in USED_BY["embedding_dim"]:
        width = hyper.embedding_dim
        counts = {f"features.{name}.rows": feature.rows for name, feature in job.features.items()}
    else:
        width = hyper.fc_layers[0] // 2 if hyper.mode == "NCF_MLP" else hyper.mf_dim
        counts = {}
    sizes = {f"hyper_parameters.{key}": getattr(hyper, key) for key in ("num_users", "num_items")}
    return [
        f"{key}: {count}: each id has a row, and {count} rows of {width} floats take"
        f" {4 * width * count / 2**30:,.0f} GiB of this machine's {memory / 2**30:,.0f}: {FEWER_IDS}"
        for key, count in (counts or sizes).items()
        if isinstance(count, int) and 4 * width * count > memory
    ]


def unknown(job: Job) -> list[str]:
    """Say which keys no built-in network has."""
    if job.runner.model is not None:
        return []
    extra = job.hyper_parameters.model_extra or {}
    return [
        f"hyper_parameters.{key}: {shown(extra[key])}: the built-in networks have no such key;"
        f" {nearest(f'hyper_parameters.{key}')}"
        for key in sorted(extra)
    ]


def groups(job: Job) -> list[str]:
    """Say that a batch cannot be made of whole groups of samples."""
    size, group, loss = job.runner.train_batch_size, job.group, job.hyper_parameters.loss
    if size % group == 0:
        return []
    made = (
        "pairs of samples: make it even"
        if loss == "bpr"
        else f"a positive and its negatives: make it a multiple of {group}"
    )
    return [f"runner.train_batch_size: {size}: with loss {loss} a batch is {made}, e.g. {-(-size // group) * group}"]


def softmax(job: Job) -> list[str]:
    """Say that a softmax over items has no items, or gets them twice."""
    loss, negatives, mode = job.hyper_parameters.loss, job.runner.negatives, job.hyper_parameters.mode
    mistakes = []
    if loss == "sampled_softmax" and not negatives:
        mistakes.append(
            "runner.negatives: is missing: loss sampled_softmax tells a positive from so many drawn items; e.g. 100"
        )
    if loss == "in_batch_softmax" and negatives:
        mistakes.append(
            f"runner.negatives: {negatives}: loss in_batch_softmax takes the other items of a batch for negatives: leave it out,"
            " or use sampled_softmax"
        )
    if loss == "in_batch_softmax" and job.runner.model is None and mode not in TOWERS:
        mistakes.append(
            f"hyper_parameters.loss: in_batch_softmax: mode {mode} scores a pair as a whole: use {' or '.join(TOWERS)}, or a"
            " network of your own that returns rows of users and of items"
        )
    return mistakes


def heads(job: Job) -> list[str]:
    """Say that heads of attention cannot share an embedding."""
    hyper = job.hyper_parameters
    if job.runner.model is not None or hyper.mode != "SASRec" or hyper.embedding_dim % hyper.num_heads == 0:
        return []
    return [f"hyper_parameters.num_heads: {hyper.num_heads}: must divide embedding_dim, which is {hyper.embedding_dim}"]


def proximal(job: Job) -> list[str]:
    """Say that there is no client whose steps a proximal term could hold back."""
    mu, mode = job.hyper_parameters.optimizer.proximal, job.runner.sync_mode
    if mode not in ("sync", "async") or not mu:
        return []
    return [
        f"hyper_parameters.optimizer.proximal: {mu}: in {mode} the servers optimize, which know no windows; leave"
        " the key out, or use sync_mode geo or round"
    ]


def server_optimizer(job: Job) -> list[str]:
    """Say that there is no merged change that servers could optimize by."""
    name, mode, merge = job.server_optimizer.name, job.runner.sync_mode, job.runner.geo_merge
    if name == "none" or mode == "round" or (mode == "geo" and merge in MERGED):
        return []
    if mode == "geo":
        return [
            f"server_optimizer.class: {name}: geo_merge {merge} applies each push as it comes, and merges nothing that an"
            f" optimizer could take; leave the class out, or use geo_merge {', '.join(MERGED[:-1])} or {MERGED[-1]}"
        ]
    return [
        f"server_optimizer.class: {name}: in {mode} the servers optimize by hyper_parameters.optimizer; leave the class"
        " out, or use sync_mode geo or round"
    ]


def momentum(job: Job) -> list[str]:
    """Say where adam's momentum would grow for ever in rows that get no gradient."""
    job_wide = job.hyper_parameters.optimizer
    mistakes = _endless("hyper_parameters.optimizer", job_wide.name, job_wide.beta1, job_wide.beta2)
    for name, table in job.table_parameters.items():
        own = table.optimizer
        if own.name or own.beta1 is not None or own.beta2 is not None:
            beta1 = job_wide.beta1 if own.beta1 is None else own.beta1
            beta2 = job_wide.beta2 if own.beta2 is None else own.beta2
            mistakes += _endless(f"table_parameters.{name}.optimizer", own.name or job_wide.name, beta1, beta2)
    return mistakes


def _endless(key: str, name: str, beta1: float, beta2: float) -> list[str]:
    limit = beta2**0.5
    if name != "adam" or beta1 < limit:
        return []
    return [
        f"{key}.beta1: {beta1}: must be below {limit:.4g}, the root of beta2 {beta2}, where adam's momentum dies away;"
        " lower beta1, raise beta2, or use class lazy_adam"
    ]
