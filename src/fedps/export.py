"""A run's model as one file: the servers' parts (and private ones, if asked for) under the network's own names."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from fedps.errors import DataError
from fedps.table import snapshot
from fedps.table.init import initial_rows
from fedps.types import Keys, TableName, TableSpec, Values

Part = tuple[TableSpec, Keys, Values]


def export_run(run_dir: Path, out: Path, epoch: int | None = None, private: bool = False) -> Path:
    """Write `model.safetensors`; return its path. Rows nobody has touched stand at their seeded start.

    Args:
        run_dir: the run's folder.
        out: folder to write to.
        epoch: which save; the last by default.
        private: join the clients' private tables.

    Raises:
        DataError: there is no such save, a shard's part is missing, or a file is altered.
    """
    epochs = sorted(int(p.name) for p in (run_dir / "model").glob("*") if p.name.isdigit())
    if not epochs or (epoch is not None and epoch not in epochs):
        raise DataError(f"{run_dir}: no saved model{f' of epoch {epoch}' if epoch else ''}; there are epochs {epochs}")
    chosen = epochs[-1] if epoch is None else epoch
    tensors: dict[TableName, Values] = {}
    for spec, keys, block in _parts(run_dir, chosen, private):
        if spec.kind == "dense":
            tensors[spec.name] = np.ascontiguousarray(block[0, : spec.dim]).reshape(spec.shape)
            continue
        if spec.name not in tensors:
            tensors[spec.name] = initial_rows(spec, np.arange(spec.shape[0]))
        tensors[spec.name][keys] = block[:, : spec.dim]
    path = out / "model.safetensors"
    out.mkdir(parents=True, exist_ok=True)
    snapshot.write_whole(path, save(tensors))
    return path


def _parts(run_dir: Path, epoch: int, private: bool) -> Iterator[Part]:
    folder = run_dir / "model" / str(epoch)
    names = sorted(p.stem for p in folder.glob("server-*.json"))
    for name in names:
        tables, facts = snapshot.load(folder, name)
        if facts["shards"] != len(names):
            raise DataError(f"{folder}: {len(names)} of {facts['shards']} servers' parts are there")
        yield from tables.values()
    for client in sorted((run_dir / "private").glob("*")) if private else ():
        yield from snapshot.load(client / str(epoch), "tables")[0].values()
