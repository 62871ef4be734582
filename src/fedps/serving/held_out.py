"""The held-out samples of all clients in one place, what a whole network makes of them, and how good that is."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedps.config import Allow, Job
from fedps.data.read.by_job import joined, read_test
from fedps.data.read.files import test_files_of
from fedps.data.read.reader import Samples
from fedps.errors import JobError
from fedps.metrics import CANDIDATES, Histogram, rank_metrics
from fedps.training.eager import LEAST
from fedps.training.evaluate import Evaluation
from fedps.types import ClientId, Values


class Scored(NamedTuple):
    """Held-out samples, their logits float32[n], and what those come to."""

    samples: Samples
    logits: Values
    measures: dict[str, object]


def read_held_out(job: Job, allow: Allow = Allow()) -> Samples:  # noqa: B008  (a constant)
    """Read the held-out samples of all clients, end to end.

    Raises:
        JobError: the job names no test folder.
        DataError: a file cannot be read or has another form, or there is none.
    """
    return joined(list(held_out(job, allow).values()))


def held_out(job: Job, allow: Allow) -> dict[ClientId, Samples]:
    """Read each client's held-out samples; what is raised, see `read_held_out`."""
    if job.runner.test_data_dir is None:
        raise JobError("runner.test_data_dir: is missing; name the folder of held-out samples, e.g. DIR/test")
    found = {}
    for client, paths in test_files_of(job).items():
        found[client] = read_test(job, paths, allow).samples
    return found


def evaluate_model(model: nn.Module, test: Samples, batch_size: int) -> Evaluation:
    """Score held-out samples with a whole model.

    Args:
        model: maps user int64[B] and item int64[B] to logits [B]; left in evaluation mode.
        test: groups of one positive and 99 negatives.
        batch_size: samples scored at once, if that is enough to be fast.

    Raises:
        FedpsError: a score is not finite.
    """
    return _evaluated(test, logits_of(model, test, batch_size))


@torch.inference_mode()
def logits_of(model: nn.Module, test: Samples, batch_size: int) -> Values:
    """Return logits float32[n]; the batch size, if it is not too small, bounds memory and changes no result."""
    model.eval()
    size, user, item = max(batch_size, LEAST), _ids(test.user), _ids(test.item)
    pieces = [model(user[at : at + size], item[at : at + size]) for at in range(0, len(user), size)]
    logits: Values = torch.cat(pieces).float().numpy()
    return logits


def _ids(column: NDArray[np.int64]) -> torch.Tensor:
    """Return ids as torch wants them: of 8 bytes, and its own; those from a cache are neither."""
    return torch.from_numpy(column.astype(np.int64))


def probabilities(logits: Values) -> Values:
    """Return scores in [0, 1], float32[n]."""
    scores: Values = torch.sigmoid(torch.from_numpy(logits)).numpy()
    return scores


def _evaluated(test: Samples, logits: Values) -> Evaluation:
    """Ranks go by logits, which keep apart what probabilities near 0 or 1 round together."""
    histogram = Histogram()
    histogram.add(probabilities(logits), test.label)
    sums = rank_metrics(logits.reshape(-1, CANDIDATES), test.item.reshape(-1, CANDIDATES))
    return Evaluation(sums.users, sums.hits, sums.ndcg, histogram)


def scored(test: Samples, logits: Values) -> Scored:
    """Measure samples that have been scored.

    Raises:
        FedpsError: a logit is not finite.
    """
    found = _evaluated(test, logits)
    exact = logits.astype(np.float64)
    loss = np.mean(np.logaddexp(0, exact) - test.label * exact)
    measures: dict[str, object] = {"users": found.users, "samples": len(test.label), "loss": float(loss)}
    measures |= {"auc": found.histogram.auc(), "hr@10": found.hits / found.users, "ndcg@10": found.ndcg / found.users}
    return Scored(test, logits, measures)
