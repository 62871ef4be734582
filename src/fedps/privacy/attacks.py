"""What one party of a vertical job can find out about another's data from what it is sent: attacks, to measure how much.

A passive party wants labels, and has gradients of its cuts, one a sample and step (`norm`, `direction`, `spectrum`, `product`), or its
own trained bottom and a few labels (`completion`). The active party wants features, and has cuts and a few samples whose
features it knows (`inversion`, `nearest`). All take what one batch, or one epoch, shows, and return how well they do.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedps.types import Values

Floats = NDArray[np.floating[Any]]
Known = NDArray[np.integer[Any]]  # places of the samples that the attacker knows all about


def auc(scores: Floats, labels: Values) -> float:
    """Return how likely a positive has a higher score than a negative, a tie counted half; NaN where there is one class alone."""
    positive = labels > 0.5
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # of ties the mean one
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        return float("nan")
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def norm(gradients: Floats) -> Floats:
    """Score samples by the length of their gradients: long for the rarer class (Li et al., ICLR 2022, section 3.1)."""
    lengths: Floats = np.linalg.norm(gradients.astype(np.float64), axis=1)
    return lengths


def direction(gradients: Values, known: Known) -> Floats:
    """Score samples by the cosine of their gradients with those of known positives (Li et al., section 3.2)."""
    exact = gradients.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    units = exact / np.where(lengths > 0, lengths, 1)
    cosines: Floats = units @ units[known].mean(0)
    return cosines


def spectrum(gradients: Values, known: Known) -> Floats:
    """Score samples by where they lie on the line along which a batch spreads most (Sun et al., 2022, section 3).

    Known positives tell which end is which; nothing else is known.
    """
    centred = gradients.astype(np.float64) - gradients.mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    scores: Floats = centred @ vectors[:, np.argmax(values)]
    return scores if scores[known].mean() >= 0 else -scores


def without_line(gradients: Values) -> Floats:
    """Return gradients without the line along which they spread most: there the noise of a defence lies, if it lies on one."""
    exact = gradients.astype(np.float64)
    centred = exact - exact.mean(0)
    line = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    rest: Floats = exact - np.outer(exact @ line, line)
    return rest


def product(gradients: Floats, cuts: Values) -> Floats:
    """Score samples by the product of their gradients with what the party has sent of them.

    A factor of the network that the party knows itself shows the gradient's sign whatever hides the mean of all gradients.
    """
    products: Floats = -(gradients * cuts).sum(1)
    return products


def completion(cuts: Values, labels: Values, known: Known, decay: float = 1.0) -> Floats:
    """Score samples by a classifier on a passive party's own cuts, learned from a few known labels.

    Model completion (Fu et al., USENIX Security 2022): the party's bottom has learned what tells labels, so a small head on
    it needs few of them. Here it is a logistic regression.

    Args:
        cuts: float32[n, w].
        labels: float32[n]; those of known samples alone are looked at.
        known: places of samples with known labels.
        decay: weight of the squared weights.
    """
    inputs = _standard(cuts, known)
    logits: Floats = inputs @ _logistic(inputs[known], labels[known].astype(np.float64), decay)
    return logits


def inversion(cuts: Values, features: Values, known: Known, decay: float = 1e-3) -> float:
    """Return the share of features' variance that a ridge regression on cuts tells of samples that the attacker does not know.

    Args:
        cuts: float32[n, w].
        features: float32[n, f].
        known: places of samples whose features the attacker knows.
        decay: weight of the squared weights, a known sample.
    """
    inputs, rest = _standard(cuts, known), _others(len(cuts), known)
    mean = features[known].mean(0)
    square = inputs[known].T @ inputs[known] + decay * len(known) * np.eye(inputs.shape[1])
    weights = np.linalg.solve(square, inputs[known].T @ (features[known] - mean))
    error = ((inputs[rest] @ weights + mean - features[rest]) ** 2).sum()
    return float(1 - error / ((features[rest] - features[rest].mean(0)) ** 2).sum())


def nearest(cuts: Values, known: Known) -> tuple[Known, Known]:
    """Return the places of samples that the attacker does not know, and for each the known one with the most similar cut."""
    inputs, rest = _standard(cuts, known).astype(np.float32), _others(len(cuts), known)
    guessed, lengths = np.empty(len(rest), np.int64), (inputs[known] ** 2).sum(1)
    for start in range(0, len(rest), 1024):
        some = rest[start : start + 1024]
        guessed[start : start + 1024] = known[np.argmin(lengths - 2 * inputs[some] @ inputs[known].T, axis=1)]
    return rest, guessed


def _others(count: int, known: Known) -> Known:
    return np.setdiff1d(np.arange(count), known)


def _standard(cuts: Values, known: Known) -> Floats:
    """Return cuts of mean 0 and deviation 1 over the known samples, with a column of ones."""
    mean, deviation = cuts[known].mean(0, dtype=np.float64), cuts[known].std(0, dtype=np.float64)
    scaled = (cuts - mean) / np.where(deviation > 0, deviation, 1)
    return np.concatenate([scaled, np.ones((len(cuts), 1))], 1)


def _logistic(inputs: Floats, labels: Floats, decay: float) -> Floats:
    """Return the weights of a logistic regression, by Newton's method."""
    weights = np.zeros(inputs.shape[1])
    for _ in range(20):
        said = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        slope = inputs.T @ (said - labels) + decay * weights
        curve = (inputs * (said * (1 - said))[:, None]).T @ inputs + decay * np.eye(len(weights))
        weights = weights - np.linalg.solve(curve, slope)
    return weights
