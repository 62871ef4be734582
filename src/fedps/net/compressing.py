"""A client's pushes in fewer bytes, with a memory of what was not sent.

*Error feedback* (Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019): what packing loses of a row is kept by
the client and added to the next push of that row, so that nothing is lost, only late. It can be had with every form
here, and is needed by those that would leave out the same part of a row, or the same rows, each time.
"""

import math
import zlib
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from fedps.config import Job
from fedps.types import ClientId, Keys, Rows, State, TableName, TableSpec, Values, under, within
from fedps.wire.compress import Array, Form, pack, sides, to_low_rank, unpack

PURPOSE = zlib.crc32(b"fedps.net.compressing")  # sets these streams apart from others of the same seed
ONLY: Keys = np.zeros(1, np.int64)  # the one row that a dense tensor counts as
Place = tuple[TableName, int, int]  # table, shard, and first float of a dense tensor's piece


class Compression(NamedTuple):
    """How one client packs what it pushes, and how it wants its pulls answered.

    Args:
        push: the form; topk sends whole rows, but only the largest; dense tensors, which every sample needs, all.
        pull: the form of rows in answers.
        share: topk: share of a push's rows that is sent.
        rank: low_rank: of each matrix.
        feedback: keep what was not sent for the next push.
        stream: job seed and client, from which stochastic rounding follows.
    """

    push: Literal["none", "fp16", "bf16", "int8", "topk", "low_rank"] = "none"
    pull: Literal["none", "fp16", "bf16"] = "none"
    share: float = 0.1
    rank: int = 4
    feedback: bool = True
    stream: tuple[int, ...] = (0,)


NOTHING = Compression()
BIASED = ("topk", "low_rank")  # what they leave out is left out again and again, if nobody keeps it


def compression_of(job: Job, client: ClientId) -> Compression:
    """Return what the job says of one client's messages."""
    runner = job.runner
    feedback = runner.compression_feedback
    return Compression(
        runner.compression, runner.pull_compression, runner.compression_share, runner.compression_rank,
        runner.compression in BIASED if feedback is None else feedback, (runner.seed, zlib.crc32(client.encode())),
    )  # fmt: skip


class Residual:
    """What was not sent of one table's rows, by key; of a row never seen it is zero.

    Args:
        dim: floats of a row.
    """

    def __init__(self, dim: int) -> None:
        self._keys, self._rows = np.empty(0, np.int64), np.empty((0, dim), np.float32)

    def read(self, keys: Keys) -> Values:
        """Return float32[U, dim]. keys: int64[U], sorted, unique."""
        slots = self._slots(keys)  # which may make room
        rows: Values = self._rows[slots]
        return rows

    def write(self, keys: Keys, rows: Values, columns: slice = slice(None)) -> None:
        """Put float32[U, n] in place of these columns of rows. keys: int64[U], sorted, unique."""
        slots = self._slots(keys)
        self._rows[slots, columns] = rows

    def state(self) -> State:
        """Return all of it."""
        return {"keys": self._keys, "rows": self._rows}

    def restore(self, state: State) -> None:
        """Go on from what `state` returned."""
        self._keys, self._rows = state["keys"], state["rows"]

    def _slots(self, keys: Keys) -> Array:
        slots = np.searchsorted(self._keys, keys)
        if len(keys) and (slots[-1] == len(self._keys) or not np.array_equal(self._keys[slots], keys)):
            self._grow(keys)
            slots = np.searchsorted(self._keys, keys)
        return slots

    def _grow(self, keys: Keys) -> None:
        before, rows = self._keys, self._rows
        self._keys = np.union1d(before, keys)
        self._rows = np.zeros((len(self._keys), rows.shape[1]), np.float32)
        self._rows[np.searchsorted(self._keys, before)] = rows


class Compressor:
    """Packs one client's pushes. All calls come from the thread that pushes.

    Args:
        how: the form and its settings.
        specs: the shared tables, by name.
    """

    def __init__(self, how: Compression, specs: Mapping[TableName, TableSpec]) -> None:
        self._how, self._specs = how, specs
        self._residuals = {name: Residual(spec.dim) for name, spec in specs.items()} if how.feedback else {}
        self._starts: dict[Place, Values] = {}  # low_rank: where the next matrix of a place starts from
        self._draw = np.random.default_rng((*how.stream, PURPOSE))

    def state(self) -> State:
        """Return what was not sent, and where matrices of low rank start from; chance follows from a push's number alone."""
        starts = {"/".join(map(str, place)): start for place, start in self._starts.items()}
        return under({name: left.state() for name, left in self._residuals.items()} | {"starts": starts})

    def restore(self, state: State) -> None:
        """Go on from what `state` returned, of a client of the same job, whatever number of servers it had."""
        for name, left in self._residuals.items():
            left.restore(within(state, name))
        for place, start in within(state, "starts").items():
            table, shard, first = place.rsplit("/", 2)
            self._starts[table, int(shard), int(first)] = start

    def begin(self, changes: Mapping[TableName, Rows], sequence: int) -> Mapping[TableName, Rows]:
        """Begin push `sequence`: add the residuals; of topk, leave out the rows that are not sent."""
        if self._how.push == "none":
            return changes
        self._draw = np.random.default_rng((*self._how.stream, PURPOSE, sequence))
        if self._residuals:
            changes = {n: Rows(k, v + self._residuals[n].read(self._rows(n, k))) for n, (k, v) in changes.items()}
        if self._how.push == "topk":
            changes = {n: self._largest(n, rows) if len(rows.keys) else rows for n, rows in changes.items()}
        return changes

    def pack(self, table: TableName, keys: Keys, values: Values, shard: int) -> tuple[Form, list[Array]]:
        """Return a part of a push as it travels; what that loses is the residual.

        Args:
            table: whose values.
            keys: int64[U] (dense: see `TableSpec.span`).
            values: float32[U, dim] (dense: [1, n]).
            shard: where it goes.
        """
        if self._how.push == "none" or not len(values):
            return "none", [values]
        spec = self._specs[table]
        shape, (first, end) = sides(spec, keys), spec.span(keys) if spec.kind == "dense" else (0, spec.dim)
        form, arrays = self._packed(values.reshape(shape), (table, shard, first))
        if form == "none":
            arrays = [values]
        if self._residuals:
            sent = unpack(form, arrays, shape).reshape(values.shape)
            self._residuals[table].write(self._rows(table, keys), values - sent, slice(first, end))
        return form, arrays

    def _packed(self, matrix: Values, place: Place) -> tuple[Form, list[Array]]:
        match self._how.push:
            case "low_rank":
                return self._low_rank(matrix, place)
            case "fp16" | "bf16" | "int8" as form:
                return form, pack(form, matrix, self._draw)
        return "none", [matrix]

    def _low_rank(self, matrix: Values, place: Place) -> tuple[Form, list[Array]]:
        rank, (rows, columns) = self._how.rank, matrix.shape
        if rank * (rows + columns) >= rows * columns:  # a vector, say
            return "none", [matrix]
        start = self._starts.get(place)
        if start is None or start.shape != (columns, rank):
            start = self._draw.standard_normal((columns, rank), np.float32)
        left, right = to_low_rank(matrix, start)
        self._starts[place] = right
        return "low_rank", [left, right]

    def _largest(self, table: TableName, rows: Rows) -> Rows:
        """Return the rows of largest norm; the others are their residual."""
        norms = np.einsum("ij,ij->i", rows.values, rows.values)
        count = math.ceil(self._how.share * len(norms))
        at = np.sort(np.argpartition(norms, len(norms) - count)[len(norms) - count :])
        if self._residuals:
            left = rows.values.copy()
            left[at] = 0
            self._residuals[table].write(rows.keys, left)
        return Rows(rows.keys[at], rows.values[at])

    def _rows(self, table: TableName, keys: Keys) -> Keys:
        """Return the keys of residuals: a dense tensor is one row."""
        return ONLY if self._specs[table].kind == "dense" else keys
