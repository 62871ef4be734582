"""One worker's connection to a parameter server: reads its requests in order, checks each whole, and answers it.

Whatever is wrong with a message is answered by `Refused`, never raised, and nothing of it is applied. What the server
keeps for a connection (parts of a push, answers that wait) is bounded, and goes when the connection does.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from fedps.errors import LimitError, RefusedError, TableError, WireError
from fedps.server import checks
from fedps.server.members import Member
from fedps.server.parts import HalfPush
from fedps.table.store import refusal
from fedps.types import ClientId, TableName
from fedps.wire.compress import ARRAYS, Form, sides, to_bf16, to_fp16, unpack
from fedps.wire.frame import Frame
from fedps.wire.messages import (
    PROTOCOL,
    Barrier,
    Census,
    Counted,
    Done,
    Hello,
    Join,
    Leave,
    Message,
    Pull,
    Push,
    Refused,
    Seed,
    Values,
    Welcome,
)
from fedps.wire.session import Peer

if TYPE_CHECKING:
    from fedps.server.server import ParameterServer

Array = NDArray[Any]
Send = Callable[[bytes | None], None]
MAX_REASON = 600  # characters: names that peers choose come back in reasons, and go into events


class Connection:
    """One peer.

    Args:
        server: whose tables it speaks of.
        send: takes each answer; None hangs up.
        address: the peer's, for events before it has said its name.

    Attributes:
        opened_at: when it began, seconds, monotonic.
    """

    def __init__(self, server: "ParameterServer", send: Send, address: str) -> None:
        self.opened_at = time.monotonic()
        self._server, self._send, self._address = server, send, address
        self._peer = Peer(server.limits)
        self._member: Member | None = None
        self._half = HalfPush(server.limits)
        self._waiting = self._waiting_bytes = 0  # pulls whose window is not merged yet, and their answers
        self._open = True

    @property
    def client(self) -> ClientId | None:
        """Who speaks, once greeted."""
        return self._peer.client

    @property
    def instance(self) -> str | None:
        """The process that speaks, once greeted."""
        return self._peer.instance

    def received(self, data: bytes) -> None:
        """Handle one message; whatever is wrong with it is answered, never raised."""
        if not self._open:
            return  # hung up on; what was under way is nobody's any more
        try:
            self._handle(self._peer.receive(data))
        except (RefusedError, WireError, TableError) as error:
            self.refuse(self._peer.ticket, error)

    def closed(self) -> None:
        """Note that the peer is gone; its member may come back within the job's `reconnect_timeout`."""
        if self._open:
            self._open = False
            self._half.drop()
            self._server.forget(self)

    def hang_up(self) -> None:
        """End the connection from this side."""
        if self._open:
            self.closed()
            self._send(None)

    def enter(self, ticket: int, join: Join) -> None:
        """Make the client a member and answer its Join."""
        self._member = self._server.members.join(self.known, self.instance or "", join.clock, join.samples)
        self.reply(ticket, Done(self._server.clock))

    def reply(self, ticket: int, message: Message, arrays: Sequence[Array] = ()) -> None:
        """Answer a request, unless the peer is gone."""
        if self._open:
            self._send(self._peer.reply(ticket, message, arrays))

    def refuse(self, ticket: int, error: RefusedError | WireError | TableError) -> None:
        """Count, report and answer a refusal."""
        if not isinstance(error, RefusedError):
            too_large = isinstance(error, LimitError)
            kind = "too_large" if too_large else "malformed" if isinstance(error, WireError) else "mismatch"
            error = RefusedError(kind, str(error))
        reason = error.reason if len(error.reason) <= MAX_REASON else error.reason[:MAX_REASON] + "…"
        self._server.count_refusal((self.client or self._address)[: checks.MAX_NAME], error.kind, reason)
        self.reply(ticket, Refused(error.kind, reason))

    def _handle(self, frame: Frame) -> None:
        server, ticket = self._server, frame.ticket
        match frame.message:
            case Hello() as hello:
                self._greet(hello)
                self.reply(ticket, Welcome(server.shard, server.shards, server.clock))
            case Join() as join:
                server.join(self, ticket, join)
            case Seed(table):
                checks.values(table, frame.arrays[0])
                server.store.seed(table, frame.arrays[0])
                self.reply(ticket, Done(server.clock))
            case Census():
                server.census(self._joined, lambda mean: self.reply(ticket, Counted(mean)))
            case Pull() as pull:
                self._pull(ticket, pull, frame.arrays)
            case Push() as push:
                self.reply(ticket, self._push(push, frame.arrays))
            case Barrier() as barrier:
                stop = checks.barrier(barrier, server.job.runner.epochs)
                server.stop_at(self, self._joined, stop, lambda: self.reply(ticket, Done(server.clock)))
            case Leave():
                server.members.leave(self.known)
                self.reply(ticket, Done(server.clock))
                server.advance(time.monotonic())
            case other:
                raise RefusedError("order", f"{type(other).__name__} is nothing to say to a server")

    def _greet(self, hello: Hello) -> None:
        server = self._server
        if hello.protocol != PROTOCOL or hello.job != server.job.name or hello.to != "server":
            raise RefusedError(
                "other_job",
                f"this is a server of job {server.job.name!r} with protocol {PROTOCOL}; you said {hello.job[:99]!r} with"
                f" {hello.protocol}: check the server's address and the versions of fedps",
            )
        checks.hello(hello)
        server.greet(self, ClientId(hello.client), hello.instance)

    @property
    def known(self) -> ClientId:
        """Who speaks. Raises RefusedError before Hello."""
        if self.client is None:
            raise RefusedError("order", "say Hello first")
        return self.client

    @property
    def _joined(self) -> Member:
        if self._member is None or self._server.members.get(self.known) is not self._member:
            raise RefusedError("order", f"client {self.client!r} has left or was given up as lost: join again")
        return self._member

    def _push(self, push: Push, arrays: Sequence[Array]) -> Done:
        member, server = self._joined, self._server
        checks.push(push, server.limits, server.job.runner.sync_mode in ("sync", "async"))
        if push.sequence <= member.sequence:
            return Done(server.clock)  # a repeat: it was applied when it first came
        if push.sequence > member.sequence + 1:
            raise RefusedError("stale", f"push {push.sequence} follows {member.sequence}: one in between is missing")
        if server.gate and push.clock > server.gate.clock + server.gate.ahead:
            raise RefusedError("stale", f"clock {push.clock} is too far ahead of {server.gate.clock}")
        if member.stop is not None:
            raise RefusedError("order", f"client {self.client!r} stands at a barrier: wait for its answer")
        try:
            arrays = self._plain(push, arrays)
            for table, keys, values in zip(push.tables, arrays[::2], arrays[1::2], strict=True):
                self._check(table, keys, values)
            offer = self._half.add(push, arrays)
            if offer is None:
                return Done(server.clock)
            self._check_tables(set(offer))
            return server.push(self.known, member, push, offer)
        except (RefusedError, TableError, WireError):
            self._half.drop()
            raise

    def _plain(self, push: Push, arrays: Sequence[Array]) -> Sequence[Array]:
        """Return keys and float32 values for each table, however they came; no more than a message may hold of these."""
        if not push.forms:
            return arrays
        left, plain, room = iter(arrays), list[Array](), self._server.limits.message_bytes
        for table, form in zip(push.tables, push.forms, strict=True):
            keys, packed = next(left), [next(left) for _ in ARRAYS[form]]
            self._check(table, keys, None)
            spec = self._server.store.spec(table)
            shape = sides(spec, len(keys))
            room = checks.unpacked(table, shape, room)
            values = unpack(form, packed, shape)
            plain += keys, values if form == "none" else values.reshape(-1, spec.dim)
        return plain

    def _check_tables(self, pushed: set[TableName]) -> None:
        absent = sorted(set(self._server.store.names()) - pushed)
        if absent:
            raise RefusedError("mismatch", f"a push carries every table of its shard; {', '.join(absent)} is missing")

    def _check(self, table: TableName, keys: Array, values: Array | None) -> None:
        server = self._server
        if table not in server.store.names():
            raise RefusedError("unknown_table", f"no table {table!r} here; there are {', '.join(server.store.names())}")
        wrong = refusal(server.store.spec(table), keys, values, server.shard, server.shards)
        if wrong:
            remedy = f": {checks.DIVERGED}" if wrong[0] == "not_finite" else ""
            raise RefusedError(wrong[0], f"table {table!r}: {wrong[1]}{remedy}")
        if values is not None:
            checks.values(table, values)

    def _pull(self, ticket: int, pull: Pull, arrays: Sequence[Array]) -> None:
        server, limits = self._server, self._server.limits
        for table, keys in zip(pull.tables, arrays, strict=True):
            self._check(table, keys, None)
        wanted = dict(zip(pull.tables, arrays, strict=True))
        size = checks.answer_bytes({t: server.store.spec(t) for t in wanted}, wanted, limits)
        if server.is_merged(pull.after):
            self._answer(ticket, pull, arrays)
            return
        if server.gate and pull.after > server.clock + server.gate.ahead:
            raise RefusedError("stale", f"after {pull.after} is too far ahead of clock {server.clock}")
        size += sum(a.nbytes for a in arrays) + checks.OVERHEAD // 64
        if self._waiting >= limits.waiting or self._waiting_bytes + size > limits.held_bytes:
            raise RefusedError(
                "too_large",
                f"{self._waiting} pulls with answers of {self._waiting_bytes} bytes wait already; the limits are"
                f" {limits.waiting} pulls and {limits.held_bytes} bytes: ask again once some are answered",
            )
        self._waiting, self._waiting_bytes = self._waiting + 1, self._waiting_bytes + size

        def answer() -> None:
            self._waiting, self._waiting_bytes = self._waiting - 1, self._waiting_bytes - size
            self._answer(ticket, pull, arrays)

        server.wait_for(pull.after, self, answer)

    def _answer(self, ticket: int, pull: Pull, arrays: Sequence[Array]) -> None:
        """Send the rows; called from another client's turn too, so that what goes wrong is this client's alone."""
        try:
            store = self._server.store
            values = [store.pull(table, keys) for table, keys in zip(pull.tables, arrays, strict=True)]
        except TableError as error:
            self.refuse(ticket, error)
        else:
            self.reply(ticket, *self._packed(pull, values))

    def _packed(self, pull: Pull, values: Sequence[Array]) -> tuple[Values, Sequence[Array]]:
        server = self._server
        if pull.form == "none":
            return Values(pull.tables, clock=server.clock), values
        halved, spec = to_fp16 if pull.form == "fp16" else to_bf16, server.store.spec
        sparse = [spec(table).kind == "sparse" for table in pull.tables]
        forms: list[Form] = [pull.form if rows else "none" for rows in sparse]
        packed = [halved(v) if rows else v for v, rows in zip(values, sparse, strict=True)]
        return Values(pull.tables, tuple(forms), server.clock), packed
