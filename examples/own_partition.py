"""A partition of your own: users become clients by the decade whose films they took most.

    python examples/own_partition.py --out .data/by-decade                  # ML-1M
    python examples/own_partition.py --out .data/by-decade --twin           # where the real data cannot be had
    fedps run examples/quickstart.yaml -o runner.train_data_dir=.data/by-decade/train \
        -o runner.test_data_dir=.data/by-decade/test

Clients are as unlike each other as their tastes: the client of the 1990s is by far the largest. A twin's films have no
titles, and so no year; there, items are put in four groups by number.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedps.data.prepare import movielens, synth
from fedps.data.prepare.write import Interactions
from fedps.errors import DataError


def by_favourite_group(data: Interactions) -> Mapping[str, NDArray[np.int64]]:
    """Return each client's users: a client is an item group, its users are those who took most of that group."""
    groups, names = item_groups(data)
    taken = np.zeros((data.num_users, len(names)), np.int64)
    np.add.at(taken, (data.user, groups[data.item]), 1)
    favourite = taken.argmax(axis=1)
    return {names[k]: np.flatnonzero(favourite == k) for k in np.unique(favourite).tolist()}


def item_groups(data: Interactions) -> tuple[NDArray[np.int64], Sequence[str]]:
    """Return each item's group, int64[num_items], and the groups' names."""
    if not data.titles:
        return np.arange(data.num_items) * 4 // data.num_items, ["group0", "group1", "group2", "group3"]
    years = [re.search(r"\((\d{4})\)", title) for title in data.titles]
    decades = [f"{year.group(1)[:3]}0s" if year else "unknown" for year in years]
    names, groups = np.unique(decades, return_inverse=True)
    return groups, names.tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--source", help="MovieLens archive, folder or URL; left out: as `fedps data prepare`")
    parser.add_argument("--twin", action="store_true", help="a small synthetic twin instead of MovieLens")
    told = parser.parse_args()
    try:
        if told.twin:
            manifest = synth.synthesize(told.out, users=400, items=300, per_user=30, split=by_favourite_group)
        else:
            manifest = movielens.prepare(told.out, told.source, split=by_favourite_group)
    except DataError as error:
        parser.exit(1, f"{error}\n")
    for client, held in manifest["clients"].items():
        print(f"client {client}: {held['users']} users, {held['samples']} samples")


if __name__ == "__main__":
    main()
