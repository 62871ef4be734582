"""The simulation can fail: each fault that is planted in a server is found within a few histories."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from fedps.access.roster import Roster
from fedps.server import recovery, requests
from fedps.server.barriers import Barriers, Opening
from fedps.server.durable import Durable
from fedps.server.gate import BufferGate, Closing, WindowGate
from fedps.server.merge import Merged
from fedps.server.pushes import Pushes
from fedps.server.records import Applied
from fedps.server.shard import Shard
from fedps.table.moment import Part
from fedps.table.store import Store
from fedps.types import Rows
from tests.simulation.disk import FaultyDisk
from tests.simulation.history import happen, machine
from tests.simulation.ledger import WrongError

ENOUGH = 200  # histories; most faults are found in the first few
Patch = pytest.MonkeyPatch


def applies_a_repeat_again(patch: Patch) -> None:
    take = Pushes.take

    def planted(self: Pushes, conversation: Any, ticket: int, member: Any, said: Any, arrays: Any, now: float) -> Any:
        member.sequence = min(member.sequence, said.sequence - 1)
        member.merged = min(member.merged, said.sequence - 1)
        return take(self, conversation, ticket, member, said, arrays, now)

    patch.setattr(Pushes, "take", planted)


def forgets_a_push(patch: Patch) -> None:
    count = 0
    for gate in (WindowGate, BufferGate):

        def planted(self: Any, offered: Any, now: float, offer: Any = gate.offer) -> None:
            nonlocal count
            count += 1
            kept = {name: rows for name, rows in offered.push.items() if name == "bias" or count % 50}
            offer(self, offered._replace(push=kept), now)

        patch.setattr(gate, "offer", planted)


def opens_a_barrier_early(patch: Patch) -> None:
    opening = Barriers.opening

    def planted(self: Barriers) -> Opening | None:
        training = [member for member in self._members.here.values() if member.barrier is None and not member.suspended]
        for member in training[:1]:
            member.suspended = True
        decided = opening(self)
        for member in training[:1]:
            member.suspended = False
        return decided

    patch.setattr(Barriers, "opening", planted)


def applies_half_a_push(patch: Patch) -> None:
    joined = requests._joined

    def planted(spec: Any, pieces: Sequence[Any]) -> Any:
        return joined(spec, pieces if spec.kind == "dense" else pieces[:1])

    patch.setattr(requests, "_joined", planted)


def counts_a_late_push(patch: Patch) -> None:
    push = Shard.push

    def planted(self: Shard, client: Any, said: Any, offer: Any, now: float) -> bool:
        late = push(self, client, said, offer, now)
        if late:
            self.apply(Closing({name: Merged(Rows(c.keys, c.values), 1.0) for name, c in offer.items()}))
        return late

    patch.setattr(Shard, "push", planted)


def denies_that_a_push_was_late(patch: Patch) -> None:
    push = Shard.push
    patch.setattr(Shard, "push", lambda self, *args: push(self, *args) and False)


def shows_rows_before_their_window_is_merged(patch: Patch) -> None:
    patch.setattr(Shard, "is_merged", lambda self, clock: True)


def applies_to_the_next_row(patch: Patch) -> None:
    push = Store.push

    def planted(self: Store, name: str, keys: Any, values: Any, rate: float = 1.0) -> None:
        push(self, name, keys, np.roll(values, 1, 0), rate)

    patch.setattr(Store, "push", planted)


def forgets_who_waits(patch: Patch) -> None:
    patch.setattr(Shard, "forget", lambda self, conversation: self._waiting.clear())


def answers_before_it_is_on_disk(patch: Patch) -> None:
    patch.setattr(Durable, "then", lambda self, answer: answer())


def takes_written_for_synced(patch: Patch) -> None:
    patch.setattr(FaultyDisk, "sync", lambda self, name: None)


def skips_a_record(patch: Patch) -> None:
    take_up, count = recovery._Recovery._take_up, 0

    def planted(self: Any, entry: Any) -> None:
        nonlocal count
        count += isinstance(entry.record, Applied)
        if not isinstance(entry.record, Applied) or count % 4:
            take_up(self, entry)

    patch.setattr(recovery._Recovery, "_take_up", planted)


def forgets_who_pushed_what(patch: Patch) -> None:
    take_up = recovery._Recovery._take_up

    def planted(self: Any, entry: Any) -> None:
        record = entry.record
        take_up(
            self, entry._replace(record=replace(record, pushes=(), made=())) if isinstance(record, Applied) else entry
        )

    patch.setattr(recovery._Recovery, "_take_up", planted)


def keeps_what_the_run_went_back_behind(patch: Patch) -> None:
    patch.setattr(recovery, "_beyond", lambda record, cut: False)


def forgets_how_far_adam_went(patch: Patch) -> None:
    lay = Store.lay

    def planted(self: Store, part: Part) -> None:
        lay(self, part._replace(facts=part.facts | {"steps": 0}))

    patch.setattr(Store, "lay", planted)


def hangs_up_on_who_comes_back(patch: Patch) -> None:
    greet = Roster.greet

    def planted(self: Roster, conversation: Any, hello: Any, now: float) -> Any:
        comes_back = hello.client in self.processes
        client = greet(self, conversation, hello, now)
        if comes_back:
            conversation.hang_up()
        return client

    patch.setattr(Roster, "greet", planted)


PLANTED: list[Callable[[Patch], None]] = [
    applies_a_repeat_again,
    forgets_a_push,
    opens_a_barrier_early,
    applies_half_a_push,
    counts_a_late_push,
    denies_that_a_push_was_late,
    shows_rows_before_their_window_is_merged,
    applies_to_the_next_row,
    forgets_who_waits,
    answers_before_it_is_on_disk,
    takes_written_for_synced,
    skips_a_record,
    forgets_who_pushed_what,
    keeps_what_the_run_went_back_behind,
    forgets_how_far_adam_went,
    hangs_up_on_who_comes_back,
]


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_fault_is_found(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    plant(monkeypatch)
    with pytest.raises(WrongError), machine() as runs:
        for seed in range(ENOUGH):
            happen(seed, runs)
