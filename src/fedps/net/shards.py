"""One set of tables over many servers: requests are split by shard, answers laid together again.

A sparse row lives on shard `key % shards`. A dense tensor lives whole on one shard, so that a rule or a merge that
needs a tensor's norm finds all of it in one place; tensors are dealt out by size.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedps.errors import LostError, WireError
from fedps.net.channel import Channel
from fedps.net.compressing import NOTHING, Compression, Compressor
from fedps.net.inprocess import LocalChannel
from fedps.types import Keys, Rows, TableName, TableSpec, Values
from fedps.wire.compress import ARRAYS, plain, unpack
from fedps.wire.frame import Frame
from fedps.wire.messages import Barrier, Census, Counted, Done, Join, Leave, Pull, Push, Request, Seed, Welcome
from fedps.wire.messages import Values as Answer

PART_ROWS, PART_BYTES = 8192, 4 << 20  # of one message: about a megabyte, so that copying and sending overlap


def placement(specs: Sequence[TableSpec], shards: int) -> dict[TableName, int]:
    """Say which shard holds each dense tensor: the largest first, each to the shard that holds least."""
    load = [0] * shards
    placed = {}
    for spec in sorted((s for s in specs if s.kind == "dense"), key=lambda s: (-s.dim, s.name)):
        shard = load.index(min(load))
        placed[spec.name] = shard
        load[shard] += spec.dim
    return placed


class PullTicket:
    """Rows under way from all shards.

    Attributes:
        clocks: what each shard's clock was when it read the rows, once `result` is there; of several answers the oldest.
    """

    def __init__(self, pieces: Sequence["Piece"], shapes: Mapping[TableName, tuple[int, int]], who: str) -> None:
        self._pieces, self._shapes, self._who = pieces, shapes, who
        self.clocks: dict[int, int] = {}

    def result(self, timeout: float) -> dict[TableName, Values]:
        """Wait and return float32[U, dim] for each table, in the order of the keys asked for (dense: [1, dim]); to be read only.

        Raises:
            LostError: no answer within `timeout` seconds.
            RefusedError: a server refused.
            WireError: a server answered with other rows than were asked for.
        """
        out = {name: np.empty(shape, np.float32) for name, shape in self._shapes.items()}
        for shard, future, tables, places in self._pieces:
            frame = _wait(future, timeout, self._who)
            answer = frame.message
            if not isinstance(answer, Answer) or answer.tables != tables:
                raise WireError(f"{self._who} of {tables} was answered by {answer}")
            self.clocks[shard] = min(answer.clock, self.clocks.get(shard, answer.clock))
            forms, arrays = answer.forms or plain(tables), iter(frame.arrays)
            for table, at, form in zip(tables, places, forms, strict=True):
                rows = len(out[table][at]) if isinstance(at, slice) else len(at)
                due = (rows, self._shapes[table][1])
                values = unpack(form, [next(arrays) for _ in ARRAYS[form]], due)
                if values.shape != due:
                    raise WireError(f"{self._who} of {table!r} brought {values.shape}, due {due}")
                if values.shape == self._shapes[table]:
                    out[table] = values  # the whole of it, as it came
                elif rows:
                    out[table][at] = values
        return out


Piecewise = tuple[TableName, Keys, Any]  # what can be cut by rows: a table, its keys, something by row
Piece = tuple[int, "Future[Frame]", tuple[TableName, ...], list[NDArray[np.int64] | slice]]


class PushTicket:
    """A push under way to all shards."""

    def __init__(self, futures: Sequence["Future[Frame]"], who: str) -> None:
        self._futures, self._who = futures, who

    def result(self, timeout: float) -> Done:
        """Wait until every shard has taken the push; `late` if any says so, `clock` the furthest.

        Raises:
            LostError: no answer within `timeout` seconds.
            RefusedError: a server refused.
        """
        answers = [_wait(f, timeout, self._who).message for f in self._futures]
        done = [a for a in answers if isinstance(a, Done)]
        return Done(max(d.clock for d in done), any(d.late for d in done))


class Shards:
    """A client's view of all servers.

    Args:
        channels: one a shard, in order.
        specs: the shared tables.
        timeout: seconds to wait for a join, a seed or a leave to be answered.
        compression: how values travel, both ways.
    """

    def __init__(
        self, channels: Sequence[Channel | LocalChannel], specs: Sequence[TableSpec], timeout: float = 300.0,
        compression: Compression = NOTHING,
    ) -> None:  # fmt: skip
        self._channels, self._timeout = channels, timeout
        self._specs = {s.name: s for s in specs}
        self._placed = placement(specs, len(channels))
        self._sequence = 0
        self._compressor, self._answer_form = Compressor(compression, self._specs), compression.pull

    @property
    def bytes_sent(self) -> int:
        """Bytes of all messages sent."""
        return sum(c.bytes_sent for c in self._channels)

    @property
    def bytes_received(self) -> int:
        """Bytes of all messages received."""
        return sum(c.bytes_received for c in self._channels)

    @property
    def retries(self) -> int:
        """How often a connection was opened again."""
        return sum(c.retries for c in self._channels)

    def join(self, samples: int = 0) -> int:
        """Declare the tables everywhere and take part; return the clock to begin at.

        Args:
            samples: of a pass over the client's data, told where clients train in step.
        """
        welcomes = [_wait(c.welcome, self._timeout, "Hello").message for c in self._channels]
        clock = max(w.clock for w in welcomes if isinstance(w, Welcome))
        joined = self._all(lambda k: Join(self._tables_of(k), clock, samples))
        return max([clock, *(d.clock for d in joined if isinstance(d, Done))])  # time has gone on since the Welcome

    def seed(self, dense: Mapping[TableName, Values]) -> None:
        """Offer the dense tensors' starts, float32[1, dim] each; the first client's stay."""
        futures = [self._channels[self._placed[n]].request(Seed(n), [v]) for n, v in dense.items()]
        for future in futures:
            _wait(future, self._timeout, "Seed")

    def mean_samples(self) -> float:
        """Wait until all clients have joined, and return how many samples one has on average; 0 if none said.

        Raises:
            WireError: the answer is no number of samples.
        """
        answer = _wait(self._channels[0].request(Census()), None, "Census").message  # the server ends the wait
        if not isinstance(answer, Counted):
            raise WireError(f"Census was answered by {answer}")
        return answer.mean

    def pull(self, wanted: Mapping[TableName, Keys], after: int = -1) -> PullTicket:
        """Ask for rows (dense: NO_KEYS for the tensor) once step or window `after` is applied."""
        pieces: list[Piece] = []
        shapes = {n: (max(len(k), 1) if n in self._placed else len(k), self._specs[n].dim) for n, k in wanted.items()}
        for shard, channel in enumerate(self._channels):
            mine = [(n, k, self._slots(n, k, shard)) for n, k in wanted.items() if self._placed.get(n, shard) == shard]
            for cut in self._cut([(n, k[at], at) for n, k, at in mine]):
                tables = tuple(n for n, _, _ in cut)
                future = channel.request(Pull(tables, after, self._answer_form), [k for _, k, _ in cut])
                pieces.append((shard, future, tables, [_place(at, n in self._placed) for n, _, at in cut]))
        return PullTicket(pieces, shapes, "Pull")

    def push(
        self, changes: Mapping[TableName, Rows], clock: int | Mapping[int, int], weight: float = 1.0, rate: float = 1.0
    ) -> PushTicket:
        """Send gradients or changes; every shard gets a push, if only an empty one.

        Args:
            changes: by table.
            clock: the step or window they are of, or for each shard the clock of the pull they started from.
            weight: of this client in a weighted mean.
            rate: the share of the tables' learning rates to take.
        """
        self._sequence += 1
        changes = self._compressor.take_up(changes, self._sequence)
        futures = []
        for shard, channel in enumerate(self._channels):
            mine = []
            for name, (keys, values) in changes.items():
                if self._placed.get(name, shard) == shard:
                    at = self._slots(name, keys, shard)
                    mine.append((name, keys[at], _rows(values, at, name in self._placed)))
            cuts, at_clock = self._cut(mine), clock if isinstance(clock, int) else clock[shard]
            for part, cut in enumerate(cuts):
                tables = tuple(n for n, _, _ in cut)
                packed = [self._compressor.pack(n, k, v, shard) for n, k, v in cut]
                forms = tuple(form for form, _ in packed) if any(form != "none" for form, _ in packed) else ()
                message = Push(tables, self._sequence, at_clock, weight, part, len(cuts), forms, rate)
                arrays = [a for (_, k, _), (_, values) in zip(cut, packed, strict=True) for a in (k, *values)]
                futures.append(channel.request(message, arrays))
        return PushTicket(futures, "Push")

    def barrier(self, epoch: int, stage: str) -> int:
        """Wait, without limit of time, until every client is here; return the clock to go on from."""
        return max(d.clock for d in self._all(lambda _: Barrier(epoch, stage), None) if isinstance(d, Done))

    def leave(self) -> None:
        """Take no further part."""
        self._all(lambda _: Leave())

    def close(self) -> None:
        """Hang up everywhere."""
        for channel in self._channels:
            channel.close()

    def _all(self, message: Any, timeout: float | None = 0) -> list[Any]:
        limit = self._timeout if timeout == 0 else timeout
        sent: list[tuple[Request, Future[Frame]]] = []
        for shard, channel in enumerate(self._channels):
            request = message(shard)
            sent.append((request, channel.request(request)))
        return [_wait(future, limit, type(request).__name__).message for request, future in sent]

    def _tables_of(self, shard: int) -> tuple[TableSpec, ...]:
        return tuple(s for n, s in self._specs.items() if self._placed.get(n, shard) == shard)

    def _cut(self, mine: list[Piecewise]) -> list[list[Piecewise]]:
        width = sum(4 * self._specs[n].dim + 8 for n, _, _ in mine if n not in self._placed)
        return _cut(mine, max(1, min(PART_ROWS, PART_BYTES // max(width, 1))))

    def _slots(self, table: TableName, keys: Keys, shard: int) -> NDArray[np.int64] | slice:
        if table in self._placed or len(self._channels) == 1:
            return slice(None)
        return np.flatnonzero(keys % len(self._channels) == shard)


def _place(at: NDArray[np.int64] | slice, dense: bool) -> NDArray[np.int64] | slice:
    return slice(0, 1) if dense else at


def _rows(values: Values, at: NDArray[np.int64] | slice, dense: bool) -> Values:
    return values if dense or isinstance(at, slice) else values[at]


def _cut(mine: list[Piecewise], part: int) -> list[list[Piecewise]]:
    """Cut into messages of at most `part` rows a table; the first names every table."""
    longest = max((len(k) for _, k, _ in mine), default=0)
    if longest <= part:
        return [mine]
    cuts = []
    for start in range(0, longest, part):
        piece = slice(start, start + part)
        rows = [(n, k[piece], _piece(x, piece, len(k))) for n, k, x in mine if len(k) > start or start == 0]
        cuts.append(rows)
    return cuts


def _piece(rows: Any, piece: slice, length: int) -> Any:
    if isinstance(rows, slice):
        return slice(piece.start, min(piece.stop, length))
    return rows[piece] if length else rows


def _wait(future: "Future[Frame]", timeout: float | None, what: str) -> Frame:
    try:
        return future.result(timeout)
    except FutureTimeoutError:
        raise LostError(f"{what} was not answered within {timeout:g} s: is a server or another client stuck?") from None
