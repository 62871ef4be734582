"""The published NCF test files (`ml-1m.test.rating`, `ml-1m.test.negative`, plain or gzipped).

Their ids count from 0: a user's is UserID - 1, an item's the rank of its first appearance in ratings.dat. A file that
does not fit the ratings is refused, at the first line that tells.
"""

from pathlib import Path

import numpy as np

from fedps.data.negatives import History, Ids
from fedps.data.prepare.source import lines, read_file, whole
from fedps.errors import DataError
from fedps.figures import CANDIDATES

NEGATIVES = CANDIDATES - 1


class MisfitError(DataError):
    """A well-formed test file that belongs to other ratings."""


def beside(folder: Path) -> tuple[Path, Path] | None:
    """Return the published test files (positives, negatives) in a folder's `ncf`, None unless both are there."""
    files = []
    for kind in ("rating", "negative"):
        names = [folder / "ncf" / f"ml-1m.test.{kind}{end}" for end in ("", ".gz")]
        files += [n for n in names if n.is_file()][:1]
    return (files[0], files[1]) if len(files) == 2 else None


def read_positives(path: Path, history: History) -> Ids:
    """Read each user's test item: lines `user, item, rating, time`, separated by tabs.

    Returns:
        int64[num_users].

    Raises:
        MisfitError: a row is not among the ratings, or a user has none.
        DataError: a malformed line, or two of one user.
    """
    test_item = np.full(history.num_users, -1)
    for where, fields in lines(read_file(path), str(path), "\t", 4):
        user, item = whole(fields[0], where, "user"), whole(fields[1], where, "item")
        _check_known(user, item, where, history)
        if test_item[user] >= 0:
            raise DataError(f"{where}: user {user} has a test row already; leave one")
        test_item[user] = item
    _check_everyone(test_item, path)
    return test_item


def read_negatives(path: Path, test_item: Ids, history: History) -> Ids:
    """Read each user's test negatives: lines `(user,item)` and 99 items, separated by tabs.

    A user's own test item may be among them, as in 156 published rows; another item the user took may not.

    Returns:
        int64[num_users, 99].

    Raises:
        MisfitError: a line is for another test item, holds an item the user took, or a user has none.
        DataError: a malformed line, or two of one user.
    """
    items = np.full((history.num_users, NEGATIVES), -1)
    for where, (pair, *fields) in lines(read_file(path), str(path), "\t", 1 + NEGATIVES):
        user, item = _pair(pair, where)
        _check_known(user, item, where, history)
        if items[user, 0] >= 0:
            raise DataError(f"{where}: user {user} has test negatives already; leave one line")
        if item != test_item[user]:
            raise MisfitError(
                f"{where}: holds negatives for item {item}, but the test item of user {user} is {test_item[user]};"
                " give the --test-rating FILE that goes with it"
            )
        items[user] = _row(fields, where, history.num_items)
        known = history.holds(user, items[user]) & (items[user] != item)
        if known.any():
            raise MisfitError(f"{where}: item {items[user][known][0]} is no negative: user {user} took it")
    _check_everyone(items[:, 0], path)
    return items


def _check_known(user: int, item: int, where: str, history: History) -> None:
    fits = user < history.num_users and item < history.num_items
    if not fits or not history.holds(user, item):
        raise MisfitError(
            f"{where}: user {user} with item {item} is not among the ratings: is the file of another data set?"
        )


def _check_everyone(first: Ids, path: Path) -> None:
    missing = np.flatnonzero(first < 0)
    if len(missing):
        raise MisfitError(
            f"{path}: has no line for {len(missing)} of {len(first)} users, user {missing[0]} for one (counted from 0);"
            " is it cut off, or of another data set?"
        )


def _pair(text: str, where: str) -> tuple[int, int]:
    user, comma, item = text.strip().removeprefix("(").removesuffix(")").partition(",")
    if not comma or text.strip() != f"({user},{item})":
        raise DataError(f"{where}: {text[:30]!r} is no (user,item)")
    return whole(user, where, "user"), whole(item, where, "item")


def _row(fields: list[str], where: str, num_items: int) -> list[int]:
    text = "".join(fields)
    if all(fields) and text.isascii() and text.isdigit() and max(map(len, fields)) < 10:
        row = [int(field) for field in fields]
    else:
        row = [whole(field, where, "item") for field in fields]
    if max(row) >= num_items:
        raise MisfitError(f"{where}: item {max(row)} is not in [0, {num_items}): is the file of another data set?")
    return row
