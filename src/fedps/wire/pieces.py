"""How a model's values are dealt to servers and cut into messages; every client does it alike.

A sparse row lives on shard `key % shards`, so its table lies on all of them. A dense tensor lives whole on one shard:
a rule or a merge that needs a tensor's norm finds all of it in one place. Only on its way is it cut.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fedps.types import MAX_FLOATS, NO_KEYS, Keys, TableName, TableSpec
from fedps.wire.compress import sides
from fedps.wire.frame import HELD_MESSAGES, Limits

PART_ROWS, PART_BYTES = 8192, 4 << 20  # of rows in one message: about a megabyte, so that copying and sending overlap
DENSE_BYTES = 16 << 20  # of dense tensors in one message
DENSE_MESSAGES = HELD_MESSAGES - 2  # of dense tensors a push: a server keeps so much, and some rows beside
MATRIX_ROWS = Limits().rows  # of a packed tensor, as of any array


class Piece(NamedTuple):
    """What one message carries of one table.

    Attributes:
        table: its name.
        keys: int64[U], as they travel: of rows, or of some of a dense tensor's floats (see `TableSpec.span`).
        at: where its values stand among those of the whole request, an index into float32[R, dim].
        shape: of its values.
    """

    table: TableName
    keys: Keys
    at: Any
    shape: tuple[int, int]


class Room(NamedTuple):
    """What one message may carry: a quarter of the largest message of rows at most, and a quarter of dense tensors.

    Attributes:
        row_bytes: of rows with their keys.
        floats: of dense tensors.
    """

    row_bytes: int
    floats: int

    @classmethod
    def of(cls, limits: Limits) -> "Room":
        """Return what there is under a channel's limits."""
        quarter = limits.message_bytes // 4
        return cls(min(PART_BYTES, quarter), min(DENSE_BYTES, quarter) // 4)

    def rows(self, specs: Sequence[TableSpec]) -> int:
        """Return how many rows of each sparse table one message carries; one there is always."""
        return max(1, min(PART_ROWS, self.row_bytes // max(width(specs), 1)))


def width(specs: Sequence[TableSpec]) -> int:
    """Return the bytes of one row of each sparse table, with its key."""
    return sum(4 * spec.dim + 8 for spec in specs if spec.kind == "sparse")


def placement(specs: Sequence[TableSpec], shards: int) -> dict[TableName, int]:
    """Say which shard holds each dense tensor: the largest first, each to the shard that holds least."""
    load = [0] * shards
    placed = {}
    for spec in sorted((s for s in specs if s.kind == "dense"), key=lambda s: (-s.dim, s.name)):
        shard = load.index(min(load))
        placed[spec.name] = shard
        load[shard] += spec.dim
    return placed


def cut_rows(spec: TableSpec, keys: Keys, most: int, shard: int, shards: int) -> dict[int, Piece]:
    """Return one shard's rows of a sparse table by the number of their message, which has one at least.

    Args:
        spec: the table.
        keys: int64[U], sorted, of all shards.
        most: rows of a message.
        shard: whose.
        shards: how many there are.
    """
    at = None if shards == 1 else np.flatnonzero(keys % shards == shard)
    pieces, count = {}, len(keys if at is None else at)
    for number, first in enumerate(range(0, max(count, 1), most)):
        these = slice(first, first + most) if at is None else at[first : first + most]
        own = keys[these]
        pieces[number] = Piece(spec.name, own, these, (len(own), spec.dim))
    return pieces


def cut_tensors(specs: Sequence[TableSpec], most: int) -> dict[TableName, dict[int, Piece]]:
    """Lay dense tensors end to end over messages; return the pieces of each by the number of their message.

    A tensor that fits where it begins is one piece, without keys. Others are cut between rows of the matrix as which they
    are packed (`sides`), so that each row keeps its own scale; only a row longer than a message is cut itself.

    Args:
        specs: the tensors.
        most: floats of a message.
    """
    number, room, pieces = 0, most, dict[TableName, dict[int, Piece]]()
    for spec in specs:
        pieces[spec.name], first = {}, 0
        columns = sides(spec, NO_KEYS)[1]
        while first < spec.dim:
            size = min(spec.dim - first, room, MATRIX_ROWS * columns)
            size -= size % columns if columns <= most else 0
            if size:
                end = first + size
                whole = size == spec.dim
                keys, at = (NO_KEYS, np.s_[:]) if whole else (np.array([first, end]), np.s_[:, first:end])
                pieces[spec.name][number] = Piece(spec.name, keys, at, (1, size))
                first, room = end, room - size
            if first < spec.dim:
                number, room = number + 1, most
    return pieces


def misfits(specs: Sequence[TableSpec], shards: int, message_mib: int) -> list[str]:
    """Say what of a model no server could hold or no message carry: key, value, remedy.

    Args:
        specs: the shared tables.
        shards: servers of the job.
        message_mib: `limits.message_mib`.
    """
    mistakes = []
    for spec in specs:
        if spec.dim > MAX_FLOATS:
            key, what = ("local_sparse", "rows") if spec.kind == "sparse" else ("local_dense", "a tensor")
            mistakes.append(
                f"runner.{key}: {spec.name} has {what} of {spec.dim} floats, and servers hold {MAX_FLOATS} at most: make it"
                " smaller, or name it here to keep it on the clients"
            )
    placed, sizes = placement(specs, shards), {spec.name: 4 * spec.dim for spec in specs}
    tables, most = sum(spec.kind == "sparse" for spec in specs), Limits().tables
    for shard in range(shards):
        mine = [name for name, its in placed.items() if its == shard]
        size = sum(sizes[name] for name in mine)
        if size > DENSE_MESSAGES * (message_mib << 20):
            mistakes.append(
                f"limits.message_mib: {message_mib}: server {shard} is to hold {', '.join(mine)}, {size / 2**20:.0f} MiB of a"
                f" push, and keeps {DENSE_MESSAGES * message_mib} MiB of it: raise it to {-(-size // (DENSE_MESSAGES << 20))}, or"
                " let more servers share them (runner.server_num)"
            )
        if tables + len(mine) > most:
            mistakes.append(
                f"runner.server_num: {shards}: server {shard} is to hold {tables} tables and {len(mine)} tensors, and"
                f" servers hold {most} at most: raise it, or keep some on the clients (runner.local_sparse, local_dense)"
            )
    if width(specs) > message_mib << 19:
        mistakes.append(
            f"limits.message_mib: {message_mib}: one row of each table is {width(specs) / 2**20:.1f} MiB, over half a message:"
            f" raise it to {-(-width(specs) >> 19)}"
        )
    return mistakes
