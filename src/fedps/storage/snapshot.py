"""Tables on disk: a safetensors file and a JSON manifest that vouches for it, which together are one save.

The manifest makes a save count: it is named last, when both files are on disk. It holds the other's SHA-256 and its own,
so a torn or altered file is found when it is read. No save touches an earlier one: of saves of one name the first is
`<name>.json`, the second `<name>.2.json`, and so on, each with its `.safetensors`. So whenever a process stops, whatever
was whole stays whole; `epochs` removes what is superseded.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file as load_tensors

from fedps.errors import DataError
from fedps.storage.whole import PRIVATE, make_folder, open_whole
from fedps.table import rules
from fedps.types import Keys, TableName, TableSpec, Values

Tables = Mapping[TableName, tuple[TableSpec, Keys, Values]]
Arrays = Mapping[str, NDArray[Any]]
Layout = tuple[np.dtype[Any], tuple[int, ...]]  # of an array: its type and shape
WAITING = "waiting"  # the array of a bounded table's ids that have no row yet
FORMAT = 2  # 1 had counters of pushes (`rules.counters`) as floats; it can still be read
DTYPES = {  # of what is saved, in safetensors' words
    np.dtype(kind): word
    for kind, word in (("<i8", "I64"), ("<f4", "F32"), ("<i4", "I32"), ("<f8", "F64"), ("u1", "U8"), ("?", "BOOL"))
}


def save(
    folder: Path, name: str, tables: Tables, facts: Mapping[str, object], last: Callable[[], None] = lambda: None
) -> str:
    """Write the next save of a name; return its check, which no other save has.

    Args:
        folder: made if absent.
        name: of the saves; their files begin with it.
        tables: each table's spec, keys int64[n] (dense: empty) and rows with state, float32[n, width].
        facts: what else the manifest says, e.g. epoch, shard.
        last: is called before the save counts; if it raises, there is none.

    Raises:
        DataError: the files cannot be written; earlier saves stay as they were.
    """
    arrays = dict[str, NDArray[Any]]()
    for table, (_, keys, block) in tables.items():
        arrays |= {f"{table}/keys": keys, f"{table}/rows": block}
    specs = {table: msgspec.to_builtins(spec) for table, (spec, _, _) in tables.items()}
    return save_arrays(folder, name, arrays, facts, specs, last)


def save_arrays(
    folder: Path, name: str, arrays: Arrays, facts: Mapping[str, object],
    specs: Mapping[TableName, object] | None = None, last: Callable[[], None] = lambda: None,
) -> str:  # fmt: skip
    """Write the next save of a name, of whatever arrays; return its check.

    Args:
        folder: made if absent.
        name: as for `save`.
        arrays: by name, of any type in `DTYPES`.
        facts: what else the manifest says, as JSON has it.
        specs: of the tables that the arrays make up.
        last: as for `save`.

    Raises:
        DataError: as for `save`.
    """
    writer = Writer(folder, name, last=last)
    try:
        writer.begin({name: (array.dtype, array.shape) for name, array in arrays.items()})
        for array in arrays.values():
            writer.write(array)
        return writer.commit(facts, specs or {})
    finally:
        writer.abandon()


class Writer:
    """The next save of a name, written piece by piece: `begin`, then `write` all that the arrays hold, then `commit`.

    Whatever cannot be written raises DataError, and ends it: nothing is left behind, and earlier saves stay as they were.

    Args:
        folder, name, last: as for `save`.
        mode: of the files; by default their owner alone may read them.
    """

    def __init__(
        self, folder: Path, name: str, mode: int = PRIVATE, last: Callable[[], None] = lambda: None
    ) -> None:  # fmt: skip
        self._folder, self._name, self._mode, self._last = folder, name, mode, last
        self._open, self._sha, self._files = ExitStack(), hashlib.sha256(), list[IO[bytes]]()

    def begin(self, arrays: Mapping[str, Layout]) -> None:
        """Open the files, and say what arrays will come, in their order."""
        with self._told():
            make_folder(self._folder)
            earlier = stems(self._folder, self._name)
            stem = f"{self._name}.{numbered(earlier[0])[1] + 1}" if earlier else self._name
            paths = [self._folder / f"{stem}.{ending}" for ending in ("safetensors", "json")]
            self._files = self._open.enter_context(open_whole(*paths, mode=self._mode, last=self._last))
        self._put(_header(arrays))

    def write(self, piece: NDArray[Any]) -> None:
        """Write what comes next of the arrays."""
        self._put(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)

    def commit(self, facts: Mapping[str, object], specs: Mapping[TableName, object]) -> str:
        """Let the save count, now that all is there; return its check. The arguments are those of `save_arrays`."""
        manifest = {"format": FORMAT, "sha256": self._sha.hexdigest(), "facts": dict(facts), "tables": dict(specs)}
        check = _check(manifest)
        with self._told():
            self._files[1].write(json.dumps(manifest | {"check": check}, indent=1).encode())
            self._open.close()
        return check

    def abandon(self) -> None:
        """Leave nothing behind of what does not count yet."""
        with suppress(Abandoned, OSError):
            self._open.__exit__(Abandoned, Abandoned(), None)

    def _put(self, piece: bytes | memoryview) -> None:
        self._sha.update(piece)
        with self._told():
            self._files[0].write(piece)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.abandon()
            raise DataError(
                f"cannot save to {self._folder}: {error}; free space, or choose another --run_dir or"
                " runner.model_save_path"
            ) from error


class Abandoned(Exception):  # noqa: N818  (it is no error)
    """A save is not gone on with."""


def layouts(
    tables: Mapping[TableName, tuple[int, tuple[int, ...]]], waiting: Mapping[TableName, Keys]
) -> dict[str, Layout]:  # fmt: skip
    """Return the arrays of a save of tables.

    Args:
        tables: how many keys each has, and the shape of its rows.
        waiting: of a table that counts pushes of ids without a row, these with their pushes, int64[n, 2].
    """
    found: dict[str, Layout] = {f"{table}/{WAITING}": (ids.dtype, ids.shape) for table, ids in waiting.items()}
    for table, (keys, rows) in tables.items():
        found |= {f"{table}/keys": (np.dtype(np.int64), (keys,)), f"{table}/rows": (np.dtype(np.float32), rows)}
    return found


def packed(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> list[bytes | memoryview]:
    """Return a safetensors file in pieces, the arrays' own memory among them: they may be larger than what is free.

    The same content gives the same bytes, which the library's own writer does not promise of metadata.
    """
    header = _header({name: (array.dtype, array.shape) for name, array in arrays.items()}, metadata)
    return [header, *(array.reshape(-1).view(np.uint8).data for array in arrays.values())]


def _header(arrays: Mapping[str, Layout], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return how a safetensors file begins that holds these arrays in this order."""
    header, at = dict[str, object](), 0
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape) in arrays.items():
        end = at + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": (at, end)}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def stems(folder: Path, name: str) -> list[str]:
    """Return what the files of each save of a name are called, without ending, the newest first; none if none is there."""
    there = (file.stem for file in folder.glob("*.json"))
    return sorted((stem for stem in there if numbered(stem)[0] == name), key=numbered, reverse=True)


def numbered(stem: str) -> tuple[str, int]:
    """Return of which name a save is, and its number among those, from 1."""
    name, _, number = stem.rpartition(".")
    return (name, int(number)) if number.isdecimal() and number.isascii() else (stem, 1)


def load(folder: Path, stem: str) -> tuple[dict[TableName, tuple[TableSpec, Keys, Values]], dict[str, object]]:
    """Read what `save` wrote: the tables and the facts.

    Raises:
        DataError: a file is missing, torn or altered; it is named.
    """
    with _readable(folder, stem) as (path, manifest_path):
        manifest = _manifest(manifest_path)
        arrays = _arrays(path, manifest)
        specs = {table: msgspec.convert(spec, TableSpec) for table, spec in manifest["tables"].items()}
        tables = {t: (spec, arrays[f"{t}/keys"], arrays[f"{t}/rows"]) for t, spec in specs.items()}
        if manifest["format"] == 1:
            tables = {t: (spec, keys, _with_counters(spec, block)) for t, (spec, keys, block) in tables.items()}
        return tables, dict(manifest["facts"])


def load_arrays(folder: Path, stem: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what `save_arrays` wrote: the arrays, which may be changed, and the facts.

    Raises:
        DataError: as for `load`.
    """
    with _readable(folder, stem) as (path, manifest_path):
        manifest = _manifest(manifest_path)
        return _arrays(path, manifest), dict(manifest["facts"])


def load_waiting(folder: Path, stem: str) -> dict[TableName, Keys]:
    """Read the ids that wait for a row, int64[n, 2], of a save that `load` has found whole.

    Raises:
        DataError: the file is missing, or torn.
    """
    with _readable(folder, stem) as (path, _), safe_open(path, "numpy") as file:
        names = [name for name in file.keys() if name.endswith(f"/{WAITING}")]  # noqa: SIM118  (it is no dict)
        return {name.removesuffix(f"/{WAITING}"): file.get_tensor(name) for name in names}


def load_facts(folder: Path, stem: str) -> tuple[dict[str, object], str]:
    """Read the facts of a save, without its tables, and its check.

    Raises:
        DataError: the manifest is missing, torn or altered; it is named.
    """
    with _readable(folder, stem) as (_, manifest_path):
        manifest = _manifest(manifest_path)
        return dict(manifest["facts"]), _check(manifest)


@contextmanager
def _readable(folder: Path, stem: str) -> Iterator[tuple[Path, Path]]:
    """Give the paths of a save's two files; whatever reading them raises becomes a DataError that names one.

    Raises:
        DataError: as said.
    """
    path, manifest_path = folder / f"{stem}.safetensors", folder / f"{stem}.json"
    try:
        yield path, manifest_path
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(
            f"{error.filename or path}: cannot be read: {error.strerror}; who trains lets others read what is shared by"
            " runner.model_readers: group, or all; what is private to a client is its owner's alone"
        ) from error
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # whatever a hostile file makes the parsers raise
        raise DataError(
            f"{manifest_path}: is no save of fedps, or torn: {error!r}; use another epoch's save"
        ) from error


def _manifest(path: Path) -> dict[str, Any]:
    """Return a manifest that is whole, without its check."""
    manifest: dict[str, Any] = json.loads(path.read_bytes())
    if manifest["format"] not in (1, FORMAT) or manifest.pop("check") != _check(manifest):
        raise DataError(f"{path}: is altered, or of another version of fedps; use another epoch's save")
    return manifest


def _arrays(path: Path, manifest: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return the arrays that a manifest vouches for."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if manifest["sha256"] != digest:
        raise DataError(f"{path}: is torn or altered: its checksum is not the manifest's; use another epoch's save")
    return load_tensors(path)


def _with_counters(spec: TableSpec, block: Values) -> Values:
    """Return rows whose counters, which were floats, are whole numbers in the same place."""
    block = np.array(block)
    counters = rules.counters(spec.rule, block)
    with np.errstate(invalid="ignore"):  # no number, if the file says so: what comes of it is looked at by who reads on
        counters[:] = block[:, block.shape[1] - counters.shape[1] :]
    return block


def _check(manifest: Mapping[str, object]) -> str:
    """Return the SHA-256 of what a manifest says, as it reads back from JSON."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(manifest)), sort_keys=True).encode()).hexdigest()
