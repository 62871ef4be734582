"""How the pushes of one step or window become one change of a table: pure functions of the clients' pushes.

Every way of merging is a factor on a sum: `change[row] = factor[row] * sum over clients of weight * value[row]`.
A dense tensor is a table with one row that every client pushes.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedps.types import NO_KEYS, Keys, Rows, Values, bounded


class Contribution(NamedTuple):
    """One client's push to one table.

    Attributes:
        keys: int64[U], empty for a dense tensor.
        values: float32[U, dim] (dense: [1, dim]).
        weight: of this client in a weighted mean.
        rate: the share of the table's learning rate at which it is to be taken.
    """

    keys: Keys
    values: Values
    weight: float
    rate: float = 1.0

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return self.keys.nbytes + self.values.nbytes


class Merged(NamedTuple):
    """What a table is to be pushed, and the share of its learning rate to take."""

    rows: Rows
    rate: float


class Stack(NamedTuple):
    """Contributions laid over the union of their keys, R rows.

    Attributes:
        keys: int64[R], empty for a dense tensor.
        places: where each contribution's rows stand among them.
        total: float32[R, dim], sum of values.
    """

    keys: Keys
    places: list[NDArray[np.int64] | slice]
    total: Values


def mean(contributions: Sequence[Contribution]) -> Rows:
    """Average over all pushing clients: a client without the row counts as zero (FedBuff, below)."""
    stack = _stack(contributions)
    return Rows(stack.keys, stack.total * np.float32(1 / len(contributions)))


def heat(contributions: Sequence[Contribution]) -> Rows:
    """Average each row over the clients that changed it (FedSubAvg, Ding et al., NeurIPS 2022, eq. 5)."""
    stack = _stack(contributions)
    return Rows(stack.keys, stack.total / _by_row(stack, [1] * len(contributions)))


def adaptive(contributions: Sequence[Contribution]) -> Rows:
    """Scale each row by Σ‖d‖² / ‖Σd‖², between 1/N and 1.

    Clients that agree are averaged, orthogonal ones added: the extrapolation of FedExP (Jhunjhunwala et al.,
    ICLR 2023, eq. 6) taken per row and per dense tensor, N being the clients that pushed in this window.
    """
    stack = _stack(contributions)
    if len(contributions) == 1:
        return Rows(stack.keys, stack.total)  # who is alone agrees with itself
    squares = _by_row(stack, [np.einsum("rd,rd->r", c.values, c.values)[:, None] for c in contributions])
    norm = np.square(stack.total).sum(axis=1, keepdims=True)
    factor = np.clip(squares / np.maximum(norm, 1e-12), 1 / len(contributions), 1.0)
    return Rows(stack.keys, stack.total * factor.astype(np.float32))


def buffered(contributions: Sequence[Contribution]) -> Rows:
    """Average over all pushes, each scaled by its weight, which is `staleness` (FedBuff, Nguyen et al., AISTATS 2022)."""
    return mean([c._replace(values=c.values * np.float32(c.weight)) for c in contributions])


def staleness(versions: int) -> float:
    """Return 1/√(1 + τ): what is left of a change whose client pulled τ versions ago (FedBuff, section 5.1)."""
    return float((1 + versions) ** -0.5)


def weighted_mean(contributions: Sequence[Contribution], over: str = "participants") -> Rows:
    """Average with the clients' weights, the samples each has trained (McMahan et al., AISTATS 2017, algorithm 1: FedAvg).

    Weights are claims: each counts as `CLAIM_LIMIT` medians at most.

    Args:
        contributions: the round's pushes.
        over: `participants` divides each row by the weight of all clients of the round, `touched` by the weight
            of those that changed the row.
    """
    weights = bounded([c.weight for c in contributions])
    pairs = zip(contributions, weights, strict=True)
    stack = _stack([c._replace(values=c.values * np.float32(weight)) for c, weight in pairs])
    whole = np.float32(sum(weights)) if over == "participants" else _by_row(stack, np.array(weights, np.float32))
    return Rows(stack.keys, stack.total / whole)


def _stack(contributions: Sequence[Contribution]) -> Stack:
    first = contributions[0]
    if len(contributions) == 1:  # one worker, or a window that the others have left: there is nothing to lay over
        return Stack(first.keys, [slice(None)], first.values)
    keys = _union([c.keys for c in contributions])
    total = np.zeros((len(keys) or len(first.values), first.values.shape[1]), np.float32)
    places: list[NDArray[np.int64] | slice] = []
    for of_one, values, *_ in contributions:
        places.append(np.searchsorted(keys, of_one) if len(keys) else slice(len(values)))
        total[places[-1]] += values
    return Stack(keys, places, total)


def _by_row(stack: Stack, summands: Iterable[Values | float | np.float32]) -> Values:
    """Add up for each row what its contributions bring, a number or float32[U, 1] each; returns float32[R, 1]."""
    sums = np.zeros((len(stack.total), 1), np.float32)
    for at, of_one in zip(stack.places, summands, strict=True):
        sums[at] += of_one
    return sums


def _union(keys: Sequence[Keys]) -> Keys:
    filled = [k for k in keys if len(k)]
    return np.unique(np.concatenate(filled)) if filled else NO_KEYS
