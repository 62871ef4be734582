"""Who gets whose data: users to clients. A user is never split; each way is one function.

All give one int64 array of user positions a client, none of them empty, together every user once.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedps.errors import DataError

Users = NDArray[np.int64]
LETTERS = "letter"  # the shard of zip codes that begin with no digit (Canadian ones, in ML-100k)
NAME = re.compile(r"[\w-][\w.-]*")  # of a client, and so of its files
EVEN = 1e6  # an alpha beyond which nothing changes but rounding


def by_zip_code(zip_codes: Sequence[str]) -> dict[str, Users]:
    """Group users by the first digit of their zip code, as the original's quick start does.

    Args:
        zip_codes: one a user; those that begin with no digit make a client of their own, `letter`.
    """
    kinds = np.array([code[0] if code[:1].isascii() and code[:1].isdigit() else LETTERS for code in zip_codes])
    return {str(kind): np.flatnonzero(kinds == kind) for kind in np.unique(kinds)}


def iid(users: int, clients: int, rng: np.random.Generator) -> list[Users]:
    """Deal users out at random, equally many each (one more to the first, where they do not come out even).

    Args:
        users: how many there are.
        clients: how many shares to make.
        rng: the stream.

    Raises:
        DataError: fewer than one client, or more than users.
    """
    _check(users, clients)
    return [np.sort(part) for part in np.array_split(rng.permutation(users), clients)]


def dirichlet(labels: Sequence[str], clients: int, alpha: float, rng: np.random.Generator) -> list[Users]:
    """Deal each label's users out by shares from Dirichlet(alpha): small alpha, few labels a client.

    Hsu et al., "Measuring the effects of non-identical data distribution", arXiv:1909.06335, section 3.1.

    Args:
        labels: one a user.
        clients: how many shares to make.
        alpha: concentration.
        rng: the stream.

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

    Args:
        users: how many there are.
        clients: how many shares to make.
        alpha: concentration; the smaller, the more unequal.
        rng: the stream.

    Raises:
        DataError: fewer than one client, more than users, or alpha not above 0.
    """
    _check(users, clients, alpha)
    cuts = (np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * users).astype(int)
    return _none_empty([np.sort(part) for part in np.split(rng.permutation(users), cuts)])


def own(clients: Mapping[str, Sequence[int] | Users], users: int) -> dict[str, Users]:
    """Return a split of one's own, checked: each client's users, sorted.

    Args:
        clients: each client's users, by the name that its files are to have.
        users: how many there are in all.

    Raises:
        DataError: a name that no file can have, a client without users, or a user with no client or with two.
    """
    shares = {name: np.sort(np.asarray(part, np.int64)) for name, part in clients.items()}
    for name, part in shares.items():
        if not NAME.fullmatch(name):
            raise DataError(f"client {name!r}: must be a name of letters, digits, '-', '_' and '.', not '.' first")
        if not len(part):
            raise DataError(f"client {name!r}: has no users; leave it out")
        if part[0] < 0 or part[-1] >= users:
            raise DataError(f"client {name!r}: user {part[0] if part[0] < 0 else part[-1]} is not in [0, {users})")
    counts = np.bincount(np.concatenate([*shares.values(), np.empty(0, np.int64)]), minlength=users)
    for wrong, what in ((counts == 0, "has no client"), (counts > 1, "has more than one place")):
        if wrong.any():
            raise DataError(
                f"user {int(np.argmax(wrong))} {what} ({int(wrong.sum())} such users); give each one client"
            )
    return shares


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
