"""One worker's connection to a parameter server: reads its requests in order, checks each whole, and answers it.

Whatever is wrong with a message is answered by `Refused`, never raised, and nothing of it is applied. What the server
keeps for a connection (parts of a push, answers that wait) is bounded, and goes when the connection does.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from fedps.access.conversation import Conversation, Send
from fedps.errors import RefusedError, TableError, WireError
from fedps.server import checks
from fedps.server.members import Member
from fedps.server.parts import HalfPush
from fedps.table.store import refusal
from fedps.types import TableName
from fedps.wire.compress import ARRAYS, Form, sides, to_bf16, to_fp16, unpack
from fedps.wire.frame import Frame
from fedps.wire.messages import (
    Barrier,
    Census,
    Counted,
    Done,
    Hello,
    Join,
    Leave,
    Pull,
    Push,
    Seed,
    Values,
    Welcome,
)

if TYPE_CHECKING:
    from fedps.server.server import ParameterServer

Array = NDArray[Any]


class Connection(Conversation):
    """One peer.

    Args:
        server: whose tables it speaks of.
        send: takes each answer; None hangs up.
        address: the peer's, for events before it has said its name.
    """

    def __init__(self, server: "ParameterServer", send: Send, address: str) -> None:
        super().__init__(server, send, address)
        self._server = server
        self._member: Member | None = None
        self._half = HalfPush(server.limits)
        self._waiting = self._waiting_bytes = 0  # pulls whose window is not merged yet, and their answers

    def closed(self) -> None:
        """Note that the peer is gone; its member may come back within the job's `reconnect_timeout`."""
        self._half.drop()
        super().closed()

    def enter(self, ticket: int, join: Join) -> None:
        """Make the client a member and answer its Join."""
        self._member = self._server.members.join(self.known, self.instance, join.clock, join.samples)
        self._server.roster.enter(self)
        self.reply(ticket, Done(self._server.clock))

    def handle(self, frame: Frame) -> None:
        """Answer one request."""
        server, ticket = self._server, frame.ticket
        match frame.message:
            case Hello() as hello:
                server.greet(self, hello)
                self.reply(ticket, Welcome(server.shard, server.shards, server.clock))
            case Join() as join:
                server.join(self, ticket, join)
            case Seed(table, first):
                checks.values(table, frame.arrays[0])
                server.store.seed(table, frame.arrays[0], first)
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
            offer = self._half.add(push, arrays, server.store.spec)
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
            shape = sides(spec, keys)
            room = checks.unpacked(table, shape, room)
            values = unpack(form, packed, shape)
            if form != "none":
                values = values.reshape(-1, spec.dim) if spec.kind == "sparse" else values.reshape(1, -1)
            plain += keys, values
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
