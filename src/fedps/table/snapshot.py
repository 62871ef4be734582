"""Tables on disk: one safetensors file and one JSON manifest, whole or not there at all.

Each file is written under a temporary name, synced and renamed; the manifest comes last and holds the other's
SHA-256, so a torn or altered file is found when it is read.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from fedps.errors import DataError
from fedps.types import Keys, TableName, TableSpec, Values

Tables = Mapping[TableName, tuple[TableSpec, Keys, Values]]
FORMAT = 1


def save(folder: Path, name: str, tables: Tables, facts: Mapping[str, object]) -> None:
    """Write `<name>.safetensors` and `<name>.json`, readable by their owner only.

    Args:
        folder: made if absent.
        name: the files' name without ending.
        tables: each table's spec, keys int64[n] (dense: empty) and rows with state, float32[n, width].
        facts: what else the manifest says, e.g. epoch, shard.

    Raises:
        DataError: the files cannot be written; an earlier save stays as it was.
    """
    arrays = {}
    for table, (_, keys, block) in tables.items():
        arrays[f"{table}/keys"], arrays[f"{table}/rows"] = (
            np.ascontiguousarray(keys),
            np.ascontiguousarray(block),
        )
    payload = save_tensors(arrays)
    specs = {table: msgspec.to_builtins(spec) for table, (spec, _, _) in tables.items()}
    manifest = {
        "format": FORMAT,
        "sha256": hashlib.sha256(payload).hexdigest(),
        "facts": dict(facts),
        "tables": specs,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{name}.safetensors", payload)
        write_whole(folder / f"{name}.json", json.dumps(manifest, indent=1).encode())
    except OSError as error:
        raise DataError(f"cannot save to {folder}: {error}; free space or choose another --run_dir") from error


def load(folder: Path, name: str) -> tuple[dict[TableName, tuple[TableSpec, Keys, Values]], dict[str, object]]:
    """Read what `save` wrote: the tables and the facts.

    Raises:
        DataError: a file is missing, torn or altered; it is named.
    """
    path = folder / f"{name}.safetensors"
    try:
        payload = path.read_bytes()
        manifest = json.loads((folder / f"{name}.json").read_bytes())
        if manifest["sha256"] != hashlib.sha256(payload).hexdigest():
            raise DataError(f"{path}: is torn or altered: its checksum is not the manifest's; use another epoch's save")
        specs = {table: msgspec.convert(spec, TableSpec) for table, spec in manifest["tables"].items()}
        arrays = load_tensors(payload)
        tables = {t: (spec, arrays[f"{t}/keys"], arrays[f"{t}/rows"]) for t, spec in specs.items()}
        return tables, dict(manifest["facts"])
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # whatever a hostile file makes the parsers raise
        raise DataError(f"{folder / name}: is no save of fedps, or torn: {error}") from error


def write_whole(path: Path, payload: bytes) -> None:
    """Write a file so that it is there whole or not at all, mode 0600."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123  (a descriptor)
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
