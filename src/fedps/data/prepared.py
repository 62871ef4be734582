"""A prepared folder: what every client trains on and is tested on, and a manifest. Written whole or not at all."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow

from fedps.data import negatives, partition
from fedps.data.reader import read_manifest
from fedps.errors import DataError

Ids = NDArray[np.int64]
TEST_NEGATIVES = 99
KINDS = ("zipcode", "iid", "dirichlet", "quantity")


class Purpose(IntEnum):
    """What a stream of draws is for: with the seed it fixes the stream, so that one draw never shifts another.

    Negatives are thus the same for every way of splitting users, and runs on different splits compare.
    """

    CLIENTS = 1
    TRAIN_NEGATIVES = 2
    TEST_NEGATIVES = 3


@dataclass(frozen=True)
class Interactions:
    """What users took, split for training and testing.

    Attributes:
        user, item: int64[n], training positives, by ascending user.
        test_item: int64[num_users], each user's held-out item.
        test_negatives: int64[num_users, 99], or None to draw them.
        zip_codes: one a user.
        num_items: item ids lie in [0, num_items).
        source: where it came from, for the manifest.
        titles: item titles by item id, if known.
        synthetic: whether it was made up.
    """

    user: Ids
    item: Ids
    test_item: Ids
    test_negatives: Ids | None
    zip_codes: Sequence[str]
    num_items: int
    source: str
    titles: Sequence[str] = field(default_factory=list)
    synthetic: bool = False

    @property
    def num_users(self) -> int:
        """How many users there are."""
        return len(self.test_item)


@dataclass(frozen=True)
class Split:
    """How users become clients.

    Args:
        kind: zipcode (one client a first digit), iid, dirichlet (over those digits) or quantity.
        clients: how many; zipcode makes as many as there are digits.
        alpha: skew of dirichlet and quantity, small is skewed.

    Raises:
        DataError: a value that makes no sense.
    """

    kind: str = "zipcode"
    clients: int = 10
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"--partition {self.kind!r}: there are {', '.join(KINDS)}")
        if self.clients < 1:
            raise DataError(f"--clients {self.clients}: at least one is needed")
        if not 0 < self.alpha < float("inf"):
            raise DataError(f"--alpha {self.alpha}: must be above 0, e.g. 0.1 (skewed) or 100 (even)")


def write(out: Path, data: Interactions, split: Split, per_positive: int, seed: int) -> Mapping[str, Any]:
    """Write `train/<client>.csv`, `test/<client>.csv` and `manifest.json` under `out`; return the manifest.

    An `out` that is there already is replaced if it is empty or a prepared folder.

    Raises:
        DataError: `out` holds something else or cannot be written, or the data do not allow what is asked for.
    """
    if per_positive < 0 or seed < 0:
        raise DataError(f"--negatives {per_positive}, --seed {seed}: neither may be below 0")
    out = out.resolve()
    scratch = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        _make_room(out, scratch)
        manifest = _fill(scratch, data, split, per_positive, seed)
        _replace(out, scratch)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}; choose another --out") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return manifest


def _make_room(out: Path, scratch: Path) -> None:
    if out.exists() and not _may_go(out):
        raise DataError(f"{out}: holds something that is no prepared data; choose another --out or remove it yourself")
    for stale in out.parent.glob(f".{out.name}.*.part"):  # of a process that was killed
        process = stale.name.split(".")[-2]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(stale, ignore_errors=True)
    for folder in ("train", "test"):
        (scratch / folder).mkdir(parents=True)


def _may_go(out: Path) -> bool:
    """Tell whether a folder may be replaced. Other programs write a `manifest.json` too: ours lists clients."""
    try:
        return "clients" in read_manifest(out)
    except DataError:
        return out.is_dir() and not any(out.iterdir())


def _replace(out: Path, scratch: Path) -> None:
    """Put `scratch` in the place of `out`; what was there stays until that has worked."""
    old = scratch.with_suffix(".old")
    if not out.exists():
        scratch.rename(out)
        return
    out.rename(old)
    try:
        scratch.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _fill(folder: Path, data: Interactions, split: Split, per_positive: int, seed: int) -> Mapping[str, Any]:
    manifest: dict[str, Any] = {
        "clients": _write_clients(folder, data, split, per_positive, seed), "num_users": data.num_users,
        "num_items": data.num_items, "source": data.source, "synthetic": data.synthetic, "seed": seed,
        "partition": split.kind, "negatives": per_positive,
    }  # fmt: skip
    if data.titles:
        manifest["items"] = "items.csv"
        titles = pa.table({"item": np.arange(len(data.titles)), "title": list(data.titles)})
        arrow.write_csv(titles, folder / "items.csv")
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return manifest


def _write_clients(
    folder: Path, data: Interactions, split: Split, per_positive: int, seed: int
) -> dict[str, dict[str, int]]:
    """Write every client's two files; return what the manifest says of each."""
    train, test = _with_negatives(data, per_positive, seed)
    first = np.searchsorted(data.user, np.arange(data.num_users + 1))  # a user's training rows lie together
    clients = {}
    for client, users in _clients(data, split, _stream(seed, Purpose.CLIENTS)).items():
        rows = np.concatenate([np.arange(first[u], first[u + 1]) for u in users])
        if not len(rows):
            raise DataError(f"client {client} would have no training positive; ask for fewer --clients")
        _write(folder / "train" / f"{client}.csv", data.user[rows], train[rows])
        _write(folder / "test" / f"{client}.csv", users, test[users])
        clients[client] = {
            "users": len(users), "positives": len(rows), "samples": train[rows].size, "test_users": len(users),
        }  # fmt: skip
    return clients


def _with_negatives(data: Interactions, per_positive: int, seed: int) -> tuple[Ids, Ids]:
    """Put each positive's negatives behind it: int64[n, 1 + per_positive] and int64[num_users, 100]."""
    seen = np.zeros((data.num_users, data.num_items), bool)
    seen[data.user, data.item] = True
    given = data.test_negatives
    if given is not None and (trained := seen[np.arange(data.num_users)[:, None], given]).any():
        user, column = np.argwhere(trained)[0]
        raise DataError(f"test negative {given[user, column]} of user {user} is among the user's training items")
    seen[np.arange(data.num_users), data.test_item] = True
    drawn = negatives.sample(np.repeat(data.user, per_positive), seen, _stream(seed, Purpose.TRAIN_NEGATIVES))
    if given is None:
        rng = _stream(seed, Purpose.TEST_NEGATIVES)
        given = np.stack([negatives.distinct(u, TEST_NEGATIVES, seen, rng) for u in range(data.num_users)])
    drawn = drawn.reshape(len(data.user), per_positive)
    return np.column_stack([data.item, drawn]), np.column_stack([data.test_item, given])


def _stream(seed: int, purpose: Purpose) -> np.random.Generator:
    return np.random.default_rng((seed, purpose))


def _clients(data: Interactions, split: Split, rng: np.random.Generator) -> Mapping[str, Ids]:
    kinds = [partition.zip_kind(code) for code in data.zip_codes]
    if split.kind == "zipcode":
        return partition.by_field(kinds)
    if split.clients > data.num_users:
        raise DataError(f"--clients {split.clients}: there are only {data.num_users} users to share out")
    if split.kind == "iid":
        parts = partition.iid(data.num_users, split.clients, rng)
    elif split.kind == "dirichlet":
        parts = partition.dirichlet(kinds, split.clients, split.alpha, rng)
    else:
        parts = partition.quantity(data.num_users, split.clients, split.alpha, rng)
    return {str(k): users for k, users in enumerate(parts)}


def _write(path: Path, users: Ids, items: Ids) -> None:
    """Write each user's row of items, the first one positive, the others negative."""
    rows, columns = items.shape
    label = np.zeros((rows, columns), np.int64)
    label[:, 0] = 1
    table = pa.table([np.repeat(users, columns), items.reshape(-1), label.reshape(-1)], names=["user", "item", "label"])
    arrow.write_csv(table, path, arrow.WriteOptions(include_header=False))
