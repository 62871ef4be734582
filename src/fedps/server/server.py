"""The parameter server of one shard: messages in, tables changed, replies out.

It knows no sockets: `net` hands it connections with bytes, calls `tick` now and then for deadlines, and all calls
come from one thread. It trusts nobody's payload: a request is checked whole before any of it is applied, and a bad
one is answered by `Refused`, counted, and told to the run with the client's name; all others are served on.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedps.config import Job
from fedps.errors import LimitError, RefusedError, TableError, WireError
from fedps.server.gate import Offer, WindowGate, windowed_merge
from fedps.server.members import Member, Members
from fedps.server.merge import Contribution
from fedps.table import snapshot
from fedps.table.store import Store, refusal
from fedps.tracking import Report
from fedps.types import ClientId
from fedps.wire.frame import Frame, Limits
from fedps.wire.messages import (
    PROTOCOL,
    Barrier,
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

Array = NDArray[Any]
MAX_AHEAD = 2  # windows a client may be ahead of the open one: it trains one while the last is merged


class ParameterServer:
    """All tables of one shard and the rules of one job.

    Args:
        job: the job; its mode decides the gate.
        shard: this server's number, from 0.
        run_dir: the run's folder; tables are saved under `model/<epoch>/`.
        report: where events go.
    """

    def __init__(self, job: Job, shard: int, run_dir: Path, report: Report) -> None:
        runner = job.runner
        self.job, self.shard, self.shards = job, shard, runner.server_num
        self.run_dir, self.report = run_dir, report
        self.limits = Limits(message_bytes=job.limits.message_mib << 20)
        self.store = Store()
        combine = windowed_merge(runner)
        self.gate = WindowGate(combine) if combine else None
        self.members = Members(expected=runner.worker_num or 1)
        self.rejected = 0
        self.connections: dict[ClientId, Connection] = {}
        self._waiting: list[tuple[int, Callable[[], None]]] = []  # pulls, by the clock they wait for
        self._stopped: list[Callable[[], None]] = []  # replies to those who stand at the barrier
        self._started = time.monotonic()

    @property
    def clock(self) -> int:
        """The step or window now open; 0 where pushes are applied at once."""
        return self.gate.clock if self.gate else 0

    def opened(self, send: Callable[[bytes], None], peer: str) -> "Connection":
        """Begin a connection; `send` may be used until it is closed."""
        return Connection(self, send, peer)

    def tick(self, now: float) -> None:
        """Enforce the deadlines. `now`: seconds, monotonic."""
        runner = self.job.runner
        if not self.members.complete and len(self.members) and now - self._started > runner.start_timeout:
            self.members.expect(len(self.members))
            self.advance(now)
        for client in self.members.lost(now, runner.reconnect_timeout):
            self.members.leave(client)
            self.report({"event": "lost", "client": client, "reason": "its connection broke and did not come back"})
            self.advance(now)
        gate = self.gate
        if gate and gate.opened_at is not None and now - gate.opened_at > runner.step_timeout:
            for client in gate.missing(self.members.active(gate.clock)):
                member = self.members.get(client)
                if member:
                    member.suspended = True
                    self.report({"event": "suspended", "client": client, "clock": gate.clock})
            self.advance(now)

    def push(self, client: ClientId, member: Member, push: Push, offer: Offer) -> Done:
        """Take a whole, checked push: apply it, or keep it until its window closes."""
        member.sequence = push.sequence
        if self.gate is None:
            scale = self._scale()
            for name, change in offer.items():
                values = change.values if scale == 1.0 else change.values * np.float32(scale)
                self.store.push(name, change.keys, values)
            return Done()
        if member.suspended or push.clock < self.gate.clock:
            member.suspended, member.since = False, self.gate.clock
            return Done(clock=self.gate.clock, late=True)
        now = time.monotonic()
        self.gate.offer(client, push.clock, offer, now)
        self.advance(now)
        return Done(clock=self.gate.clock)

    def _scale(self) -> float:
        runner = self.job.runner
        mean = runner.sync_mode == "geo" and runner.geo_merge == "mean"
        return 1 / (runner.worker_num or 1) if mean else 1.0

    def wait_for(self, clock: int, answer: Callable[[], None]) -> None:
        """Answer now if `clock` has been applied, else when it has."""
        if self.gate is None or clock < self.gate.clock:
            answer()
        else:
            self._waiting.append((clock, answer))

    def stop_at(self, member: Member, barrier: Barrier, answer: Callable[[], None]) -> None:
        """Let a member stand at a barrier; `answer` is called when all are there."""
        member.stop = (barrier.epoch, barrier.stage)
        self._stopped.append(answer)
        self.advance(time.monotonic())

    def advance(self, now: float) -> None:
        """Close every window and barrier that is complete, and answer those who waited for it."""
        while self.gate and self.members.complete:
            merged = self.gate.close(self.members.active(self.gate.clock), now)
            if merged is None:
                break
            for name, rows in merged.items():
                self.store.push(name, rows.keys, rows.values)
            ready = [answer for clock, answer in self._waiting if clock < self.gate.clock]
            self._waiting = [w for w in self._waiting if w[0] >= self.clock]
            for answer in ready:
                answer()
        stop = self.members.gathered
        if stop is not None:
            if stop[1] == "trained":
                self.save(stop[0])
            self.members.go_on(self.clock)
            answers, self._stopped = self._stopped, []
            for answer in answers:
                answer()

    def save(self, epoch: int) -> None:
        """Write this shard's tables to `model/<epoch>/server-<shard>`."""
        facts = {"epoch": epoch, "shard": self.shard, "shards": self.shards, "job": self.job.name}
        folder = self.run_dir / "model" / str(epoch)
        snapshot.save(folder, f"server-{self.shard}", self.store.export(), facts)
        self.report({"event": "saved", "epoch": epoch, "folder": str(folder)})

    def refuse(self, client: str | None, peer: str, error: RefusedError) -> Refused:
        """Count and report a refusal; return the reply that says so."""
        self.rejected += 1
        self.report({"event": "refused", "client": client or peer, "kind": error.kind, "reason": error.reason})
        return Refused(error.kind, error.reason)


class Connection:
    """One worker's connection: reads its requests in order and answers each."""

    def __init__(self, server: ParameterServer, send: Callable[[bytes], None], peer: str) -> None:
        self._server, self._send, self._address = server, send, peer
        self._peer = Peer(server.limits)
        self._member: Member | None = None
        self._parts: dict[str, list[Contribution]] = {}  # a push of which not all parts are in
        self._next_part = 0
        self._open = True

    def received(self, data: bytes) -> None:
        """Handle one message; whatever is wrong with it is answered, never raised."""
        try:
            self._handle(self._peer.receive(data))
        except RefusedError as error:
            self._refuse(self._peer.ticket, error)
        except LimitError as error:
            self._refuse(self._peer.ticket, RefusedError("too_large", str(error)))
        except WireError as error:
            self._refuse(self._peer.ticket, RefusedError("malformed", str(error)))
        except TableError as error:
            self._refuse(self._peer.ticket, RefusedError("mismatch", str(error)))

    def closed(self) -> None:
        """Note that the peer is gone; its member may come back within the job's `reconnect_timeout`."""
        self._open = False
        client = self._peer.client
        if self._member is not None and client is not None and self._server.connections.get(client) is self:
            del self._server.connections[client]
            self._member.lost_at = time.monotonic()

    def _handle(self, frame: Frame) -> None:
        server, ticket = self._server, frame.ticket
        match frame.message:
            case Hello() as hello:
                self._greet(hello)
                self._reply(ticket, Welcome(server.shard, server.shards, server.clock))
            case Join(tables, clock):
                server.store.declare(tables)
                self._member = server.members.join(self._client, self._peer.instance or "", clock)
                self._reply(ticket, Done(server.clock))
            case Seed(table):
                server.store.seed(table, frame.arrays[0])
                self._reply(ticket, Done(server.clock))
            case Pull() as pull:
                self._check_pull(pull, frame.arrays)
                server.wait_for(pull.after, lambda: self._answer(ticket, pull, frame.arrays))
            case Push() as push:
                self._reply(ticket, self._take(push, frame.arrays))
            case Barrier() as barrier:
                server.stop_at(self._joined, barrier, lambda: self._reply(ticket, Done(server.clock)))
            case Leave():
                server.members.leave(self._client)
                self._reply(ticket, Done(server.clock))
                server.advance(time.monotonic())
            case other:
                raise RefusedError("order", f"{type(other).__name__} is a reply, and a client only asks")

    def _greet(self, hello: Hello) -> None:
        server = self._server
        if hello.protocol != PROTOCOL or hello.job != server.job.name:
            raise RefusedError(
                "other_job",
                f"this server runs job {server.job.name!r} with protocol {PROTOCOL}; you said {hello.job!r} with"
                f" {hello.protocol}: check the server's address and the versions of fedps",
            )
        client = ClientId(hello.client)
        other = server.connections.get(client)
        if other is not None and other._peer.instance != hello.instance:
            raise RefusedError(
                "taken", f"another process is connected as client {client!r}: give each worker its own client"
            )
        server.connections[client] = self

    @property
    def _client(self) -> ClientId:
        if self._peer.client is None:
            raise RefusedError("order", "say Hello first")
        return self._peer.client

    @property
    def _joined(self) -> Member:
        if self._member is None or self._server.members.get(self._client) is not self._member:
            raise RefusedError("order", f"client {self._client!r} has left or was given up as lost: join again")
        return self._member

    def _take(self, push: Push, arrays: Sequence[Array]) -> Done:
        member, server = self._joined, self._server
        if push.sequence <= member.sequence:
            return Done(server.clock)  # a repeat: it was applied when it first came
        if push.sequence > member.sequence + 1:
            raise RefusedError("stale", f"push {push.sequence} follows {member.sequence}: one in between is missing")
        if server.gate and push.clock > server.gate.clock + MAX_AHEAD:
            raise RefusedError("stale", f"clock {push.clock} is too far ahead of {server.gate.clock}")
        self._collect(push, arrays)
        if push.part + 1 < push.parts:
            return Done(server.clock)
        offer = {name: _joined_parts(parts) for name, parts in self._parts.items()}
        self._parts, self._next_part = {}, 0
        self._check_whole(offer, cut=push.parts > 1)
        return server.push(self._client, member, push, offer)

    def _collect(self, push: Push, arrays: Sequence[Array]) -> None:
        if push.part == 0:
            self._parts, self._next_part = {}, 0
        if push.part != self._next_part or not 0 < push.weight < float("inf"):
            self._parts, self._next_part = {}, 0
            raise RefusedError(
                "malformed", f"part {push.part} of {push.parts} with weight {push.weight} came out of order"
            )
        for table, keys, values in zip(push.tables, arrays[::2], arrays[1::2], strict=True):
            self._check(table, keys, values)
        for table, keys, values in zip(push.tables, arrays[::2], arrays[1::2], strict=True):
            self._parts.setdefault(table, []).append(Contribution(keys, values, push.weight))
        self._next_part += 1

    def _check_whole(self, offer: Offer, cut: bool) -> None:
        absent = sorted(set(self._server.store.names()) - set(offer))
        if absent:
            raise RefusedError("mismatch", f"a push carries every table of its shard; {', '.join(absent)} is missing")
        for table, change in offer.items() if cut else ():
            self._check(table, change.keys, change.values)  # parts that are right alone may overlap

    def _check_pull(self, pull: Pull, arrays: Sequence[Array]) -> None:
        for table, keys in zip(pull.tables, arrays, strict=True):
            self._check(table, keys, None)

    def _check(self, table: str, keys: Array, values: Array | None) -> None:
        server = self._server
        if table not in server.store.names():
            raise RefusedError("unknown_table", f"no table {table!r} here; there are {', '.join(server.store.names())}")
        wrong = refusal(server.store.spec(table), keys, values, server.shard, server.shards)
        if wrong:
            self._parts, self._next_part = {}, 0
            raise RefusedError(wrong[0], f"table {table!r}: {wrong[1]}")

    def _answer(self, ticket: int, pull: Pull, arrays: Sequence[Array]) -> None:
        if self._open:
            store = self._server.store
            values = [store.pull(table, keys) for table, keys in zip(pull.tables, arrays, strict=True)]
            self._reply(ticket, Values(pull.tables), values)

    def _refuse(self, ticket: int, error: RefusedError) -> None:
        self._reply(ticket, self._server.refuse(self._peer.client, self._address, error))

    def _reply(self, ticket: int, message: Message, arrays: Sequence[Array] = ()) -> None:
        if self._open:
            self._send(self._peer.reply(ticket, message, arrays))


def _joined_parts(parts: list[Contribution]) -> Contribution:
    if len(parts) == 1:
        return parts[0]
    keys = np.concatenate([p.keys for p in parts])
    return Contribution(keys, np.concatenate([p.values for p in parts]), parts[0].weight)
