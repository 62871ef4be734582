"""How the pushes of one step or window become one change of a table: pure functions of the clients' pushes.

Every way of merging is a factor on a sum: `change[row] = factor[row] * sum over clients of weight * value[row]`.
A dense tensor is a table with one row that every client pushes.
"""

from collections.abc import Sequence
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
        touched: float32[R, 1], how many clients pushed the row.
    """

    keys: Keys
    places: list[NDArray[np.int64] | slice]
    total: Values
    touched: Values


def mean(contributions: Sequence[Contribution]) -> Rows:
    """Average over all pushing clients: a client without the row counts as zero (FedBuff, below)."""
    stack = _stack(contributions)
    return Rows(stack.keys, stack.total * np.float32(1 / len(contributions)))


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
    if len(contributions) == 1:
        return Rows(stack.keys, stack.total)  # who is alone agrees with itself
    squares = np.zeros_like(stack.touched)
    for at, (_, values, *_) in zip(stack.places, contributions, strict=True):
        squares[at] += np.einsum("rd,rd->r", values, values)[:, None]
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
    pairs = list(zip(contributions, weights, strict=True))
    stack = _stack([Contribution(c.keys, c.values * np.float32(weight), 1.0) for c, weight in pairs])
    if over == "participants":
        return Rows(stack.keys, stack.total / np.float32(sum(weights)))
    share = [Contribution(c.keys, np.full((len(c.values), 1), weight, np.float32), 1.0) for c, weight in pairs]
    return Rows(stack.keys, stack.total / _stack(share).total)


def _stack(contributions: Sequence[Contribution]) -> Stack:
    first = contributions[0]
    if len(contributions) == 1:  # one worker, or a window that the others have left: there is nothing to lay over
        return Stack(first.keys, [slice(None)], first.values, np.ones((len(first.values), 1), np.float32))
    keys = _union([c.keys for c in contributions])
    shape = len(keys) or max(len(c.values) for c in contributions), first.values.shape[1]
    total, touched = np.zeros(shape, np.float32), np.zeros((shape[0], 1), np.float32)
    places = list[NDArray[np.int64] | slice]()
    for of_one, values, *_ in contributions:
        at: NDArray[np.int64] | slice = np.searchsorted(keys, of_one) if len(keys) else slice(len(values))
        total[at] += values
        touched[at] += 1
        places.append(at)
    return Stack(keys, places, total, touched)


def _union(keys: Sequence[Keys]) -> Keys:
    filled = [k for k in keys if len(k)]
    return np.unique(np.concatenate(filled)) if filled else NO_KEYS
