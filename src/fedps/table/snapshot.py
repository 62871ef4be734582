"""Tables on disk: one safetensors file and one JSON manifest, whole or not there at all.

Both files are written under temporary names and synced, then renamed, the manifest last. It holds the other's SHA-256
and its own, so a torn or altered file is found when it is read.
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
    manifest = {"format": FORMAT, "sha256": hashlib.sha256(payload).hexdigest(), "facts": dict(facts), "tables": specs}
    text = json.dumps(manifest | {"check": _check(manifest)}, indent=1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_all({folder / f"{name}.safetensors": payload, folder / f"{name}.json": text.encode()})
    except OSError as error:
        raise DataError(f"cannot save to {folder}: {error}; free space or choose another --run_dir") from error


def load(folder: Path, name: str) -> tuple[dict[TableName, tuple[TableSpec, Keys, Values]], dict[str, object]]:
    """Read what `save` wrote: the tables and the facts.

    Raises:
        DataError: a file is missing, torn or altered; it is named.
    """
    path, manifest_path = folder / f"{name}.safetensors", folder / f"{name}.json"
    try:
        manifest = json.loads(manifest_path.read_bytes())
        if manifest["format"] != FORMAT or manifest.pop("check") != _check(manifest):
            raise DataError(f"{manifest_path}: is altered, or of another version of fedps; use another epoch's save")
        payload = path.read_bytes()
        if manifest["sha256"] != hashlib.sha256(payload).hexdigest():
            raise DataError(f"{path}: is torn or altered: its checksum is not the manifest's; use another epoch's save")
        specs = {table: msgspec.convert(spec, TableSpec) for table, spec in manifest["tables"].items()}
        arrays = load_tensors(payload)
        tables = {t: (spec, arrays[f"{t}/keys"], arrays[f"{t}/rows"]) for t, spec in specs.items()}
        return tables, dict(manifest["facts"])
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # whatever a hostile file makes the parsers raise
        raise DataError(
            f"{manifest_path}: is no save of fedps, or torn: {error!r}; use another epoch's save"
        ) from error


def write_whole(path: Path, payload: bytes) -> None:
    """Write a file so that it is there whole or not at all, mode 0600."""
    _write_all({path: payload})


def _check(manifest: Mapping[str, object]) -> str:
    """Return the SHA-256 of what a manifest says, as it reads back from JSON."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(manifest)), sort_keys=True).encode()).hexdigest()


def _write_all(files: Mapping[Path, bytes]) -> None:
    """Write files of one folder; none takes its name before all are on disk, so a full disk spoils no earlier save."""
    scratch = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in files}
    try:
        for path, payload in files.items():
            with open(os.open(scratch[path], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123  (a descriptor)
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
        for path in files:
            scratch[path].replace(path)
        for folder in {path.parent for path in files}:
            _sync(folder)
    finally:
        for path in files:
            scratch[path].unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Make renames in a folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
