"""Vertical training in one place: all parties in this process, nothing on a wire. What federated training is compared with."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fedps.config.vertical import VerticalJob
from fedps.data.samples import ClientData
from fedps.types import State, Values


class Measured(NamedTuple):
    """What held-out samples come to after an epoch.

    Attributes:
        epoch: from 0 on.
        loss: mean of the training batches'.
        auc, logloss: of a binary label; the AUC is None where a class is absent.
        rmse: of a real one.
    """

    epoch: int
    loss: float
    auc: float | None = None
    logloss: float | None = None
    rmse: float | None = None


class Trained(NamedTuple):
    """What training came to.

    Attributes:
        epochs: each epoch's metrics.
        best: the place in `epochs` of the one that is kept.
        samples_per_second: of training, without evaluation.
        states: of each party's half, and of the top under "", as they stood after the best epoch.
        scores: float32[n], of the held-out samples after it: probabilities, with mse numbers.
    """

    epochs: list[Measured]
    best: int
    samples_per_second: float
    states: Mapping[str, State]
    scores: Values


def train_joined(job: VerticalJob, data: Mapping[str, ClientData], parties: Sequence[str] | None = None) -> Trained:
    """Train on parties' features in one place.

    Args:
        job: the job.
        data: of each party its samples, in one order; the active party's have the labels.
        parties: whose features count; None: all parties'. The active party's alone, or the passive ones' alone, are what
            `vertical.lift` compares with.

    Raises:
        JobError: none of these parties has features.
    """
    raise NotImplementedError


def measure(scores: Values, label: Values, loss: str) -> dict[str, float | None]:
    """Return what scores of held-out samples are worth: AUC and log loss, with mse the RMSE."""
    raise NotImplementedError
