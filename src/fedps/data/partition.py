"""Who gets whose data: users to clients. A user is never split; each way is one function.

All return one int64 array of user positions a client, together every user once.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Users = NDArray[np.int64]
LETTERS = "letter"  # the shard of zip codes that begin with a letter (Canadian ones, in ML-100k)


def by_zip_code(zip_codes: Sequence[str]) -> dict[str, Users]:
    """Group users by the first digit of their zip code, as the quick start does; those with a letter stand apart."""
    kinds = np.array([code[:1] if code[:1].isdigit() else LETTERS for code in zip_codes])
    return {str(kind): np.flatnonzero(kinds == kind) for kind in np.unique(kinds)}


def iid(users: int, clients: int, rng: np.random.Generator) -> list[Users]:
    """Deal users out at random, equally many each."""
    return [np.sort(part) for part in np.array_split(rng.permutation(users), clients)]


def dirichlet(labels: Sequence[str], clients: int, alpha: float, rng: np.random.Generator) -> list[Users]:
    """Deal each label's users out by shares from Dirichlet(alpha): small alpha, few labels a client.

    Hsu et al., "Measuring the effects of non-identical data distribution", 2019, section 3.1.
    """
    kinds, parts = np.asarray(labels), [[] for _ in range(clients)]  # type: tuple[NDArray[np.str_], list[list[Users]]]
    for kind in np.unique(kinds):
        users = rng.permutation(np.flatnonzero(kinds == kind))
        shares = np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1]
        for part, piece in zip(parts, np.split(users, (shares * len(users)).astype(int)), strict=True):
            part.append(piece)
    return _none_empty([np.sort(np.concatenate(p)) for p in parts])


def quantity(users: int, clients: int, alpha: float, rng: np.random.Generator) -> list[Users]:
    """Deal users out in unequal numbers, shares from Dirichlet(alpha) (Li et al., ICDE 2022, section 4.3)."""
    cuts = (np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * users).astype(int)
    return _none_empty([np.sort(part) for part in np.split(rng.permutation(users), cuts)])


def _none_empty(parts: list[Users]) -> list[Users]:
    """Give a client without users one of the largest client's."""
    for k, part in enumerate(parts):
        if not len(part):
            largest = max(range(len(parts)), key=lambda i: len(parts[i]))
            parts[k], parts[largest] = parts[largest][:1], parts[largest][1:]
    return parts
