"""Servers that are pushed to as one, and saved as one epoch."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedps.storage.epochs import save_shard
from fedps.storage.shards import Base, Facts
from fedps.table.store import Store
from fedps.types import NO_KEYS, Init, Keys, Rule, TableSpec, Values

ROWS = TableSpec("rows", "sparse", (50, 3), Rule("adam", 0.1), Init("normal", 0.0, 1.0), seed=1)
BIAS = TableSpec("bias", "dense", (2, 2), Rule("adam", 0.1))
EVERY: NDArray[np.int64] = np.arange(50)


class Servers:
    """Some stores, each of which keeps a part of the rows.

    Args:
        count: how many.
        rows: the sparse table's spec.
        run: what tells this run from others.
    """

    def __init__(self, count: int, rows: TableSpec = ROWS, run: str = "a") -> None:
        self.stores, self.checks, self.run = [Store() for _ in range(count)], dict[int, str](), run
        for k, store in enumerate(self.stores):
            store.declare([rows, BIAS] if k == 0 else [rows])
        self.stores[0].seed("bias", np.ones((1, 4), np.float32))

    def push(self, *keys: int) -> None:
        for k, store in enumerate(self.stores):
            mine: Keys = np.array([key for key in keys if key % len(self.stores) == k], np.int64)
            store.push("rows", mine, np.ones((len(mine), 3), np.float32) * (1 + mine[:, None]).astype(np.float32))
        self.stores[0].push("bias", NO_KEYS, np.ones((1, 4), np.float32))

    def save(self, folder: Path, epoch: int, base: int | None = None) -> None:
        for k in range(len(self.stores)):
            self.save_one(k, folder, epoch, base)

    def save_one(self, k: int, folder: Path, epoch: int, base: int | None = None) -> None:
        """Save one server's part, as each does at its own time."""
        store, earlier = self.stores[k], None if base is None else Base(base, self.checks[k])
        facts = Facts(
            len(self.stores), epoch=epoch, shard=k, base=earlier, steps=store.steps(), witnesses=(self.run, f"w{k}")
        )
        self.checks[k] = save_shard(folder / str(epoch), k, store.export(changed=base is not None), facts)
        store.mark_saved()

    def rows(self) -> Values:
        """All rows as they are now; those of other servers are left out."""
        out = np.empty((50, 3), np.float32)
        for k, store in enumerate(self.stores):
            mine = EVERY[EVERY % len(self.stores) == k]
            out[mine] = store.pull("rows", mine)
        return out


def chain(folder: Path) -> Servers:
    """Save three epochs of one server, each but the first as what changed."""
    servers = Servers(1)
    for epoch in (1, 2, 3):
        servers.push(epoch)
        servers.save(folder, epoch, base=epoch - 1 if epoch > 1 else None)
    return servers
