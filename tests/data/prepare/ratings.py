"""A file of ratings of thirty users, and what prepares it."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedps.data.catalogue import Catalogue
from fedps.data.prepare.forms import Hints
from fedps.data.prepare.table import Ask, prepare_table

USERS, ITEMS, EACH = 30, 150, 8


Prepare = Callable[..., dict[str, Any]]


def lines_of(each: int = EACH) -> list[list[str]]:
    """Users u00… each took some items, one after another; the last has rating 1."""
    return [
        [f"u{user:02}", f"B{(user * 7 + k * 11) % ITEMS:03}", "5" if k < each - 1 else "1", str(1000 * k + user)]
        for user in range(USERS)
        for k in range(each)
    ]


def write_ratings(folder: Path) -> Path:
    """Write a file of ratings in which lines of all users are mixed."""
    path = folder / "ratings.csv"
    rows = lines_of()
    order = np.random.default_rng(0).permutation(len(rows))
    path.write_text(
        "".join(f"{','.join(row)}\n" for row in [["userId", "asin", "stars", "timestamp"], *(rows[k] for k in order)])
    )
    return path


def preparing(ratings: Path, folder: Path) -> Prepare:
    """Return a function that prepares the ratings, or other files, into the folder `out`."""

    def make(*source: Path, **asked: Any) -> dict[str, Any]:
        columns: dict[str, str | None] = {
            role: asked.pop(role) for role in ("user", "item", "rating", "time", "client") if role in asked
        }
        hints = Hints(**{name: asked.pop(name) for name in ("delimiter", "encoding", "header") if name in asked})
        told: list[str] = []
        ask = Ask(source or [ratings], columns, hints=hints, **asked)
        manifest = prepare_table(folder / "out", ask, told.append)
        assert len(told) == len(manifest["told"]) and all(map(str.startswith, told, manifest["told"]))
        assert json.loads((folder / "out" / "manifest.json").read_text()) == manifest
        return dict(manifest)

    return make


def pairs(out: Path, side: str) -> list[tuple[str, str, str, str]]:
    """Return client, user, item and label of each line, users and items by the source's ids."""
    items = Catalogue.read(out / "items.csv")
    found = []
    for path in sorted((out / side).iterdir()):
        users = Catalogue.read(out / "users" / path.name)
        with path.open() as file:
            for row in csv.reader(file):
                if row[0] != "user":
                    found.append((path.stem, users.key(int(row[0])), items.key(int(row[1])), row[-1]))
    return found


def rows(out: Path, side: str, client: str) -> list[dict[str, str]]:
    """Return the lines of one client's file by the names of their columns."""
    return list(csv.DictReader((out / side / f"{client}.csv").read_text().splitlines()))
