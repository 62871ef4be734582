"""What is held out of a log of interactions, and which client each user is of."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedps.data.negatives import Ids
from fedps.data.prepare.interactions import Log, Mask
from fedps.errors import DataError

SPLITS = ("leave-one-out", "time", "ratio")
NAMED = 3  # users in several clients that are named
LONGEST = 200  # bytes of a client's name, and so of its files': the system takes 255


def held_out(log: Log, split: str, share: float, rng: np.random.Generator) -> tuple[Mask, Mask]:
    """Tell which lines are held out for testing, of no user all, and which count at all: bool[n] each.

    Args:
        log: users and items without gaps.
        split: `leave-one-out`: each user's latest, of those with two lines or more; `time`: the latest `share` of all;
            `ratio`: a random `share` of each user's.
        share: between 0 and 1.
        rng: of the draws of `ratio`.

    Raises:
        DataError: there is no such split, or no time to split by.
    """
    if split not in SPLITS:
        raise DataError(f"--split {split!r}: there are {', '.join(SPLITS)}")
    if not 0 < share < 1:
        raise DataError(f"--share {share:g}: must be between 0 and 1, e.g. 0.1")
    if split == "time":
        return _latest_of_all(log, share)
    keys = rng.random(len(log)) if split == "ratio" else log.time if len(log.time) else np.arange(len(log))
    order = np.lexsort((keys, log.user))  # stable: of equal times, the files' order
    counts = np.bincount(log.user, minlength=len(log.keys["user"]))
    left = np.cumsum(counts)[log.user[order]] - np.arange(len(log))  # how many lines of the user come from here on
    each = np.minimum(
        counts - 1, np.ones_like(counts) if split == "leave-one-out" else np.ceil(share * counts).astype(int)
    )
    test = np.zeros(len(log), np.bool_)
    test[order] = left <= each[log.user[order]]
    return test, np.ones(len(log), np.bool_)


def _latest_of_all(log: Log, share: float) -> tuple[Mask, Mask]:
    if not len(log.time):
        raise DataError("--split time: no column tells the time; name it by --time COLUMN, or use --split ratio")
    cut = np.quantile(log.time, 1 - share, method="lower")
    test = log.time > cut
    known = np.bincount(log.user[~test], minlength=len(log.keys["user"])) > 0
    return test, ~test | known[log.user]


def one_client_each(log: Log, policy: str) -> tuple[Log, str]:
    """Give all lines of a user one client, where a column names that of each line.

    Args:
        log: its `client` is told.
        policy: for users in several clients: `refuse`; `first`, `largest`: all their lines go to that of their first line,
            or of most lines; `apart`: they are a user of each, as where each client numbers its own.

    Returns:
        The log, with more users for `apart`, and what was done to users in several clients, in words.

    Raises:
        DataError: a user is in several clients, and that is refused; some are named.
    """
    many = len(log.keys["client"])
    pair = log.user.astype(np.int64) * many + log.client
    distinct, first, at, count = np.unique(pair, return_index=True, return_inverse=True, return_counts=True)
    owner = distinct // many
    several = np.flatnonzero(np.bincount(owner, minlength=len(log.keys["user"])) > 1)
    if not len(several):
        return log, ""
    said = f"{len(several):,} users have lines in several clients"
    if policy == "refuse":
        raise DataError(f"{said}: {_named(log, several, distinct, many)}; {CHOICES}")
    if policy == "apart":
        keys = [log.keys["user"][user] for user in owner.tolist()]
        log = replace(log, user=at.astype(np.int32), keys={**log.keys, "user": keys})
        return log, f"{said}: each is a user of each"
    order = np.lexsort((first, owner) if policy == "first" else (first, -count, owner))
    chosen = order[np.flatnonzero(np.diff(owner[order], prepend=-1))]
    of = np.zeros(len(log.keys["user"]), np.int32)
    of[owner[chosen]] = distinct[chosen] % many
    return replace(log, client=of[log.user]), f"{said}: all their lines go to the {policy} one"


CHOICES = "a user's rows live on one client: --shared-users first or largest joins their lines there, apart makes a user of each"


def users_of_clients(log: Log) -> dict[str, Ids]:
    """Return each client's users, by names that files can have; users have one client each.

    Raises:
        DataError: two clients would have one name, or one has too long a name.
    """
    of, keys = np.zeros(len(log.keys["user"]), np.int64), log.keys["client"]
    of[log.user] = log.client
    names: dict[str, str] = {}
    for key in (keys[k] for k in np.unique(of).tolist()):
        name = re.sub(r"[^\w.-]+", "-", key.strip()).strip("-.") or "none"
        if len(name.encode()) > LONGEST:
            raise DataError(f"client {key[:40]!r}…: is too long to name its files; rename it")
        if name in names:
            raise DataError(f"clients {names[name]!r} and {key!r} would both be called {name!r}; rename one")
        names[name] = key
    place = {key: k for k, key in enumerate(keys)}
    return {name: np.flatnonzero(of == place[key]) for name, key in names.items()}


def _named(log: Log, several: Ids, pairs: Ids, many: int) -> str:
    """Name some users who are in several clients, and these."""
    told = []
    for user in several[:NAMED].tolist():
        clients = [log.keys["client"][pair % many] for pair in pairs[pairs // many == user].tolist()]
        told.append(f"{log.keys['user'][user]!r} in {' and '.join(map(repr, clients[:3]))}")
    return "; ".join(told) + ("; …" if len(several) > NAMED else "")


def clients_told_by(cells: Sequence[str], log: Log, column: str) -> Log:
    """Give all lines of a user the client that a file of users names.

    Args:
        cells: one a user of the log.
        log: without clients.
        column: what it is called.

    Raises:
        DataError: a user has none; some are named.
    """
    lost = [user for user, cell in zip(log.keys["user"], cells, strict=True) if not cell.strip()]
    if lost:
        raise DataError(
            f"--client {column}: {len(lost):,} users have no such cell in --users, e.g. {', '.join(map(repr, lost[:NAMED]))};"
            " add them, or leave their lines out"
        )
    place: dict[str, int] = {}
    of = np.array([place.setdefault(cell, len(place)) for cell in cells], np.int32)
    return replace(log, client=of[log.user], keys={**log.keys, "client": list(place)})
