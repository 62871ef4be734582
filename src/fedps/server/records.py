"""What a server's log holds: one frozen struct a kind of change. Arrays stand beside a record, as its docstring names them.

A server's state is what its records make of it, in their order, and nothing else; `server` writes them and takes them up
again. A snapshot holds records, too: `State` first, then what the tables hold, then pushes that a buffer keeps.

    offset  size  what
    0       4     length of the head in bytes, H, little-endian
    4       H     MessagePack: [record, [[dtype, shape], ...]], an entry for each array
    ...           the arrays' bytes, one after another
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedps.access.roster import Process
from fedps.types import ClientId, TableName, TableSpec
from fedps.wire.frame import bytes_of

Array = NDArray[Any]
Sequences = tuple[tuple[ClientId, int], ...]  # which clients' which pushes


class Record(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """One change of a server's state."""


class Begun(Record, frozen=True):
    """The log begins. `shared`: what the job says where all roles must agree."""

    job: str
    shared: dict[str, str]
    shard: int
    shards: int


class Declared(Record, frozen=True):
    """Tables were made, in place of those there were. `warm`: from the saved epoch that the job starts from."""

    tables: tuple[TableSpec, ...]
    warm: bool | None = None  # None in logs that do not say so: if the job names one


class Seeded(Record, frozen=True):
    """A start was offered. Arrays: as for the message `Seed`."""

    table: TableName
    first: int


class Joined(Record, frozen=True):
    """A client's process takes part from `clock` on; `number`: which of its processes."""

    client: ClientId
    number: int
    instance: str
    clock: int
    samples: int


class Gone(Record, frozen=True):
    """A client takes part no more: it has left, was lost, or was expelled as if it had never come."""

    client: ClientId
    how: str


class TakenBack(Record, frozen=True):
    """The run was taken back to here: of each client only processes speak that are newer than `processes`, which none is."""

    processes: dict[ClientId, Process]


class Applied(Record, frozen=True):
    """A push, or all of a step or window merged, was applied; the gate's clock is `clock` now.

    `rates`: for each table the share of its learning rate. `full_at`: see `Store.full_at`; what found no room was no matter of
    the push alone. `made`: bytes of new rows of each push, empty if there are none. Arrays: for each table keys int64[U] and values float32[U, dim].
    """

    pushes: Sequences
    clock: int
    tables: tuple[TableName, ...]
    rates: tuple[float, ...]
    full_at: dict[TableName, int] = {}
    made: tuple[int, ...] = ()


class Offered(Record, frozen=True):
    """A push was taken that started from version `clock`; it is merged by a later record. Arrays: as for `Applied`."""

    pushes: Sequences
    clock: int
    tables: tuple[TableName, ...]
    rates: tuple[float, ...]


class Merged(Record, frozen=True):
    """The pushes that were offered since the last time were merged and applied. `full_at`: as for `Applied`."""

    full_at: dict[TableName, int] = {}


class Late(Record, frozen=True):
    """A push came after its window was closed: it counts as seen, and changes nothing; the open clock was `clock`."""

    pushes: Sequences
    clock: int


class Counted(Record, frozen=True):
    """How many samples a member has on average, as all were told."""

    mean: float


class Ended(Record, frozen=True):
    """Rows are settled, and an epoch ended, if `aged`: they have grown older. `saved`: whether it is saved."""

    epoch: int
    aged: bool
    saved: bool
    witnesses: tuple[str, ...]


class Opened(Record, frozen=True):
    """A barrier opened for some clients, each with the epoch that it claims; others wait for them from `clock` on.

    `epoch`: the last that has ended. `told`: the last whose figures over all clients the run was told.
    """

    stage: str
    clients: tuple[tuple[ClientId, int], ...]
    epoch: int
    clock: int
    told: int


class MemberState(msgspec.Struct, frozen=True, array_like=True):
    """A member in a snapshot, as `Member` has it: `sequence` is its last push that is applied, `stage` empty before a barrier."""

    instance: str
    samples: int
    waits_from: int
    sequence: int
    took_over: bool
    late: int
    stage: str
    epoch: int
    made: int = 0


class State(Record, frozen=True):
    """All but tables and pushes that wait, as a snapshot has it."""

    begun: Begun
    tables: tuple[TableSpec, ...]
    clock: int
    epoch: int
    passed: int
    told: int
    mean: float | None
    processes: dict[ClientId, Process]
    here: dict[ClientId, MemberState]
    left: dict[ClientId, MemberState]
    lost: dict[ClientId, MemberState]
    unsaved: bool
    moved: bool
    turns: tuple[int, int]


class Laid(Record, frozen=True):
    """A part of a table, as `Store.frozen` gives it. Arrays: the part's."""

    table: TableName
    facts: dict[str, int | float]


class SavedEpoch(Record, frozen=True):
    """An epoch's save is on disk."""

    epoch: int


Kinds = (
    Begun | Declared | Seeded | Joined | Gone | Applied | Offered | Merged | Late | Counted | Ended | Opened | State | Laid
    | SavedEpoch | TakenBack
)  # fmt: skip


class Entry(NamedTuple):
    """A record with its arrays, which are copies."""

    record: Kinds
    arrays: tuple[Array, ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[Kinds, list[tuple[str, tuple[int, ...]]]])


def encode(record: Record, arrays: Sequence[Array] = ()) -> list[bytes | memoryview]:
    """Return a record in pieces, the arrays' own memory among them."""
    head = _encoder.encode((record, [(array.dtype.str, array.shape) for array in arrays]))
    return [len(head).to_bytes(4, "little") + head, *[bytes_of(array) for array in arrays if array.size]]


def decode(data: memoryview) -> Entry:
    """Return what `encode` was given.

    Raises:
        ValueError: it is no record of this version of fedps.
    """
    at = 4 + int.from_bytes(data[:4], "little")
    try:
        record, facts = _decoder.decode(data[4:at])
    except msgspec.MsgspecError as error:
        raise ValueError(f"a record of another version of fedps: {error}") from error
    arrays = []
    for dtype, shape in facts:
        array = np.frombuffer(data, dtype, math.prod(shape), at).reshape(shape).copy()
        arrays.append(array)
        at += array.nbytes
    return Entry(record, tuple(arrays))
