"""Evaluate given weights on all held-out samples of a job, without any server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from fedps.client.evaluate import CANDIDATES
from fedps.config import Job
from fedps.data.reader import Samples, client_files, read_samples
from fedps.errors import DataError, JobError
from fedps.models.build import build
from fedps.models.metrics import Histogram, rank_metrics


def infer(job: Job, weights: Path) -> dict[str, Any]:
    """Return users, auc, hr@10 and ndcg@10 of a model with these weights.

    Args:
        job: names the network and the held-out samples.
        weights: safetensors with the network's own parameter names.

    Raises:
        JobError: the job has no held-out samples, or names or shapes do not fit the network.
        DataError: the file cannot be read.
    """
    folder, hyper = job.runner.test_data_dir, job.hyper_parameters
    if folder is None:
        raise JobError("runner.test_data_dir: is missing; name the folder of held-out samples to evaluate on")
    model = build(job)
    load_weights(model, weights)
    histogram, users, hits, ndcg = Histogram(), 0, 0.0, 0.0
    for path in client_files(folder).values():
        samples = read_samples(path, hyper.num_users, hyper.num_items)
        if len(samples.label) % CANDIDATES:
            raise DataError(f"{path}: {len(samples.label)} lines are not groups of {CANDIDATES}")
        scores = _scores(model, samples, job.runner.infer_batch_size)
        histogram.add(scores, samples.label)
        sums = rank_metrics(scores.reshape(-1, CANDIDATES), samples.item.reshape(-1, CANDIDATES))
        users, hits, ndcg = users + sums.users, hits + sums.hits, ndcg + sums.ndcg
    return {"users": users, "auc": histogram.auc(), "hr@10": hits / users, "ndcg@10": ndcg / users}


def load_weights(model: nn.Module, path: Path) -> None:
    """Put a file's tensors into a model.

    Raises:
        DataError: the file cannot be read.
        JobError: a name or shape does not fit; all such are told.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"--weights {path}: cannot be read as safetensors: {error}") from error
    mistakes = list(_misfits(dict(model.named_parameters()), tensors, path))
    if mistakes:
        raise JobError(mistakes)
    model.load_state_dict(tensors, strict=False)


def _misfits(due: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], path: Path) -> list[str]:
    mistakes = [f"--weights {path}: {n!r} is missing; the network needs {', '.join(due)}" for n in due if n not in found]
    mistakes += [f"--weights {path}: {n!r} is no parameter of the network; it has {', '.join(due)}" for n in found if n not in due]
    for name in due.keys() & found.keys():
        if due[name].shape != found[name].shape:
            mistakes.append(f"--weights {path}: {name!r} has shape {tuple(found[name].shape)}, the network {tuple(due[name].shape)}")
    return sorted(mistakes)


@torch.no_grad()
def _scores(model: nn.Module, samples: Samples, batch: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    pieces = []
    for start in range(0, len(samples.label), batch):
        user, item = (torch.from_numpy(c[start : start + batch]) for c in (samples.user, samples.item))
        pieces.append(torch.sigmoid(model(user, item)).numpy())
    return np.concatenate(pieces)
