"""What was said and answered in a history, and what the tables must therefore be.

Each push marks a row of its own, so that in the end it is seen how often it was applied. All sums are exact (see `pushed`):
what the tables must be is compared to the bit.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedps.access.same_table import Seen, Witness, compare
from fedps.events import events
from fedps.server.server import ParameterServer
from fedps.table.store import Store
from fedps.types import NO_KEYS, ClientId, Values
from fedps.wire.messages import Assignment
from fedps.wire.messages import Values as Answer
from fedps.wire.pieces import Piece
from tests.simulation.network import Reply
from tests.simulation.plan import BIAS, BIASES, COLUMNS, ROWS, STEPS, Plan
from tests.simulation.pushed import UNIT, Model, Pushed, merged, windows_of
from tests.simulation.world import World

AMOUNTS = tuple(range(UNIT, 6 * UNIT, UNIT))  # of which each value that is pushed is one


class WrongError(AssertionError):
    """Something happened that must never happen."""


class Look(NamedTuple):
    """What a client saw of a shard in one of its lives, which was at this clock."""

    client: str
    shard: int
    life: int
    clock: int
    rows: Values
    bias: Values | None


class Ledger:
    """Books of a history.

    Args:
        world, plan: of the history.

    Attributes:
        pushes: all that were said.
        fault: what must never happen and has, though whoever called may have caught it.
    """

    def __init__(self, world: World, plan: Plan) -> None:
        self._world, self._plan = world, plan
        self.pushes: list[Pushed] = []
        self._undone: list[Pushed] = []  # that the run went back behind
        self.fault: WrongError | None = None
        self._answered = [Model.empty() for _ in range(plan.servers)]
        self._said = [Model.empty() for _ in range(plan.servers)]
        self._sequences: list[dict[tuple[str, int], list[Pushed]]] = [{} for _ in range(plan.servers)]
        self._looks: list[Look] = []
        self._last: dict[tuple[str, int, int], tuple[int, Values]] = {}  # clock and rows, by client, shard and its life
        self._active = [set[str]() for _ in range(plan.servers)]
        self._standing = [dict[str, Reply]() for _ in range(plan.servers)]  # processes, and what will answer them
        self._opened = [dict[str, Reply]() for _ in range(plan.servers)]  # those that were let go
        self._known: list[dict[int, int]] = [{} for _ in range(plan.servers)]  # clocks that each life began at
        self._processes: dict[str, str] = {}  # the newest of each client
        self._excluded: list[dict[str, float]] = [{} for _ in range(plan.servers)]
        self._rounds: dict[str, tuple[str, int]] = {}  # of each client: its process and the last round assigned to it
        self._told: list[events.Selected | events.Round] = []  # by the coordinator
        self._witnesses: dict[ClientId, Witness] = {}
        self._windows: dict[tuple[int, ...], tuple[Model, Mapping[Pushed, float]]] = {}  # what each comes to, by marks

    def wrong(self, what: str) -> None:
        """Raise that something is wrong."""
        self._world.say(f"WRONG: {what}")
        self.fault = self.fault or WrongError(what)
        raise self.fault

    # What is pushed and pulled.

    def draws(self, client: str, number: int, shard: int, sequence: int, clock: int, weight: float) -> Pushed:
        """Draw what a client pushes to a shard now."""
        chance, plan = self._world.chance, self._plan
        keys = np.array([k for k in range(shard, ROWS, plan.servers) if chance.random() < 0.4], np.int64)
        values = np.array(chance.choices(AMOUNTS, k=len(keys) * COLUMNS), np.float32)
        values = values.reshape(len(keys), COLUMNS)
        bias = np.array([chance.choices(AMOUNTS, k=BIASES)], np.float32) if shard == BIAS else None
        if plan.mode == "adaptive":  # changes at right angles are added up, whole; others are scaled by fractions
            for array in (values, bias):
                if array is not None:
                    array[:, np.arange(array.shape[1]) != number] = 0
        mark = (len(self.pushes) + len(self._undone)) * plan.servers + shard
        said = self._sequences[shard].setdefault((client, sequence), [])
        pushed = Pushed(mark, client, shard, sequence, clock, weight, keys, values, bias, bool(said), self._world.now)
        self.pushes.append(pushed)
        said.append(pushed)
        self._count(self._said, pushed)
        self._world.say(f"{client} pushes {mark}, clock {clock}, to shard {shard}")
        return pushed

    def answered(self, push: Pushed, late: bool) -> None:
        """Note that a push was answered."""
        self._world.say(f"{push} is answered" + (": late" if late else ""))
        push.answered, push.late = True, late
        self._count(self._answered, push)
        if late and not self._plan.gated:
            self.wrong(f"{push} is late, where nothing can be")

    def _count(self, models: Sequence[Model], push: Pushed) -> None:
        """Add a push to what pulls are compared with; where a clock says what they show, that is looked at in the end."""
        if not self._plan.gated:
            models[push.shard].add(push)

    def least(self, shard: int) -> Model | None:
        """Return what a pull that is asked for now must show, None where nothing is told."""
        return None if self._plan.gated or self._plan.mode == "buffered" else self._answered[shard].copy()

    def saw(
        self, process: str, life: int, shard: int, answer: Answer, arrays: Sequence[Values], least: Model | None
    ) -> None:  # fmt: skip
        """Check what a pull brought: nothing goes back, what was answered is there, and nothing that nobody said."""
        rows, clock = arrays[0], answer.clock
        if self._plan.job.runner.versioned:
            self._note(process, shard, answer, arrays)
        before, seen = self._last.get((process, shard, life), (0, rows))
        if clock < before or np.count_nonzero(rows < seen):
            self.wrong(f"{process} saw shard {shard} go back, from clock {before} to {clock}")
        self._last[process, shard, life] = clock, rows
        bias = arrays[1][0] - self._plan.start if shard == BIAS else None
        if self._plan.gated:
            self._looks.append(Look(process, shard, life, clock, rows, bias))
            return
        most, keys, scale = self._said[shard], self._plan.row_keys(shard), self._scale
        within = (rows <= most.rows.take(keys, 0) * scale + 0.5).all() and (
            bias is None or (bias <= most.bias * scale + 0.5).all()
        )
        if not within:
            self.wrong(f"{process} saw at shard {shard} what nobody pushed")
        if least is not None:
            there = (rows >= least.rows.take(keys, 0) * scale).all() and (
                bias is None or (bias >= least.bias * scale).all()
            )
            if not there:
                self.wrong(f"{process} did not see at shard {shard} what had been answered")

    def _note(self, process: str, shard: int, answer: Answer, arrays: Sequence[Values]) -> None:
        """Let a client's witness note what a pull brought, as if all of it was of one round."""
        client = ClientId(client_of(process))
        if client not in self._witnesses:
            self._witnesses[client] = Witness(self._plan.clients)
            self._witnesses[client].begin(b"secret")
        rows, pieces = self._plan.row_keys(shard), list[Piece]()
        for table, values in zip(answer.tables, arrays, strict=True):
            pieces.append(Piece(table, NO_KEYS if table == "bias" else rows, ..., (len(values), values.shape[1])))
        self._witnesses[client].note(shard, answer, pieces, arrays)

    def check_same(self) -> None:
        """Check that servers gave all clients the same, as far as these can compare it: whoever died and went on there."""
        reports = {client: witness.report() for client, witness in self._witnesses.items()}
        seen = {client: report for client, report in reports.items() if isinstance(report, Seen)}
        if seen and (differs := compare(seen).differs):
            self.wrong(differs)

    @property
    def _scale(self) -> float:
        return 1 / self._plan.clients if self._plan.mode == "mean" else 1.0

    def goes_back(self, cut: Mapping[ClientId, int], epoch: int) -> None:
        """Note that all processes have died, and that behind an epoch only pushes of each client up to a number count."""
        self._world.say(f"the run goes back to the pushes {cut}")
        for shard, said in enumerate(self._sequences):
            for client, sequence in [key for key in said if key[1] > cut[ClientId(key[0])]]:
                self._undone += said.pop((client, sequence))
            self._answered[shard], self._said[shard] = Model.empty(), Model.empty()
        self.pushes = [push for push in self.pushes if push.sequence <= cut[ClientId(push.client)]]
        for push in self.pushes:
            self._count(self._said, push)
            if push.answered:
                self._count(self._answered, push)
        shards = range(self._plan.servers)
        self._active = [set() for _ in shards]
        self._standing, self._opened = [{} for _ in shards], [{} for _ in shards]
        self._excluded = [{} for _ in shards]
        self._rounds = {}
        self._told = [e for e in self._told if e.round < epoch + isinstance(e, events.Selected)]

    # Who takes part, and who stands at a barrier. A process is `client/number`; a newer one of its client takes its place.

    def joined(self, process: str, since: float) -> None:
        """Note that a process, which has said so then, takes part at all shards, unless a newer one has begun to."""
        self._world.say(f"{process} takes part")
        if self._processes[client_of(process)] == process:
            for active in self._active:
                active.add(process)
            self.acts(process, since)

    def begins(self, process: str) -> None:
        """Note that a process of a client begins, and that nobody waits for one before it any more."""
        if before := self._processes.get(client_of(process)):
            self.gone(before)
        self._processes[client_of(process)] = process

    def gone(self, process: str) -> None:
        """Note that a process has ended, or says that it goes: nobody has to wait for it any more."""
        for active, standing in zip(self._active, self._standing, strict=True):
            active.discard(process)
            standing.pop(process, None)

    def stands(self, process: str, replies: Sequence[Reply]) -> None:
        """Note that a process says at all shards that it stands at a barrier, and what will answer it."""
        for standing, reply in zip(self._standing, replies, strict=True):
            standing[process] = reply

    def acts(self, process: str, since: float) -> None:
        """Note that something was answered that a process said then: it is waited for again, unless the others are enough."""
        if self._plan.quorum < 1:
            return
        for excluded in self._excluded:
            if excluded.get(client_of(process), since) < since:
                del excluded[client_of(process)]

    def hears(self, shard: int, event: events.Event) -> None:
        """Note what a shard tells the run."""
        if isinstance(event, events.Lost | events.Suspended):
            self._world.say(f"shard {shard} goes on without {event.client}")
            self._excluded[shard][event.client] = self._world.now
        elif isinstance(event, events.Refused):
            self._world.say(f"shard {shard} refuses {event.client}: {event.kind}: {event.reason}")

    def opens(self, shard: int, clients: Sequence[str]) -> None:
        """Check that a barrier opens when all stand at one."""
        names = ", ".join(clients)
        self._world.say(f"shard {shard} opens a barrier for {names}")
        standing, opened, excluded = self._standing[shard], self._opened[shard], self._excluded[shard]
        missing = [p for p in self._active[shard] if p not in standing and client_of(p) not in excluded]
        if missing:
            self.wrong(f"shard {shard} opens a barrier for {names}, and {', '.join(missing)} stands at none")
        for process in [p for p in standing if client_of(p) in clients]:
            opened[process] = standing.pop(process)

    def begins_anew(self, shard: int, life: int, clock: int) -> None:
        """Note that a shard lives again, and knows what had happened by a clock."""
        self._world.say(f"shard {shard} goes on from clock {clock}")
        again = {process: reply for process, reply in self._opened[shard].items() if not reply.there}
        self._standing[shard] |= again  # its barrier may have opened, but it was not told
        self._opened[shard] = {}
        self._known[shard][life] = clock

    # Rounds.

    def assigned(self, process: str, due: Assignment) -> None:
        """Check that a client's rounds go on and on."""
        self._world.say(f"{process} is told to {due.state} in round {due.round}")
        before, last = self._rounds.get(client_of(process), ("", 0))
        if due.round <= last and (process == before or due.round < last):
            self.wrong(f"{process} was told what to do in round {due.round} after round {last}")
        self._rounds[client_of(process)] = process, due.round

    def coordinator_tells(self, event: events.Event) -> None:
        """Check that each round is decided once, and ends once."""
        if not isinstance(event, events.Selected | events.Round):
            return
        before = [e for e in self._told if type(e) is type(event)]
        last = before[-1].round if before else 0
        if event.round != last + 1:
            self.wrong(f"round {event.round} follows on {last}: {event}")
        self._told.append(event)

    # The end.

    def check(self, shard: int, server: ParameterServer) -> None:
        """Check that the tables of a shard are what was answered, to the bit."""
        store, mine = server.shard.store, [p for p in self.pushes if p.shard == shard]
        if not store.names():
            return
        marks = store.pull("marks", np.array([p.mark for p in mine], np.int64))[:, 0]
        applied = dict(zip(mine, map(float, marks), strict=True))
        for push in self._undone:
            if push.shard == shard and store.pull("marks", np.array([push.mark])).any():
                self.wrong(f"{push} is there, though the run went back behind it")
        for push, mark in applied.items():
            if push.answered and push.late and mark:
                self.wrong(f"{push} was answered as late, and is there {mark / UNIT:g} times")
        for said in self._sequences[shard].values():
            there = [push for push in said if applied[push]]
            if len(there) > 1:
                self.wrong(f"{there[0]} is there, and {there[1]}, which came in its place")
            if not there and (missing := [push for push in said if push.answered and not push.late]):
                self.wrong(f"{missing[0]} was answered, and is not there")
        there = [p for p in mine if applied[p]]
        windows = windows_of(there) if self._plan.gated else {}
        due = self._total(there, applied, windows)
        rows = store.pull("rows", self._plan.row_keys(shard))
        bias = store.pull("bias", NO_KEYS)[0] - self._plan.start if shard == BIAS and there else due.bias
        off = 0.0 if self._plan.mode != "buffered" else 0.01 * UNIT
        if np.abs(rows - due.rows[self._plan.row_keys(shard)]).max() > off or np.abs(bias - due.bias).max() > off:
            self.wrong(f"the tables of shard {shard} are not the sum of the pushes that are there")
        if windows and max(windows) >= server.clock:
            self.wrong(f"shard {shard} is at clock {server.clock}, and has pushes of {max(windows)}")
        if self._plan.adam:
            self._check_steps(shard, server.shard.store, windows or {p.sequence: [p] for p in there})
        self._check_looks(shard, windows)

    def _check_steps(self, shard: int, store: Store, windows: Mapping[int, Sequence[Pushed]]) -> None:
        """Check that Adam went a step for each window, or push of one client, in their order."""
        keys, due = self._plan.row_keys(shard), Store()
        due.declare((STEPS,))
        for _, group in sorted(windows.items()):
            touched = np.unique(np.concatenate([push.keys for push in group]))
            due.push("steps", touched, self._merged(group)[0].rows[touched].astype(np.float32))
        if not np.allclose(store.pull("steps", keys), due.pull("steps", keys), rtol=1e-5):
            self.wrong(f"Adam went other steps at shard {shard} than the pushes that are there")

    def _total(self, there: Sequence[Pushed], applied: Mapping[Pushed, float], windows: Mapping[int, Any]) -> Model:
        """Return what the pushes come to that are there, and check that each is there once."""
        due, plan = Model.empty(), self._plan
        for group in windows.values():
            self._merge(due, group, applied)
        if not plan.gated:
            shares = _shares(self._plan.buffer) if plan.mode == "buffered" else np.array([self._scale])
            for push in there:
                share = applied[push] / UNIT
                if np.abs(shares - share).min() > 1e-5:
                    self.wrong(f"{push} is there {share:g} times")
                due.add(push, share)
        return due

    def _merge(self, due: Model, group: Sequence[Pushed], applied: Mapping[Pushed, float] | None = None) -> None:
        """Add what a window's pushes come to."""
        summed, marks = self._merged(group)
        for push, mark in marks.items():
            if applied is not None and applied[push] != mark:
                self.wrong(f"{push} is there {applied[push] / UNIT:g} times, where {mark / UNIT:g} is its share")
        due.rows[:] += summed.rows
        due.bias[:] += summed.bias

    def _merged(self, group: Sequence[Pushed]) -> tuple[Model, Mapping[Pushed, float]]:
        """Return what `merged` does; many a look and check comes to the same windows."""
        marks = tuple(push.mark for push in group)
        if marks not in self._windows:
            self._windows[marks] = merged(group, self._plan.mode)
        return self._windows[marks]

    def _check_looks(self, shard: int, windows: Mapping[int, Sequence[Pushed]]) -> None:
        """Check that what was seen at a clock are all windows before it, and none after, unless its last were forgotten."""
        due, left, known = Model.empty(), dict(windows), self._known[shard]
        looks = (
            look
            for look in self._looks
            if look.shard == shard and all(look.clock <= clock for life, clock in known.items() if life > look.life)
        )
        for look in sorted(looks, key=lambda look: look.clock):
            for clock in [clock for clock in left if clock < look.clock]:
                self._merge(due, left.pop(clock))
            same = (look.rows == due.rows[self._plan.row_keys(shard)]).all()
            if not same or (look.bias is not None and (look.bias != due.bias).any()):
                self.wrong(
                    f"{look.client} saw at clock {look.clock} of shard {shard} other values than the windows before it"
                )


def client_of(process: str) -> str:
    """Return whose a process is."""
    return process.partition("/")[0]


def _shares(size: int) -> NDArray[np.float64]:
    """Return what a push can count for in buffers of up to so many."""
    staleness = (1 + np.arange(64)) ** -0.5
    return np.concatenate([staleness / n for n in range(1, size + 1)])
