"""Who gets whose data: users to clients. A user is never split; each way is one function.

All give one int64 array of user positions a client, none of them empty, together every user once.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedps.errors import DataError

Users = NDArray[np.int64]
LETTERS = "letter"  # the shard of zip codes that begin with no digit (Canadian ones, in ML-100k)
EVEN = 1e6  # an alpha beyond which nothing changes but rounding


def by_zip_code(zip_codes: Sequence[str]) -> dict[str, Users]:
    """Group users by the first digit of their zip code, as the quick start does; those with a letter stand apart."""
    kinds = np.array([code[0] if code[:1].isascii() and code[:1].isdigit() else LETTERS for code in zip_codes])
    return {str(kind): np.flatnonzero(kinds == kind) for kind in np.unique(kinds)}


def iid(users: int, clients: int, rng: np.random.Generator) -> list[Users]:
    """Deal users out at random, equally many each.

    Raises:
        DataError: fewer than one client, or more than users.
    """
    _check(users, clients)
    return [np.sort(part) for part in np.array_split(rng.permutation(users), clients)]


def dirichlet(labels: Sequence[str], clients: int, alpha: float, rng: np.random.Generator) -> list[Users]:
    """Deal each label's users out by shares from Dirichlet(alpha): small alpha, few labels a client.

    Hsu et al., "Measuring the effects of non-identical data distribution", 2019, section 3.1.

    Raises:
        DataError: fewer than one client, more than users, or alpha not above 0.
    """
    _check(len(labels), clients, alpha)
    kinds, parts = np.asarray(labels), [[] for _ in range(clients)]  # type: tuple[NDArray[np.str_], list[list[Users]]]
    for kind in np.unique(kinds):
        users = rng.permutation(np.flatnonzero(kinds == kind))
        shares = np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1]
        for part, piece in zip(parts, np.split(users, (shares * len(users)).astype(int)), strict=True):
            part.append(piece)
    return _none_empty([np.sort(np.concatenate(p)) for p in parts])


def quantity(users: int, clients: int, alpha: float, rng: np.random.Generator) -> list[Users]:
    """Deal users out in unequal numbers, shares from Dirichlet(alpha) (Li et al., ICDE 2022, section 4.3).

    Raises:
        DataError: fewer than one client, more than users, or alpha not above 0.
    """
    _check(users, clients, alpha)
    cuts = (np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * users).astype(int)
    return _none_empty([np.sort(part) for part in np.split(rng.permutation(users), cuts)])


def _check(users: int, clients: int, alpha: float = 1.0) -> None:
    if clients < 1:
        raise DataError(f"--clients {clients}: there must be at least one")
    if clients > users:
        raise DataError(f"--clients {clients}: there are only {users} users to share out; ask for at most so many")
    if not 0 < alpha <= EVEN:  # also what is no number
        raise DataError(f"--alpha {alpha}: must be above 0 and at most {EVEN:g}; 0.1 is very skewed, 100 nearly even")


def _none_empty(parts: list[Users]) -> list[Users]:
    """Give a client without users one of the largest client's."""
    sizes = np.array([len(part) for part in parts])
    for k in np.flatnonzero(sizes == 0).tolist():
        largest = int(np.argmax(sizes))
        parts[k], parts[largest] = parts[largest][:1], parts[largest][1:]
        sizes[k], sizes[largest] = 1, sizes[largest] - 1
    return parts
