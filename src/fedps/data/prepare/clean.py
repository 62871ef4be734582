"""What of a log of interactions cannot count, left out in this order; each is counted and told."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from fedps.data.catalogue import Catalogue
from fedps.data.prepare.interactions import Log, alike, core_of, latest_of_each
from fedps.data.prepare.split import one_client_each
from fedps.errors import DataError

MANY = 3  # examples in a message


class Told:
    """What is worth knowing, said as it is found and kept for the manifest.

    Args:
        say: takes in a line.

    Attributes:
        lines: all that was said, but for what is private.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.lines: list[str] = []

    def __call__(self, line: str, private: str = "") -> None:
        """Say a line, and what of it others need not read: users' ids."""
        if line:
            self.lines.append(line)
            self._say(line + private)


def cleaned(
    log: Log,
    listed: Catalogue | None,
    refuse_unknown: bool,
    shared_users: str,
    only_positive: bool,
    core: int,
    tell: Told,
) -> tuple[Log, dict[str, int]]:
    """Leave out lines of items that are not listed, repeated ones, what is not positive, and who has too little.

    Args:
        log: as it was read.
        listed: what items there are; None: those of the log.
        refuse_unknown: whether an item that is not listed is a mistake.
        shared_users: what becomes of users in several clients, see `one_client_each`.
        only_positive: whether lines must be positive.
        core: the least lines of a user, and of an item; up to 1 all do.
        tell: takes in what was left out, in words.

    Returns:
        The log, users and items from 0 without a gap, and how many lines were left out.

    Raises:
        DataError: unknown items or users in several clients are refused, or nothing is left.
    """
    counts = {}
    for role in ("user", "item"):
        _tell_alike(role, log.keys[role], tell)
    if listed is not None:
        log, counts["unknown_items"] = _of_catalogue(log, listed, refuse_unknown, tell)
    if len(log.client):
        log, said = one_client_each(log, shared_users)
        tell(said)
    once = latest_of_each(log)
    counts["repeated"] = len(log) - len(once)
    if counts["repeated"]:
        tell(f"repeated: {counts['repeated']:,} lines of a user and an item that come again; the latest counts")
    if only_positive and len(once.positive):
        counts["not_positive"] = int((~once.positive).sum())
        tell(f"positive: {len(once) - counts['not_positive']:,} of {len(once):,} lines")
        once = once.at(once.positive)
    log = core_of(once, core) if core > 1 else once
    if core > 1:
        counts["outside_core"] = len(once) - len(log)
        tell(f"core: {counts['outside_core']:,} lines of users or items with fewer than {core} left out")
    if not len(log):
        raise DataError(
            "no interaction is left; ask for less by --positive or --core, or look at what was left out above"
        )
    log = log.compact(all_items=listed is not None)
    counts["users_with_one"] = int((np.bincount(log.user) == 1).sum())
    if counts["users_with_one"]:
        tell(
            f"users with one interaction: {counts['users_with_one']:,}, of whom nothing is held out; --core 2 leaves them out"
        )
    return log, counts


def _tell_alike(role: str, keys: Sequence[str], tell: Told) -> None:
    groups = alike(keys)
    examples = ", e.g. " + "; ".join(" and ".join(map(repr, group[:2])) for group in groups[:MANY])
    told = f"{role} ids: {len(groups):,} differ from others by case or blanks only, and count as different"
    if groups:
        tell(told + examples * (role == "item"), examples * (role == "user"))


def _of_catalogue(log: Log, listed: Catalogue, refuse: bool, tell: Told) -> tuple[Log, int]:
    """Leave out lines of items that are not listed, whose codes come behind those that are."""
    unknown = log.keys["item"][len(listed) :]
    known = log.item < len(listed)
    lines = int((~known).sum())
    if unknown:
        examples = ", ".join(_with_nearest(key, listed) for key in unknown[:MANY])
        said = f"unknown items: {len(unknown):,} are not in the catalogue, in {lines:,} lines, e.g. {examples}"
        if refuse:
            raise DataError(
                f"{said}; add them to the catalogue for all who share it, or leave them out: --unknown-items leave"
            )
        tell(f"{said}; left out")
    return replace(log.at(known), keys={**log.keys, "item": log.keys["item"][: len(listed)]}), lines


def _with_nearest(key: str, listed: Catalogue) -> str:
    near = listed.nearest(key)
    return repr(key) + (f" (nearest: {near[0]!r})" if near else "")
