"""One set of tables over many servers: requests are split by shard, answers laid together again.

A sparse row lives on shard `key % shards`. A dense tensor lives whole on one shard, so that a rule or a merge that
needs a tensor's norm finds all of it in one place; tensors are dealt out by size.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedps.errors import LostError, WireError
from fedps.net.compressing import NOTHING, Compression, Compressor
from fedps.types import Keys, Rows, State, TableName, TableSpec, Values
from fedps.wire.compress import ARRAYS, Array, Form, plain, unpack
from fedps.wire.frame import Frame, Limits
from fedps.wire.messages import (
    Alive,
    Barrier,
    Census,
    Counted,
    Done,
    Figures,
    Join,
    Leave,
    Pull,
    Push,
    Request,
    Seed,
    Welcome,
)
from fedps.wire.messages import Values as Answer
from fedps.wire.pieces import Piece, Room, cut_rows, cut_tensors, placement

Note = Callable[
    [int, Answer, Sequence[Piece], Sequence[Values]], None
]  # takes a server, its answer, and what that is of


class Transport(Protocol):
    """A connection to one shard, however messages travel: `net.channel` over gRPC, `net.inprocess` within a process.

    Attributes:
        limits: what a message may be.
        welcome: the server's answer to Hello.
        bytes_sent, bytes_received: of messages.
        retries: how often the connection was opened again.
    """

    limits: Limits
    bytes_sent: int
    bytes_received: int
    retries: int

    @property
    def welcome(self) -> "Future[Frame]":
        """The server's answer to Hello."""

    def request(self, message: Request, arrays: Sequence[NDArray[Any]] = ()) -> "Future[Frame]":
        """Send a request; the future holds the reply, or RefusedError, LimitError or LostError."""

    def close(self) -> None:
        """Hang up; open requests fail."""


class PullTicket:
    """Rows under way from all shards.

    Attributes:
        seconds: that all of it may be under way, with the push before it; deadlines are later by as much.
        clocks: what each shard's clock was when it read the rows, once `result` is there; of several answers the oldest.
    """

    def __init__(
        self, requests: Sequence[tuple[int, "Future[Frame]", list[Piece]]], shapes: Mapping[TableName, tuple[int, int]],
        seconds: float = 0.0, note: Note | None = None,
    ) -> None:  # fmt: skip
        self._requests, self._shapes, self.seconds, self._note = requests, shapes, seconds, note
        self.clocks: dict[int, int] = {}

    @property
    def futures(self) -> "set[Future[Frame]]":
        """The answers that are to come."""
        return {future for _, future, _ in self._requests}

    def result(self, timeout: float) -> dict[TableName, Values]:
        """Wait and return float32[U, dim] for each table, in the order of its keys (dense: [1, dim]); to be read only.

        Raises:
            LostError: no answer within `timeout` seconds.
            RefusedError: a server refused.
            WireError: a server answered with other rows than were asked for.
        """
        out = {name: np.empty(shape, np.float32) for name, shape in self._shapes.items()}
        for shard, future, pieces in self._requests:
            frame, tables = _wait(future, timeout + self.seconds, "Pull"), _tables(pieces)
            answer = frame.message
            if not isinstance(answer, Answer) or answer.tables != tables:
                raise WireError(f"Pull of {tables} was answered by {answer}")
            self.clocks[shard] = min(answer.clock, self.clocks.get(shard, answer.clock))
            arrays, came = iter(frame.arrays), list[Values]()
            for (table, _, at, due), form in zip(pieces, answer.forms or plain(tables), strict=True):
                values = unpack(form, [next(arrays) for _ in ARRAYS[form]], due)
                if values.shape != due:
                    raise WireError(f"Pull of {table!r} brought {values.shape}, due {due}")
                came.append(values)
                if values.shape == self._shapes[table]:
                    out[table] = values  # the whole of it, as it came
                elif values.size:
                    out[table][at] = values
            if self._note is not None:
                self._note(shard, answer, pieces, came)
        return out


class PushTicket:
    """A push under way to all shards, to none if they have it already; `seconds` as for a pull."""

    def __init__(self, futures: Sequence["Future[Frame]"], seconds: float = 0.0) -> None:
        self._futures, self._seconds = futures, seconds

    @property
    def futures(self) -> "set[Future[Frame]]":
        """The answers that are to come."""
        return set(self._futures)

    def result(self, timeout: float) -> Done:
        """Wait until every shard has taken the push; `late` if any says so, `clock` the furthest.

        Raises:
            LostError: no answer within `timeout` seconds.
            RefusedError: a server refused.
        """
        answers = [_wait(f, timeout + self._seconds, "Push").message for f in self._futures]
        done = [a for a in answers if isinstance(a, Done)]
        return Done(max((d.clock for d in done), default=0), any(d.late for d in done))


class Shards:
    """A client's view of all servers.

    Args:
        channels: one a shard, in order.
        specs: the shared tables.
        timeout: seconds to wait for a join, a seed or a leave to be answered.
        compression: how values travel, both ways.

    Attributes:
        sequence: of the last push; all servers get the same, if only an empty one.
        taken: of the last push that each server has, perhaps from a process before this one; none up to it is sent again.
        note: takes all that pulls bring, as it comes; None: nobody does.
    """

    def __init__(
        self, channels: Sequence[Transport], specs: Sequence[TableSpec], timeout: float = 300.0,
        compression: Compression = NOTHING,
    ) -> None:  # fmt: skip
        self._channels, self._timeout = channels, timeout
        self._specs = {s.name: s for s in specs}
        self._placed = placement(specs, len(channels))
        self._room = [Room.of(channel.limits) for channel in channels]
        self._tensors = [
            cut_tensors([s for s in specs if self._placed.get(s.name) == shard], room.floats)
            for shard, room in enumerate(self._room)
        ]
        self.sequence, self.taken = 0, [0] * len(channels)
        self.note: Note | None = None
        self._pushing = 0.0  # seconds that the last push may be under way
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

    @property
    def ended(self) -> int:
        """The last epoch that had ended at all servers when they greeted; they are waited for.

        Raises:
            LostError: one does not greet in time.
        """
        return min(w.epoch for w in self._welcomes())

    @property
    def repeats(self) -> int:
        """How many of the next pushes servers have, from a process of this client that got further than this one."""
        return max(0, max(self.taken) - self.sequence)

    def repeat_from(self, sequence: int | None) -> None:
        """Go again through all behind a push, whose number a checkpoint knows; None: through nothing that servers have."""
        self.sequence = max(self.sequence, *self.taken) if sequence is None else sequence

    def state(self) -> State:
        """Return what pushes have left unsent; how many there were, the servers say."""
        return self._compressor.state()

    def restore(self, state: State) -> None:
        """Go on from what `state` returned."""
        self._compressor.restore(state)

    def join(self, samples: int = 0, again: bool = False) -> int:
        """Declare the tables everywhere and take part; return the clock to begin at.

        Args:
            samples: of a pass over the client's data, where clients train in step.
            again: go again through all that servers have of this client, which may have had other processes.
        """
        clock = max(w.clock for w in self._welcomes())
        joined = [d for d in self._all(lambda k: Join(self._tables_of(k), clock, samples)) if isinstance(d, Done)]
        self.taken = [done.sequence for done in joined]
        self.repeat_from(0 if again else None)
        return max([clock, *(d.clock for d in joined)])  # time has gone on since the Welcome

    def seed(self, starts: Mapping[TableName, Values]) -> None:
        """Offer what tensors start from, float32[1, dim] each, and all rows of tables, float32[rows, dim]; the first stay."""
        futures = list[Future[Frame]]()
        for name, values in starts.items():
            if name not in self._placed:
                futures += self._seed_rows(name, values)
                continue
            shard = self._placed[name]
            for piece in self._tensors[shard][name].values():
                first, _ = self._specs[name].span(piece.keys)
                futures.append(self._channels[shard].request(Seed(name, first), [values[piece.at]]))
        for future in futures:
            _wait(future, self._timeout, "Seed")

    def _seed_rows(self, name: TableName, rows: Values) -> Iterator["Future[Frame]"]:
        """Offer a table's rows, to each shard its own, every so many-th."""
        shards = len(self._channels)
        for shard, channel in enumerate(self._channels):
            most = self._room[shard].rows([self._specs[name]])
            for first in range(shard, len(rows), most * shards):
                piece = np.ascontiguousarray(rows[first : first + most * shards : shards])
                yield channel.request(Seed(name, first), [piece])

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
        requests = []
        for shard, channel in enumerate(self._channels):
            for pieces in self._messages(wanted, shard):
                pull = Pull(_tables(pieces), after, self._answer_form)
                requests.append((shard, channel.request(pull, [piece.keys for piece in pieces]), pieces))
        shapes = {n: self._shape(n, keys) for n, keys in wanted.items()}
        size = sum(4 * rows * columns for rows, columns in shapes.values()) + sum(k.nbytes for k in wanted.values())
        return PullTicket(requests, shapes, self._seconds(size) + self._pushing, self.note)

    def push(
        self, changes: Mapping[TableName, Rows], clock: int | Mapping[int, int], weight: float = 1.0, rate: float = 1.0
    ) -> PushTicket:
        """Send gradients or changes; every shard gets a push, if only an empty one. What servers have already is not sent.

        Args:
            changes: by table.
            clock: the step or window they are of, or for each shard the clock of the pull they started from.
            weight: of this client in a weighted mean.
            rate: the share of the tables' learning rates to take.
        """
        self.sequence += 1
        changes = self._compressor.begin(changes, self.sequence)
        keys, futures = {name: rows.keys for name, rows in changes.items()}, []
        for shard, channel in enumerate(self._channels):
            messages, at_clock = self._messages(keys, shard), clock if isinstance(clock, int) else clock[shard]
            for part, pieces in enumerate(messages):
                forms, arrays = self._pack(pieces, changes, shard)  # whether it is sent or not: the next depend on it
                if self.sequence <= self.taken[shard]:
                    continue
                push = Push(_tables(pieces), self.sequence, at_clock, weight, part, len(messages), forms, rate)
                futures.append(channel.request(push, arrays))
        self._pushing = self._seconds(sum(r.keys.nbytes + r.values.nbytes for r in changes.values()))
        return PushTicket(futures, self._pushing)

    def alive(self) -> None:
        """Tell every server that this client is at work; no answer is waited for."""
        for channel in self._channels:
            channel.request(Alive())

    def barrier(self, epoch: int, stage: str, figures: Figures | None = None) -> int:
        """Wait, without limit of time, until every client is here; return the clock to go on from.

        Args:
            epoch: counted from 1.
            stage: `trained` or `evaluated`.
            figures: what server 0 is told of the epoch.
        """
        done = self._all(lambda k: Barrier(epoch, stage, figures if k == 0 else None), None)
        return max(d.clock for d in done if isinstance(d, Done))

    def leave(self) -> None:
        """Take no further part."""
        self._all(lambda _: Leave())

    def close(self) -> None:
        """Hang up everywhere."""
        for channel in self._channels:
            channel.close()

    def _seconds(self, size: int) -> float:
        return self._channels[0].limits.seconds(size)

    def _welcomes(self) -> list[Welcome]:
        answers = [_wait(c.welcome, self._timeout, "Hello").message for c in self._channels]
        return [answer for answer in answers if isinstance(answer, Welcome)]

    def _all(self, message: Any, timeout: float | None = 0) -> list[Any]:
        limit = self._timeout if timeout == 0 else timeout
        sent: list[tuple[Request, Future[Frame]]] = []
        for shard, channel in enumerate(self._channels):
            request = message(shard)
            sent.append((request, channel.request(request)))
        return [_wait(future, limit, type(request).__name__).message for request, future in sent]

    def _tables_of(self, shard: int) -> tuple[TableSpec, ...]:
        return tuple(s for n, s in self._specs.items() if self._placed.get(n, shard) == shard)

    def _shape(self, table: TableName, keys: Keys) -> tuple[int, int]:
        return 1 if table in self._placed else len(keys), self._specs[table].dim

    def _messages(self, wanted: Mapping[TableName, Keys], shard: int) -> list[list[Piece]]:
        """Cut what one shard holds of some tables into messages, of which there is one at least.

        The k-th message carries the k-th rows of every table, and the k-th piece of the dense tensors laid end to end.
        """
        mine = {name: keys for name, keys in wanted.items() if self._placed.get(name, shard) == shard}
        most = self._room[shard].rows([self._specs[name] for name in mine])
        messages: list[list[Piece]] = [[]]
        for name, keys in mine.items():
            if name in self._placed:
                pieces = self._tensors[shard][name]
            else:
                pieces = cut_rows(self._specs[name], keys, most, shard, len(self._channels))
            for number, piece in pieces.items():
                while number >= len(messages):
                    messages.append([])
                messages[number].append(piece)
        return [pieces for pieces in messages if pieces] or [[]]

    def _pack(
        self, pieces: Sequence[Piece], changes: Mapping[TableName, Rows], shard: int
    ) -> tuple[tuple[Form, ...], list[Array]]:  # fmt: skip
        """Return the forms and the arrays of one message of a push; no forms where nothing is packed."""
        forms, arrays = list[Form](), list[Array]()
        for table, keys, at, _ in pieces:
            form, values = self._compressor.pack(table, keys, changes[table].values[at], shard)
            forms.append(form)
            arrays += [keys, *values]
        return (tuple(forms) if any(form != "none" for form in forms) else ()), arrays


def _tables(pieces: Sequence[Piece]) -> tuple[TableName, ...]:
    return tuple([piece.table for piece in pieces])


def _wait(future: "Future[Frame]", timeout: float | None, what: str) -> Frame:
    try:
        return future.result(timeout)
    except FutureTimeoutError:
        raise LostError(
            f"{what} was not answered within {round(timeout or 0, 2):g} s: is a server or another client stuck?"
        ) from None
