"""A prepared folder: what every client trains on and is tested on, and a manifest. Written whole or not at all.

Only a folder that was written here, and that nothing was added to, is ever replaced; the old one is removed when the
new one stands in its place, not before.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc
from pyarrow import csv as arrow
from pyarrow import parquet

from fedps.data.catalogue import ITEMS, USERS, Catalogue
from fedps.data.negatives import History, Ids
from fedps.data.prepare import partition
from fedps.data.read import cache
from fedps.errors import DataError
from fedps.figures import CANDIDATES
from fedps.storage.whole import make_folder, whole_folder

TEST_NEGATIVES = CANDIDATES - 1
RETRIES = 64  # of a negative over all items; another number would prepare other data
FORMAT = "fedps.prepared/1"  # in the manifest: tells our folders from others
SIDES = ("train", "valid", "test")
JOB = "job.yaml"  # as `fedps init` writes it beside the data


@dataclass(frozen=True)
class Interactions:
    """What users took, split for training and testing; users and items are numbered from 0.

    Attributes:
        user, item: int64[n], training positives.
        num_users, num_items: how many there are.
        test_user, test_item: int64[m], held-out positives, sorted by users; none is among those of training.
        test_negatives: int64[m, 99], or none, int64[m, 0]; None to draw them.
        source: where it came from.
        zip_codes: one a user; none where the source has none.
        items: the source's ids of items and their titles, if it has any.
        user_keys: the source's ids of users; none where it has none.
        synthetic: whether it was made up.
        test_origin: how test items were chosen: a file's name, `latest` or `drawn`.
    """

    user: Ids
    item: Ids
    num_users: int
    num_items: int
    test_user: Ids
    test_item: Ids
    test_negatives: Ids | None
    source: str
    zip_codes: Sequence[str] = ()
    items: Catalogue | None = None
    user_keys: Sequence[str] = ()
    synthetic: bool = False
    test_origin: str = "drawn"

    @property
    def titles(self) -> Sequence[str]:
        """Item titles by item id; empty where they are not known."""
        return self.items.titles if self.items else ()


@dataclass(frozen=True)
class Split:
    """How users become clients.

    Attributes:
        kind: zipcode, iid, dirichlet or quantity, see `partition`.
        clients: into so many; zipcode makes one of each first digit.
        alpha: skew of dirichlet and quantity.
    """

    kind: str = "zipcode"
    clients: int = 10
    alpha: float = 0.5


Partition = Callable[[Interactions], Mapping[str, Ids]]  # of one's own: each client's users, int64[n], in any order


def write(
    out: Path, data: Interactions, split: Split | Partition, per_positive: int, seed: int,
    facts: Mapping[str, Any] | None = None,
) -> Mapping[str, Any]:  # fmt: skip
    """Write `train/<client>.csv`, `test/<client>.csv` and `manifest.json` under `out`; return the manifest.

    Args:
        out: the folder to make.
        data: what users took.
        split: how users become clients, or a function that says so.
        per_positive: negatives drawn for each training positive.
        seed: of all draws.
        facts: what else to say in the manifest.

    Raises:
        DataError: `out` holds something else or cannot be written, the data cannot be split so, or a user has taken
            too many items to draw negatives from.
    """
    with _replacing(out) as folder:
        for side in ("train", "test"):
            (folder / side).mkdir()
        return _fill(folder, data, split, per_positive, seed, facts or {})


def write_featured(
    out: Path, sides: Mapping[str, Mapping[str, pa.Table]], features: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any],
    ending: Literal["csv", "parquet"] = "csv", items: Catalogue | None = None,
    users: Mapping[str, Catalogue] | None = None,
) -> Mapping[str, Any]:  # fmt: skip
    """Write samples of any features: `<side>/<client>.csv` with a header (or .parquet), and `manifest.json`; return the manifest.

    Args:
        out: the folder to make.
        sides: by side (train, and valid or test) and client the samples, a column a feature or label.
        features: what the columns are, as a job's section `features` has it.
        facts: what else to say in the manifest.
        ending: of the files.
        items: the source's ids of items, if it has any.
        users: each client's users, likewise.

    Raises:
        DataError: `out` holds something else or cannot be written.
    """
    counts = {side: {client: table.num_rows for client, table in of.items()} for side, of in sides.items()}
    clients = {client: {"users": 0, "samples": n, "test_users": 0} for client, n in counts["train"].items()}
    for client, facts_of in clients.items():
        if "user" in features:
            facts_of["users"] = len(pc.unique(sides["train"][client]["user"]))
    manifest = {"format": FORMAT, "clients": clients, **facts, "features": features, "samples": counts}
    with _replacing(out) as folder:
        manifest |= _write_ids(folder, items, users or {})
        for side, of in sides.items():
            (folder / side).mkdir()
            for client, table in of.items():
                path = folder / side / f"{client}.{ending}"
                arrow.write_csv(table, path) if ending == "csv" else parquet.write_table(table, path)
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return manifest


def write_parties(
    out: Path, tables: Mapping[str, pa.Table], features: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Write what each party of vertical training has: `<party>.csv` with a header, and `manifest.json`; return the manifest.

    Args:
        out: the folder to make.
        tables: each party's samples; the column `id` tells which are the same.
        features: what each party's other columns are, as a job's parties have it.
        facts: what else to say in the manifest.

    Raises:
        DataError: `out` holds something else or cannot be written.
    """
    parties = {name: {"samples": table.num_rows, "features": features[name]} for name, table in tables.items()}
    manifest = {"format": FORMAT, "clients": {}, "parties": parties, **facts}
    with _replacing(out) as folder:
        for name, table in tables.items():
            arrow.write_csv(table, folder / f"{name}.csv")
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return manifest


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """Yield a folder that stands at `out` once it is filled, in the place of one that was written here before.

    Raises:
        DataError: `out` holds something else or cannot be written.
    """
    try:
        out = out.resolve()  # of a link, what it points to is replaced
        _check_ours(out)
        make_folder(out.parent)
        with whole_folder(out) as folder:
            yield folder
            if (out / JOB).is_file():  # people write in it: it outlives the data
                shutil.copy2(out / JOB, folder / JOB)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}; choose another --out") from error


def stream(seed: int) -> np.random.Generator:
    """Return the generator of a seed.

    Raises:
        DataError: the seed is below 0.
    """
    if seed < 0:
        raise DataError(f"--seed {seed}: must be 0 or more")
    return np.random.default_rng(seed)


def _check_ours(out: Path) -> None:
    reason = _not_ours(out)
    if reason:
        raise DataError(f"{out}: is no prepared data: {reason}; choose another --out or remove it yourself")


def _not_ours(out: Path) -> str | None:
    """Say why a folder must not be replaced; None if it was written here and nothing was added, or is not there.

    Samples kept for faster reading count as nothing: they are made again.
    """
    if not out.is_dir():
        return "it is no folder" if out.exists() else None
    if not any(out.iterdir()):
        return None
    try:
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        clients = list(manifest["clients"]) if manifest["format"] == FORMAT else None
        parties = list(manifest.get("parties", ()))
    except (OSError, ValueError, KeyError, TypeError):
        clients = None
    if clients is None:
        return f"it holds files, and no manifest.json of {FORMAT}"
    ours = {
        "manifest.json",
        JOB,
        ITEMS,
        USERS,
        "users.csv",  # of data prepared by earlier versions
        *SIDES,
        *(f"{party}.csv" for party in parties),
        *(f"{s}/{c}.{e}" for s in (*SIDES, USERS) for c in clients for e in ("csv", "parquet")),
    }
    there = (p.relative_to(out) for p in out.rglob("*"))
    others = sorted({p.as_posix() for p in there if cache.FOLDER not in p.parts} - ours)
    return f"it holds {others[0]}, which was not written with it" if others else None


def _fill(
    folder: Path, data: Interactions, split: Split | Partition, per_positive: int, seed: int, facts: Mapping[str, Any]
) -> Mapping[str, Any]:
    if per_positive < 0:
        raise DataError(f"--negatives {per_positive}: must be 0 or more")
    rng = stream(seed)
    history = History(
        np.append(data.user, data.test_user), np.append(data.item, data.test_item), data.num_users, data.num_items
    )  # fmt: skip
    held_out = data.test_negatives
    if held_out is None:
        _check_left(history, data.test_user, TEST_NEGATIVES, "give --test-negatives FILE")
        held_out = np.stack([history.draw_distinct(u, TEST_NEGATIVES, rng) for u in data.test_user.tolist()])
    if per_positive:
        _check_left(history, data.user, 1, "use --negatives 0")
    clients, shares = {}, clients_of(data, split, rng)
    for client, users, rows, tested in _shares(data, shares):
        user, item = data.user[rows], data.item[rows]
        drawn = history.draw(np.repeat(user, per_positive), rng, RETRIES).reshape(len(user), per_positive)
        _write(folder / "train" / f"{client}.csv", user, np.column_stack([item, drawn]))
        candidates = np.column_stack([data.test_item[tested], held_out[tested]])
        if len(tested):
            _write(folder / "test" / f"{client}.csv", data.test_user[tested], candidates)
        clients[client] = {
            "users": len(users), "positives": len(user), "samples": len(user) * (1 + per_positive),
            "test_users": len(np.unique(data.test_user[tested])),
        }  # fmt: skip
    manifest: dict[str, Any] = {
        "format": FORMAT, "clients": clients, "num_users": data.num_users, "num_items": data.num_items,
        "source": data.source, "synthetic": data.synthetic, "seed": seed, "partition": _name(split),
        "negatives": per_positive, "test_positives": data.test_origin,
        "test_negatives": "drawn" if data.test_negatives is None else "given",
        **_write_ids(folder, data.items, ids_of_users(data.user_keys, shares)), **facts,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return manifest


def _check_left(history: History, users: Ids, count: int, remedy: str) -> None:
    """Make sure that each of some users has left so many items."""
    short = users[history.left[users] < count]
    if len(short):
        user, left = short[0], history.left[short[0]]
        raise DataError(
            f"user {user} (counted from 0) took {history.num_items - left} of {history.num_items} items, so {left} are left"
            f" to draw {count} negatives from; leave this user's ratings out, or {remedy}"
        )


def _name(split: Split | Partition) -> str:
    return split.kind if isinstance(split, Split) else getattr(split, "__name__", "own")


def clients_of(data: Interactions, split: Split | Partition, rng: np.random.Generator) -> Mapping[str, Ids]:
    """Return each client's users.

    Raises:
        DataError: they cannot be split so.
    """
    if not isinstance(split, Split):
        return partition.own(split(data), data.num_users)
    if split.kind == "zipcode":
        return partition.by_zip_code(data.zip_codes)
    if split.kind == "iid":
        parts = partition.iid(data.num_users, split.clients, rng)
    elif split.kind == "dirichlet":
        parts = partition.dirichlet([c[:1] for c in data.zip_codes], split.clients, split.alpha, rng)
    elif split.kind == "quantity":
        parts = partition.quantity(data.num_users, split.clients, split.alpha, rng)
    else:
        raise DataError(f"--partition {split.kind!r}: there are zipcode, iid, dirichlet and quantity")
    return {str(k): users for k, users in enumerate(parts)}


def _shares(data: Interactions, clients: Mapping[str, Ids]) -> Iterator[tuple[str, Ids, Ids, Ids]]:
    """Yield each client with its users, the rows of its training positives and those of its held-out ones."""
    owner = np.empty(data.num_users, np.int64)
    for k, users in enumerate(clients.values()):
        owner[users] = k
    trained, tested = (_rows_by_owner(owner[user], len(clients)) for user in (data.user, data.test_user))
    for (client, users), rows, held_out in zip(clients.items(), trained, tested, strict=True):
        if not len(rows):
            raise DataError(
                f"client {client}: its {len(users)} users have nothing to train on once a test item each is held out;"
                " choose fewer --clients or another --partition"
            )
        yield client, users, rows, held_out


def _rows_by_owner(owners: Ids, count: int) -> list[Ids]:
    """Return the rows of each of so many owners, in one pass over all."""
    order = np.argsort(owners, kind="stable")
    return np.split(order, np.searchsorted(owners[order], np.arange(1, count)))


def ids_of_users(keys: Sequence[str], shares: Mapping[str, Ids]) -> dict[str, Catalogue]:
    """Return each client's users with the source's ids of them; none if it has none."""
    each = {client: np.sort(users) for client, users in shares.items()} if keys else {}
    return {client: Catalogue(users, [keys[user] for user in users.tolist()]) for client, users in each.items()}


def _write_ids(folder: Path, items: Catalogue | None, users: Mapping[str, Catalogue]) -> dict[str, str]:
    """Write the source's ids: of items for all, of users each client's by itself; return what the manifest says of it."""
    if items is not None:
        items.write(folder / ITEMS)
    if users:
        (folder / USERS).mkdir()
    for client, catalogue in users.items():
        catalogue.write(folder / USERS / f"{client}.csv", "user")
    return ({"items": ITEMS} if items is not None else {}) | ({"users": USERS} if users else {})


def _write(path: Path, users: Ids, items: Ids) -> None:
    """Write each user's row of items, the first one positive, the others negative."""
    rows, columns = items.shape
    label = np.zeros((rows, columns), np.int64)
    label[:, 0] = 1
    table = pa.table([np.repeat(users, columns), items.reshape(-1), label.reshape(-1)], names=["user", "item", "label"])
    arrow.write_csv(table, path, arrow.WriteOptions(include_header=False))
