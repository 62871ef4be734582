"""Score a whole model, from a file of weights, on the held-out samples of all clients.

What a run's clients do apart (`evaluate`), done in one place: the same candidates, the same measures.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from fedps.client.evaluate import CANDIDATES, Evaluation
from fedps.config import Job
from fedps.data.reader import Samples, client_files, read_samples
from fedps.errors import DataError, JobError
from fedps.models.build import build
from fedps.models.metrics import Histogram, rank_metrics


def infer(job: Job, weights: Path) -> dict[str, object]:
    """Score the job's network with given weights on all prepared test files.

    Args:
        job: names the network and the test folder.
        weights: a safetensors file with the network's own parameter names, as `fedps export` writes it.

    Returns:
        `weights`, `users`, `samples`, `auc`, `hr@10`, `ndcg@10`.

    Raises:
        JobError: no test folder, no such file, or a parameter that is missing, unknown or of another shape.
        DataError: the weights or a test file cannot be read, or is not one positive and 99 negatives a user.
    """
    test = read_held_out(job)
    model = build(job)
    load_weights(model, weights)
    found = evaluate_model(model, test, job.runner.infer_batch_size)
    return {
        "weights": str(weights),
        "users": found.users,
        "samples": len(test.label),
        "auc": found.histogram.auc(),
        "hr@10": found.hits / found.users,
        "ndcg@10": found.ndcg / found.users,
    }


def read_held_out(job: Job) -> Samples:
    """Read the held-out samples of all clients, end to end.

    Raises:
        JobError: the job names no test folder.
        DataError: a file cannot be read or has another form, or there is none.
    """
    folder, hyper = job.runner.test_data_dir, job.hyper_parameters
    if folder is None:
        raise JobError("runner.test_data_dir: is missing; name the folder of held-out samples, e.g. DIR/test")
    parts = []
    for path in client_files(folder).values():
        parts.append(read_samples(path, hyper.num_users, hyper.num_items))
        check_candidates(parts[-1], path)
    if not parts:
        raise DataError(f"{folder}: holds no <client>.csv; prepare data with `fedps data prepare movielens --out DIR`")
    return Samples(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def check_candidates(test: Samples, path: Path) -> None:
    """Make sure that samples are groups of one user: the positive first, then 99 negatives.

    Raises:
        DataError: they are not; names the file and the first bad group's lines.
    """
    lines = len(test.label)
    form = f"a test file has per user the positive first, then its {CANDIDATES - 1} negatives"
    if lines % CANDIDATES:
        raise DataError(f"{path}: {lines} lines are not groups of {CANDIDATES}; {form}")
    user, label = test.user.reshape(-1, CANDIDATES), test.label.reshape(-1, CANDIDATES)
    bad = (user != user[:, :1]).any(axis=1) | (label[:, 0] != 1) | label[:, 1:].any(axis=1)
    if bad.any():
        start = int(np.argmax(bad)) * CANDIDATES
        raise DataError(f"{path}: samples {start + 1} to {start + CANDIDATES} are no such group; {form}")


def load_weights(model: nn.Module, path: Path) -> None:
    """Put a file's tensors into a model's parameters.

    Raises:
        JobError: no such file, or names or shapes that do not fit (all at once).
        DataError: not a safetensors file, or torn.
    """
    if not path.is_file():
        raise JobError(f"--weights {path}: there is no such file; `fedps export RUN_DIR --out DIR` writes one")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: is no safetensors file, or torn: {error}") from error
    wanted = dict(model.named_parameters())
    mistakes = _misfits(wanted, tensors, path)
    if mistakes:
        raise JobError(mistakes)
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(tensors[name])


def _misfits(wanted: Mapping[str, torch.Tensor], there: Mapping[str, torch.Tensor], path: Path) -> list[str]:
    found = []
    for name, parameter in wanted.items():
        if name not in there:
            found.append(
                f"{path}: lacks {name}; it holds {', '.join(sorted(there)) or 'nothing'}"
                " (what is private to clients is exported only on request)"
            )
        elif there[name].shape != parameter.shape:
            found.append(
                f"{path}: {name} has shape {tuple(there[name].shape)}; the job's network has {tuple(parameter.shape)}"
            )
    return found + [f"{path}: {name} is no parameter of the job's network" for name in sorted(set(there) - set(wanted))]


@torch.inference_mode()
def evaluate_model(model: nn.Module, test: Samples, batch_size: int) -> Evaluation:
    """Score held-out samples with a whole model.

    Ranks go by logits, which keep apart what probabilities near 0 or 1 round together.

    Args:
        model: maps user int64[B] and item int64[B] to logits [B]; left in evaluation mode.
        test: groups of one positive and 99 negatives.
        batch_size: samples scored at once, which bounds memory.

    Raises:
        FedpsError: a score is not finite.
    """
    model.eval()
    user, item = torch.from_numpy(test.user), torch.from_numpy(test.item)
    pieces = [
        model(user[start : start + batch_size], item[start : start + batch_size])
        for start in range(0, len(user), batch_size)
    ]
    logits = torch.cat(pieces).float()
    histogram = Histogram()
    histogram.add(torch.sigmoid(logits).numpy(), test.label)
    sums = rank_metrics(logits.numpy().reshape(-1, CANDIDATES), test.item.reshape(-1, CANDIDATES))
    return Evaluation(sums.users, sums.hits, sums.ndcg, histogram)
