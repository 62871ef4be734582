"""Who gets whose data: users to clients. A user is never split; each way is one function.

All return int64 arrays of user positions, sorted, together every user once.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Users = NDArray[np.int64]
LETTERS = "letter"  # the shard of zip codes that begin with no digit (Canadian ones and others, in ML-100k)


def by_field(labels: Sequence[str]) -> dict[str, Users]:
    """Group users by a label of theirs, one client a label: how data lies when each region or shop keeps its own."""
    kinds = np.asarray(labels)
    return {str(kind): np.flatnonzero(kinds == kind) for kind in np.unique(kinds)}


def zip_kind(code: str) -> str:
    """Return the first digit of a zip code, or `letter` where it begins with none."""
    return code[0] if code and code[0] in "0123456789" else LETTERS


def iid(users: int, clients: int, rng: np.random.Generator) -> list[Users]:
    """Deal users out at random, equally many each (McMahan et al., AISTATS 2017, section 3)."""
    return [np.sort(part) for part in np.array_split(rng.permutation(users), clients)]


def dirichlet(labels: Sequence[str], clients: int, alpha: float, rng: np.random.Generator) -> list[Users]:
    """Deal each label's users out by shares from Dirichlet(alpha): small alpha, few labels a client.

    The skew of Hsu et al., "Measuring the effects of non-identical data distribution", 2019, section 3.1; drawn per
    label as in Yurochkin et al., ICML 2019, so that every user is dealt once.
    """
    parts: list[list[Users]] = [[] for _ in range(clients)]
    for members in by_field(labels).values():
        cuts = (np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * len(members)).astype(int)
        for part, piece in zip(parts, np.split(rng.permutation(members), cuts), strict=True):
            part.append(piece)
    return _none_empty([np.sort(np.concatenate(part)) for part in parts])


def quantity(users: int, clients: int, alpha: float, rng: np.random.Generator) -> list[Users]:
    """Deal users out in unequal numbers, shares from Dirichlet(alpha) (Li et al., ICDE 2022, section 4.3)."""
    cuts = (np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * users).astype(int)
    return _none_empty([np.sort(part) for part in np.split(rng.permutation(users), cuts)])


def _none_empty(parts: list[Users]) -> list[Users]:
    """Give a client without users one of the largest client's: a client with nothing to train on cannot join."""
    for k, part in enumerate(parts):
        if not len(part):
            largest = max(range(len(parts)), key=lambda i: len(parts[i]))
            parts[k], parts[largest] = parts[largest][:1], parts[largest][1:]
    return parts
