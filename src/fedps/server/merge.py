"""How the pushes of one step or window become one change of a table: pure functions of the clients' pushes.

Every way of merging is a factor on a sum: `change[row] = factor[row] * sum over clients of weight * value[row]`.
A dense tensor is a table with one row that every client pushes.
"""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedps.types import NO_KEYS, Keys, Rows, Values

MOST_WEIGHT = 16  # medians that one weight counts as in a step of sync


class Contribution(NamedTuple):
    """One client's push to one table: keys int64[U] (empty for dense), values float32[U, dim], weight, share of the rate."""

    keys: Keys
    values: Values
    weight: float
    rate: float = 1.0


class Merged(NamedTuple):
    """What a table is to be pushed, and the share of its learning rate to take."""

    rows: Rows
    rate: float


class Stack(NamedTuple):
    """Contributions laid over the union of their keys, R rows.

    `total` float32[R, dim]: sum of values; `squares` float32[R, 1]: sum of squared norms; `touched` float32[R, 1]:
    how many clients pushed the row; `clients`: how many pushed at all.
    """

    keys: Keys
    total: Values
    squares: Values
    touched: Values
    clients: int


def mean(contributions: Sequence[Contribution]) -> Rows:
    """Average over all pushing clients: a client without the row counts as zero (FedBuff, below)."""
    stack = _stack(contributions)
    return Rows(stack.keys, stack.total * np.float32(1 / stack.clients))


def total(contributions: Sequence[Contribution]) -> Rows:
    """Add all changes up (geo `sum`)."""
    stack = _stack(contributions)
    return Rows(stack.keys, stack.total)


def heat(contributions: Sequence[Contribution]) -> Rows:
    """Average each row over the clients that changed it (FedSubAvg, Ding et al., NeurIPS 2022, eq. 5)."""
    stack = _stack(contributions)
    return Rows(stack.keys, stack.total / stack.touched)


def adaptive(contributions: Sequence[Contribution]) -> Rows:
    """Scale each row by Σ‖d‖² / ‖Σd‖², between 1/N and 1.

    Clients that agree are averaged, orthogonal ones added: the extrapolation of FedExP (Jhunjhunwala et al.,
    ICLR 2023, eq. 6) taken per row and per dense tensor, N being the clients that pushed in this window.
    """
    stack = _stack(contributions)
    norm = np.square(stack.total).sum(axis=1, keepdims=True)
    factor = np.clip(stack.squares / np.maximum(norm, 1e-12), 1 / stack.clients, 1.0)
    return Rows(stack.keys, stack.total * factor.astype(np.float32))


def buffered(contributions: Sequence[Contribution]) -> Rows:
    """Average over all pushes, each scaled by its weight, which is `staleness` (FedBuff, Nguyen et al., AISTATS 2022)."""
    return mean([c._replace(values=c.values * np.float32(c.weight)) for c in contributions])


def staleness(versions: int) -> float:
    """Return 1/√(1 + τ): what is left of a change whose client pulled τ versions ago (FedBuff, section 5.1)."""
    return float((1 + versions) ** -0.5)


def weighted_mean(contributions: Sequence[Contribution], over: str = "participants") -> Rows:
    """Average with the clients' weights, its samples in FedAvg (McMahan et al., AISTATS 2017, algorithm 1).

    Args:
        contributions: the round's pushes.
        over: `participants` divides each row by the weight of all clients of the round, `touched` by the weight
            of those that changed the row.
    """
    weighted = [Contribution(c.keys, c.values * np.float32(c.weight), 1.0) for c in contributions]
    stack = _stack(weighted)
    if over == "participants":
        return Rows(stack.keys, stack.total / np.float32(sum(c.weight for c in contributions)))
    share = [Contribution(c.keys, np.full((len(c.values), 1), c.weight, np.float32), 1.0) for c in contributions]
    return Rows(stack.keys, stack.total / _stack(share).total)


def by_samples(contributions: Sequence[Contribution]) -> Rows:
    """Average with the clients' weights, the samples of their parts of a step (sync).

    A weight counts as `MOST_WEIGHT` medians at most: no client can buy the whole step with one.
    """
    most = MOST_WEIGHT * median(c.weight for c in contributions)
    return weighted_mean([c._replace(weight=min(c.weight, most)) for c in contributions])


def _stack(contributions: Sequence[Contribution]) -> Stack:
    keys = _union([c.keys for c in contributions])
    rows = len(keys) if len(keys) else max(len(c.values) for c in contributions)
    dim = contributions[0].values.shape[1]
    sums = np.zeros((rows, dim), np.float32)
    squares, touched = np.zeros((rows, 1), np.float32), np.zeros((rows, 1), np.float32)
    for keys_of_one, values, *_ in contributions:
        at: NDArray[np.int64] | slice = np.searchsorted(keys, keys_of_one) if len(keys) else slice(len(values))
        sums[at] += values
        squares[at] += np.einsum("rd,rd->r", values, values)[:, None]
        touched[at] += 1
    return Stack(keys, sums, squares, touched, len(contributions))


def _union(keys: Sequence[Keys]) -> Keys:
    filled = [k for k in keys if len(k)]
    return np.unique(np.concatenate(filled)) if filled else NO_KEYS
