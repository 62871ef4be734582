"""A saved epoch on disk, read back as one model, whatever number of servers wrote it.

`<model folder>/<epoch>/server-<k>` holds server k's part of every table. Clients' private tables lie in
`private/<client>/<epoch>/tables`, each client's on its own machine. `server.saving` and `client.private_rows` write these.

When an epoch is whole. Servers save at their own time, and know nothing of each other; so each writes a record of its own,
and an epoch is whole once there is one of every server *of the same run*. They know a run by its clients: a client's
process has a name that was drawn at random, and speaks to all servers. So each record names some processes that took
part, its *witnesses*, and records belong together if they share one, and the epoch.

A save goes beside what is there (see `snapshot`), and what it replaces is removed once the new epoch is whole. So,
wherever servers stop while they write an epoch again, the earlier one or the new one is whole, and is what is read.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from fedps.errors import DataError
from fedps.storage import snapshot
from fedps.storage.shards import Facts, SavedShard, find_shards, name_of, read_shard
from fedps.storage.snapshot import Tables
from fedps.storage.tables import SavedTable, checked, join, settled
from fedps.types import TableName

PRIVATE = "tables"  # the name of a client's private save
OURS = re.compile(rf"{PRIVATE}|server-[0-9]+")
MOST_WITNESSES = 64  # of a save; the first by name, so that servers that saw nearly the same clients name the same


def witnesses(instances: Iterable[str]) -> tuple[str, ...]:
    """Return what stands for client processes in a record: names from which their own cannot be told.

    Args:
        instances: the processes' names, which they said to the servers alone.
    """
    return tuple(sorted(hashlib.sha256(name.encode()).hexdigest()[:16] for name in instances)[:MOST_WITNESSES])


def save_shard(folder: Path, shard: int, tables: Tables, facts: Facts) -> str:
    """Write one server's part of an epoch; return its check. What it replaces goes once the epoch is whole.

    Args:
        folder: `<model folder>/<epoch>`.
        shard: the server's number.
        tables: what it keeps.
        facts: what its record says.

    Raises:
        DataError: the files cannot be written; earlier saves stay as they were.
    """
    check = snapshot.save(folder, name_of(shard), tables, msgspec.to_builtins(facts))
    supersede(folder, check)
    return check


def supersede(folder: Path, check: str) -> None:
    """Remove what an epoch's new save has replaced, if it is whole now that the part with this check is there."""
    with suppress(DataError, OSError):  # what is left over takes room, and does no harm
        parts = find_whole(folder) or []
        if check in {part.check for part in parts}:
            _remove_others(folder, [part.stem for part in parts])


def save_private(
    folder: Path, tables: Tables, facts: Mapping[str, object], last: Callable[[], None] = lambda: None
) -> None:  # fmt: skip
    """Write what a client keeps for itself, in place of an earlier save of the same epoch.

    Args:
        folder: `private/<client>/<epoch>`.
        tables: what it keeps.
        facts: `epoch` and `client`.
        last: is called before the save counts; if it raises, there is none.

    Raises:
        DataError: the files cannot be written; an earlier save stays as it was.
    """
    snapshot.save(folder, PRIVATE, tables, facts, last=last)
    with suppress(OSError):
        _remove_others(folder, snapshot.stems(folder, PRIVATE)[:1])


def remove(folder: Path, name: str) -> None:
    """Remove one server's, or a client's own, saves of an epoch; what cannot be removed takes room, and does no harm."""
    with suppress(OSError):
        there = snapshot.stems(folder, name)
        for ending in ("json", "safetensors"):  # records first, so that there is never one without its tables
            for stem in there:
                (folder / f"{stem}.{ending}").unlink(missing_ok=True)
        folder.rmdir()


def find_whole(folder: Path) -> list[SavedShard] | None:
    """Return every server's part of the newest save of an epoch that is whole; None if none is.

    Raises:
        DataError: a record that is newer, or all if none is whole, is torn.
    """
    # The newest first: while an epoch is written again, its new records are not complete, and the earlier ones are read.
    for first in find_shards(folder, 0):
        parts, common = [first], _witnesses(first)
        for shard in range(1, first.facts.shards):
            part = next((p for p in find_shards(folder, shard) if _witnesses(p) & common), None)
            if part is None:
                break
            parts, common = [*parts, part], common & _witnesses(part)
        else:
            return parts
    return None


def before(folder: Path, facts: Facts) -> list[int]:
    """Return the epochs before one that the same server saved in the same run, by whatever process of it.

    Args:
        folder: `<model folder>`.
        facts: of the server's save of that epoch.
    """
    found = []
    for epoch in [e for e in numbers(folder) if e < (facts.epoch or 0)]:
        with suppress(DataError, OSError):
            newest = next(find_shards(folder / str(epoch), facts.shard or 0), None)
            if newest and set(newest.facts.witnesses or ()) & set(facts.witnesses or ()):
                found.append(epoch)
    return found


def is_whole(folder: Path) -> bool:
    """Whether an epoch is there whole, as far as this machine has it."""
    with suppress(DataError, OSError):
        return find_whole(folder) is not None
    return False


def numbers(folder: Path) -> list[int]:
    """Return the numbers of the epochs that have a folder here, whole or not."""
    return sorted(int(f.name) for f in folders(folder) if f.name.isdecimal())


def folders(folder: Path) -> Iterator[Path]:
    """Yield the folders in a folder, none if it is not there."""
    return (f for f in sorted(folder.glob("*")) if f.is_dir())


def is_epoch(folder: Path) -> bool:
    """Whether a folder holds a saved epoch, whole or not."""
    return bool(snapshot.stems(folder, name_of(0)))


def find_first(folder: Path) -> SavedShard:
    """Return the first server's part of a saved epoch: of the one that is read, or of the newest if none is whole.

    Raises:
        DataError: `folder` holds no save, or its record is torn.
    """
    if not is_epoch(folder):
        there = numbers(folder)
        hint = (
            f"it holds epochs {', '.join(map(str, there))}: name one, e.g. {folder / str(there[-1])}" if there else ""
        )
        raise DataError(f"{folder}: is no saved epoch; {hint or 'name one that a run has saved, e.g. RUN_DIR/model/2'}")
    return (find_whole(folder) or list(find_shards(folder, 0)))[0]


def read_model(folder: Path, shard: int = 0, shards: int = 1) -> dict[TableName, SavedTable]:
    """Read a saved epoch: all dense tensors, and of the sparse tables the rows that one server keeps.

    Args:
        folder: `<model folder>/<epoch>`.
        shard: the rows with `key % shards == shard` are wanted.
        shards: into how many servers the rows are cut now; they may have been saved by any number.

    Raises:
        DataError: a file is missing, torn, or does not fit the others; it is named.
    """
    pieces: dict[TableName, list[SavedTable]] = {}
    for saved in find_whole(folder) or _missing(folder):
        for name, part in read_shard(saved).items():
            mine = part.keys % shards == shard
            if part.spec.kind == "sparse" and not mine.all():
                part = part._replace(keys=part.keys[mine], block=part.block[mine])
            if part.waiting is not None:
                part = part._replace(waiting=part.waiting[part.waiting[:, 0] % shards == shard])
            pieces.setdefault(name, []).append(part)
    return {name: join(parts, folder) for name, parts in pieces.items()}


def read_private(folder: Path) -> dict[TableName, SavedTable]:
    """Read what a client saved for itself in one epoch. Raises DataError: missing, torn, or it does not fit."""
    tables, _ = snapshot.load(folder, next(iter(snapshot.stems(folder, PRIVATE)), PRIVATE))
    return {name: settled(checked(folder, *table), 0, None) for name, table in tables.items()}


def private_save(folder: Path, epoch: int) -> Path | None:
    """Return the folder of a client's newest private save up to an epoch: a client that was lost has no later one.

    Args:
        folder: `private/<client>`.
        epoch: counted from 1.
    """
    there = [e for e in numbers(folder) if e <= epoch and snapshot.stems(folder / str(e), PRIVATE)]
    return folder / str(there[-1]) if there else None


def find_private(folder: Path) -> Path | None:
    """Return the folder of private tables that goes with a saved epoch: beside the model folder, or in its run's folder.

    Raises:
        DataError: `folder` is a saved epoch whose record is torn.
    """
    homes = [folder.parent.parent / "private"]
    if is_epoch(folder) and (run := find_first(folder).facts.run):
        homes.append(Path(run) / "private")
    return next((home for home in homes if next(folders(home), None)), None)


def epoch_of(folder: Path) -> int:
    """Return the number of a saved epoch: the folder's name, or what its record says if it was renamed.

    Raises:
        DataError: `folder` holds no save.
    """
    if folder.name.isdecimal():
        return int(folder.name)
    first = find_first(folder)
    if first.facts.epoch is None:
        raise DataError(f"{first.record}: does not say of which epoch it is; use another epoch's save")
    return first.facts.epoch


def _witnesses(part: SavedShard) -> set[tuple[int | None, int, str]]:
    """Return what tells a save's epoch and run from others. Before there were witnesses, the run's folder did."""
    facts = part.facts
    names = [f"run {facts.run}"] if facts.witnesses is None else facts.witnesses
    return {(facts.epoch, facts.shards, name) for name in names}


def _missing(folder: Path) -> list[SavedShard]:
    """Say why a saved epoch is not whole.

    Raises:
        DataError: always.
    """
    first = find_first(folder)
    for name in map(name_of, range(1, first.facts.shards)):
        if not snapshot.stems(folder, name):
            raise DataError(
                f"{folder / name}.json: is missing: {first.record} is the save of one of {first.facts.shards} servers, and"
                " not all are there; use another epoch's save"
            )
    raise DataError(
        f"{folder}: the saves of its {first.facts.shards} servers are of different runs: no client took part in all of"
        " them, so they are no one model; use another epoch's save"
    )


def _remove_others(folder: Path, kept: list[str]) -> None:
    """Remove all saves in a folder but some; records first, so that there is never one without its tables."""
    for ending in ("json", "safetensors"):
        for file in folder.glob(f"*.{ending}"):
            if OURS.fullmatch(snapshot.numbered(file.stem)[0]) and file.stem not in kept:
                file.unlink(missing_ok=True)
