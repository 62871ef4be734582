"""The teacher: what the clients' logits of a round's public pairs come to, as soft targets for all of them.

Clients of networks and weights of their own learn from each other by their predictions (FedMD: Li & Wang,
arXiv:1910.03581, algorithm 1; ensembles as teachers: Lin et al., NeurIPS 2020, section 3). Logits are claims like all
that clients report: each is clipped to ±`BOUND`. With `weighted`, how much a client trained is a claim, too.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedps.config import Job
from fedps.config.sections.rounds import Distillation
from fedps.data.public import Public
from fedps.errors import RefusedError
from fedps.types import ClientId, Values

BOUND = 10.0  # a probability within 5e-5 of 0 or 1
RIDGE = 0.01  # of a weight's squared distance to 1/N, beside the mean loss
STEPS, CLOSE = 50, 1e-8  # of Newton's method, and the step at which it has arrived

Floats = NDArray[np.float64]


class Prediction(NamedTuple):
    """One client's logits of the round's pairs, float32[S], and the samples it trained."""

    logits: Values
    trained: int


class Ensemble(NamedTuple):
    """What a round's teacher is: each client's weight in it, and its mean cross-entropy against the labels that there are."""

    weights: dict[ClientId, float]
    loss: float


class Teacher:
    """Makes soft targets of a round's logits, and keeps those of the last round.

    Args:
        settings: `mean` of the logits, `weighted` by the clients' samples, or `stacked`, as fits best the labels of
            those pairs that have one; and the temperature, which the teacher's logits are divided by.
        public: the public samples.

    Attributes:
        round: the round whose pairs the targets are of, 0 before the first.
        targets: float32[S], probabilities.
    """

    def __init__(self, settings: Distillation, public: Public) -> None:
        self._settings, self._public = settings, public
        self.round, self.targets = 0, np.empty(0, np.float32)

    @property
    def pairs(self) -> int:
        """How many pairs a round is about."""
        return self._public.round_size

    def targets_of(self, round_: int) -> list[Values]:
        """Return the targets, if they are of this round; else nothing."""
        return [self.targets] if 0 < round_ == self.round else []

    def remember(self, round_: int, targets: bytes) -> None:
        """Take up the targets of a round, float32, as another process of this teacher made them."""
        self.round, self.targets = round_, np.frombuffer(targets, np.float32)

    def teach(self, round_: int, predictions: Mapping[ClientId, Prediction]) -> Ensemble | None:
        """Make soft targets of a round's predictions, by client; if there are none, the last targets stay as they are."""
        if not predictions:
            return None
        label = self._public.of_round(round_).label.astype(np.float64)
        known = np.isfinite(label)
        logits = np.clip(np.stack([p.logits for p in predictions.values()]).astype(np.float64), -BOUND, BOUND)
        weights, bias = self._weights([p.trained for p in predictions.values()], logits[:, known], label[known])
        z = (weights @ logits + bias) / self._settings.temperature
        self.round, self.targets = round_, sigmoid(z).astype(np.float32)
        loss = np.sum((np.logaddexp(0, z) - label * z)[known]) / max(1, known.sum())
        return Ensemble(dict(zip(predictions, weights.tolist(), strict=True)), float(loss))

    def _weights(self, trained: Sequence[int], logits: Floats, label: Floats) -> tuple[Floats, float]:
        if self._settings.teacher == "stacked" and len(label):
            return stack(logits, label)
        if self._settings.teacher == "weighted" and any(trained):
            return np.array(trained) / sum(trained), 0.0
        return np.full(len(trained), 1 / len(trained)), 0.0


def check_logits(logits: Values, teacher: Teacher | None) -> None:
    """Check a client's logits of a round's pairs, float32[S].

    Raises:
        RefusedError: nobody asked for any, or for another number of them, or a value is not finite.
    """
    if teacher is None:
        raise RefusedError("order", "logits of public pairs, of which this job has none: is it the same job file?")
    if len(logits) != teacher.pairs:
        raise RefusedError(
            "malformed",
            f"logits: {len(logits)} came, of {teacher.pairs} public pairs: is distillation.public_data the same file"
            " everywhere?",
        )
    bad = np.flatnonzero(~np.isfinite(logits))
    if len(bad):
        raise RefusedError("not_finite", f"logits: {logits[bad[0]]} of public pair {bad[0]}: has training diverged?")


def make_teacher(job: Job) -> Teacher | None:
    """Return the job's teacher, None if the job names no public samples.

    Raises:
        DataError: they cannot be read.
    """
    return Teacher(job.distillation, Public(job)) if job.public_data else None


def stack(logits: Floats, label: Floats) -> tuple[Floats, float]:
    """Fit one weight a client and a bias to the public labels: logistic regression on the clients' logits.

    Stacked generalization (Wolpert, Neural Networks 1992), drawn to the plain mean by a ridge; by damped Newton.

    Args:
        logits: float64[N, S].
        label: float64[S], 0 or 1.

    Returns:
        float64[N] and the bias.
    """
    x, start = np.vstack([logits, np.ones(logits.shape[1])]), np.full(len(logits) + 1, 1 / len(logits))
    start[-1] = 0

    def cost(at: Floats) -> float:
        z = at @ x
        return float(np.mean(np.logaddexp(0, z) - label * z) + RIDGE / 2 * np.sum((at - start) ** 2))

    at = start
    for _ in range(STEPS):
        p = sigmoid(at @ x)
        slope = x @ (p - label) / len(label) + RIDGE * (at - start)
        step = np.linalg.solve((x * (p * (1 - p))) @ x.T / len(label) + RIDGE * np.eye(len(at)), slope)
        while np.abs(step).max() > CLOSE and cost(at - step) > cost(at):
            step = step / 2  # far from the end, a whole step may lead past it
        at = at - step
        if np.abs(step).max() <= CLOSE:
            break
    return at[:-1], float(at[-1])


def sigmoid(z: Floats) -> Floats:
    """Return probabilities of logits."""
    return np.exp(-np.logaddexp(0, -z))
