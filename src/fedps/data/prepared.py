"""A prepared folder: what every client trains on and is tested on, and a manifest. Written whole or not at all."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow

from fedps.data import negatives, partition
from fedps.errors import DataError

Ids = NDArray[np.int64]
TEST_NEGATIVES = 99


@dataclass(frozen=True)
class Interactions:
    """What users took, split for training and testing.

    Attributes:
        user, item: int64[n], training positives, users contiguous.
        test_item: int64[num_users], each user's held-out item.
        test_negatives: int64[num_users, 99], or None to draw them.
        zip_codes: one a user.
        titles: item titles by item id, if known.
        source: where it came from.
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
    """How users become clients: zipcode, iid, dirichlet or quantity, into so many clients."""

    kind: str = "zipcode"
    clients: int = 10
    alpha: float = 0.5


def write(out: Path, data: Interactions, split: Split, per_positive: int, seed: int) -> Mapping[str, Any]:
    """Write `train/<client>.csv`, `test/<client>.csv` and `manifest.json` under `out`; return the manifest.

    Raises:
        DataError: `out` holds something else, or cannot be written.
    """
    scratch = out.with_name(f".{out.name}.part")
    try:
        _make_room(out, scratch)
        manifest = _fill(scratch, data, split, per_positive, seed)
        if out.exists():
            shutil.rmtree(out)
        scratch.rename(out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}; choose another --out") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return manifest


def _make_room(out: Path, scratch: Path) -> None:
    if out.exists() and not (out / "manifest.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: holds something that is no prepared data; choose another --out or remove it yourself")
    shutil.rmtree(scratch, ignore_errors=True)
    for folder in ("train", "test"):
        (scratch / folder).mkdir(parents=True)


def _fill(folder: Path, data: Interactions, split: Split, per_positive: int, seed: int) -> Mapping[str, Any]:
    rng = np.random.default_rng(seed)
    seen = np.zeros((data.num_users, data.num_items), bool)
    seen[data.user, data.item] = True
    seen[np.arange(data.num_users), data.test_item] = True
    held_out = data.test_negatives
    if held_out is None:
        draws = [negatives.distinct(u, TEST_NEGATIVES, seen, rng) for u in range(data.num_users)]
        held_out = np.stack(draws)
    clients = {}
    for client, users in _clients(data, split, rng).items():
        mine = np.isin(data.user, users)
        user, item = data.user[mine], data.item[mine]
        drawn = negatives.sample(np.repeat(user, per_positive), seen, rng).reshape(-1, per_positive)
        _write(folder / "train" / f"{client}.csv", user, np.column_stack([item, drawn]))
        candidates = np.column_stack([data.test_item[users], held_out[users]])
        _write(folder / "test" / f"{client}.csv", users, candidates)
        samples = len(user) * (1 + per_positive)
        clients[client] = {
            "users": len(users),
            "positives": len(user),
            "samples": samples,
            "test_users": len(users),
        }
    manifest: dict[str, Any] = {
        "clients": clients, "num_users": data.num_users, "num_items": data.num_items, "source": data.source,
        "synthetic": data.synthetic, "seed": seed, "partition": split.kind, "negatives": per_positive,
    }  # fmt: skip
    if data.titles:
        manifest["items"] = "items.csv"
        arrow.write_csv(
            pa.table({"item": np.arange(len(data.titles)), "title": list(data.titles)}), folder / "items.csv"
        )
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return manifest


def _clients(data: Interactions, split: Split, rng: np.random.Generator) -> Mapping[str, Ids]:
    if split.kind == "zipcode":
        return partition.by_zip_code(data.zip_codes)
    if split.clients > data.num_users:
        raise DataError(f"--clients {split.clients}: there are only {data.num_users} users to share out")
    if split.kind == "iid":
        parts = partition.iid(data.num_users, split.clients, rng)
    elif split.kind == "dirichlet":
        parts = partition.dirichlet([c[:1] for c in data.zip_codes], split.clients, split.alpha, rng)
    elif split.kind == "quantity":
        parts = partition.quantity(data.num_users, split.clients, split.alpha, rng)
    else:
        raise DataError(f"--partition {split.kind!r}: there are zipcode, iid, dirichlet and quantity")
    return {str(k): users for k, users in enumerate(parts)}


def _write(path: Path, users: Ids, items: Ids) -> None:
    """Write each user's row of items, the first one positive, the others negative."""
    rows, columns = items.shape
    label = np.zeros((rows, columns), np.int64)
    label[:, 0] = 1
    table = pa.table([np.repeat(users, columns), items.reshape(-1), label.reshape(-1)], names=["user", "item", "label"])
    arrow.write_csv(table, path, arrow.WriteOptions(include_header=False))
