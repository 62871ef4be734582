"""A frame becomes a checked request, or a refusal: nothing is applied before all of it was looked at.

Keys, values and numbers are checked here and nowhere else; tables and gates behind trust what they are given. All checks
are pure: they raise `RefusedError` with the value, the bound and the remedy.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedps.access.conversation import MAX_NAME
from fedps.config.checks.rounds import MAX_SHARE
from fedps.errors import RefusedError, TableError
from fedps.server.gate import Offer, size_of
from fedps.server.members import Member
from fedps.server.memory import Budget
from fedps.server.merge import Contribution
from fedps.server.shard import Shard
from fedps.table import rules
from fedps.table.kernels import ascend, lie_on
from fedps.table.sparse import places, reserved_bytes
from fedps.table.store import has_shape
from fedps.types import NO_KEYS, Keys, TableName, TableSpec, Values
from fedps.wire.compress import ARRAYS, plain, sides, unpack
from fedps.wire.frame import Limits
from fedps.wire.messages import Join, Pull, Push

Array = NDArray[Any]

# A finite value can still ruin a row for everybody: 1e38 added ten times, or squared once, is infinite in float32. With
# these bounds, sums and squares over 4096 clients and 2^26 floats stay finite, and so does a row for 1e29 pushes.
MAX_VALUE = 1e9
MIN_WEIGHT, MAX_WEIGHT = 1e-6, 1e9
MAX_RATE, MIN_EPSILON = 1e6, 1e-30
DIVERGED = "has training diverged? Lower hyper_parameters.optimizer.learning_rate"
MAX_SAMPLES = 1 << 40
MAX_SIDES, MAX_RULES = 8, 16  # dimensions of a tensor; different rules of one declaration
OVERHEAD = 1 << 16  # bytes of an answer beside its arrays, with room to spare


def check_push(push: Push, member: Member, shard: Shard, limits: Limits) -> None:
    """Check a push's own numbers, and that its turn has come.

    Raises:
        RefusedError: a number is out of its bounds, or a push in between is missing.
    """
    if push.sequence < 1:
        raise RefusedError("stale", f"push {push.sequence}: pushes are counted from 1")
    if not MIN_WEIGHT <= push.weight <= MAX_WEIGHT:
        raise RefusedError("malformed", f"weight {push.weight} lies outside [{MIN_WEIGHT:g}, {MAX_WEIGHT:g}]")
    if not 0 <= push.rate <= MAX_SHARE:
        raise RefusedError("malformed", f"rate {push.rate} lies outside [0, {MAX_SHARE:g}]")
    if push.rate != 1 and not shard.optimizes:
        raise RefusedError("malformed", f"rate {push.rate}: of a gradient alone a share of the learning rate is taken")
    if push.parts > limits.parts:
        raise RefusedError("too_large", f"{push.parts} parts pass the limit of {limits.parts} parts a push")
    if not 0 <= push.part < push.parts:
        raise RefusedError("malformed", f"part {push.part} of {push.parts}: parts are counted from 0")
    # A process's sequences have no gaps: so one number says which were applied, and repeats are known after a reconnect. A
    # server that went back to an earlier state lacks some in between, and must not take those that follow.
    if push.sequence > member.sequence + 1 and not member.took_over:
        raise RefusedError("stale", f"push {push.sequence} follows {member.sequence}: one in between is missing")
    # Of a server that died a client may know versions that it has not written down: their pushes come again, as versions
    # that it makes anew.
    if shard.gate and shard.gate.lockstep and push.clock > shard.gate.clock + shard.gate.ahead:
        raise RefusedError("stale", f"clock {push.clock} is too far ahead of {shard.gate.clock}")


def read_push(push: Push, arrays: Sequence[Array], shard: Shard, limits: Limits) -> Offer:
    """Unpack and check one message of a push.

    Returns:
        For each table it names its keys, int64[U], and values, float32[U, dim] (dense: see `TableSpec.span`, [1, n]).

    Raises:
        RefusedError: a key or a value is not acceptable, or more comes out of the message than one may hold.
        WireError: packed arrays do not fit each other.
    """
    offer: dict[TableName, Contribution] = {}
    left, room = iter(arrays), limits.message_bytes
    for table, form in zip(push.tables, push.forms or plain(push.tables), strict=True):
        spec, keys = _spec(table, shard), next(left)
        if spec.frozen:
            raise RefusedError("mismatch", f"table {table!r} is frozen: it takes no push")
        due = _check_keys(spec, keys, shard)
        packed = [next(left) for _ in ARRAYS[form]]
        if push.forms:  # a packed form may stand for much more than it takes: its size is checked before it is made
            room = _room_left(spec, due, room)
            values = unpack(form, packed, sides(spec, keys))
        else:
            [values] = packed
        if form != "none":
            values = values.reshape(due)
        elif values.shape != due:
            raise RefusedError("mismatch", f"table {table!r}: values have shape {values.shape}, but {due} is due")
        _check_size(spec, values)  # as they come out: a packed NaN is one only then
        offer[table] = Contribution(keys, values, push.weight, push.rate)
    return offer


class HalfPush:
    """The parts of one connection's push that are in, each checked alone before.

    Args:
        budget: bounds what is kept.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.drop()

    def drop(self) -> None:
        """Forget all parts."""
        self._first: Push | None = None
        self._tables: dict[TableName, list[Contribution]] = {}
        self._next = self._bytes = 0
        self._budget.keep(self, 0, "")

    def add(self, push: Push, part: Offer, shard: Shard) -> Offer | None:
        """Take one part; return the whole push if it was the last, None before.

        Raises:
            RefusedError: it is not the next part of this push, brings nothing new, leaves out some of a tensor, or too
                much is kept by now.
        """
        if push.part == 0:
            self.drop()  # said again from the start
            self._first = push
        # Parts come in order on one connection, and all say the same of their push: a part of another is a fault.
        first = self._first
        if first is None or push.part != self._next or _facts(push) != _facts(first):
            raise RefusedError(
                "malformed", f"part {push.part} of {push.parts} of push {push.sequence} where part {self._next} is due"
            )
        for table, piece in part.items():
            self._check_follows(push, shard.store.spec(table), piece.keys)
            self._tables.setdefault(table, []).append(piece)
        self._next, self._bytes = self._next + 1, self._bytes + size_of(part)
        if push.part + 1 == push.parts:
            whole = {table: _joined(shard.store.spec(table), pieces) for table, pieces in self._tables.items()}
            self.drop()
            return whole
        self._budget.keep(self, self._bytes, "a push that is not whole")
        return None

    def _check_follows(self, push: Push, spec: TableSpec, keys: Keys) -> None:
        """Check that each part brings what follows on those before it: so a push ends, and has nothing twice."""
        before = self._tables.get(spec.name)
        if spec.kind == "dense":
            first, due = spec.span(keys)[0], spec.span(before[-1].keys)[1] if before else 0
            if first != due:
                raise RefusedError("bad_keys", f"table {spec.name!r}: float {first} where {due} is due")
        elif push.part and (not len(keys) or (before and len(before[-1].keys) and keys[0] <= before[-1].keys[-1])):
            raise RefusedError(
                "bad_keys", f"table {spec.name!r}: part {push.part} must bring keys behind those of the parts before it"
            )


def check_whole(offer: Offer, shard: Shard) -> None:
    """Check that a push carries every table of its shard, so that a window merges the same clients everywhere."""
    # A table left out would count as one more client without it; worse, clients could merge by different sets of tables.
    absent = sorted(name for name in set(shard.store.names()) - offer.keys() if not shard.store.spec(name).frozen)
    if absent:
        raise RefusedError("mismatch", f"a push carries every table of its shard; {', '.join(absent)} is missing")


def check_pull(pull: Pull, arrays: Sequence[Array], shard: Shard, limits: Limits) -> int:
    """Check what a pull asks for.

    Returns:
        The bytes of its answer.

    Raises:
        RefusedError: a key is not acceptable, no message could carry the answer, or its window is too far ahead.
    """
    size = 0
    for table, keys in zip(pull.tables, arrays, strict=True):
        spec = _spec(table, shard)
        rows, columns = _check_keys(spec, keys, shard)
        size += 4 * rows * columns
    if size + OVERHEAD > limits.message_bytes:
        raise RefusedError(
            "too_large",
            f"an answer of {size} bytes passes the limit of {limits.message_bytes} bytes a message: pull fewer rows, or"
            " raise limits.message_mib",
        )
    # A pull for a window that may never open would wait for ever.
    if shard.gate and pull.after > shard.gate.clock + shard.gate.ahead:
        raise RefusedError("stale", f"after {pull.after} is too far ahead of clock {shard.gate.clock}")
    return size


def check_start(table: TableName, values: Values, shard: Shard) -> None:
    """Check the values of a start; whether they fit the tensor or the table, the store says.

    Raises:
        RefusedError: there is no such table, or a value is not acceptable.
    """
    _check_size(_spec(table, shard), values)


def check_declaration(join: Join, limits: Limits) -> None:
    """Check that a declaration as a whole can be served; whether a table can be made of each spec, the store says.

    Raises:
        RefusedError: it passes a limit.
    """
    tables = join.tables
    if not 0 <= join.samples <= MAX_SAMPLES:
        raise RefusedError("malformed", f"samples {join.samples}: must be a number from 0 to {MAX_SAMPLES}")
    if len(tables) > limits.tables:
        raise RefusedError("too_large", f"{len(tables)} tables pass the limit of {limits.tables} tables a server")
    if len({t.name for t in tables}) < len(tables):
        raise RefusedError("malformed", "a table is declared twice")
    if len({t.rule for t in tables}) > MAX_RULES:
        raise RefusedError("too_large", f"more than {MAX_RULES} different rules in one declaration")
    for spec in tables:
        _check_constants(spec)
    reserved = sum(_address_space(t) for t in tables)
    if reserved > limits.reserved_bytes:
        raise RefusedError(
            "too_large",
            f"the tables may grow to {reserved} bytes, over the limit of {limits.reserved_bytes} bytes a server: declare"
            " fewer rows or floats, or use more servers",
        )


def _spec(table: TableName, shard: Shard) -> TableSpec:
    try:
        return shard.store.spec(table)
    except TableError as error:
        raise RefusedError("unknown_table", str(error)) from None


def _check_keys(spec: TableSpec, keys: Array, shard: Shard) -> tuple[int, int]:
    """Check int64[U]: sorted, unique, within [0, rows) where ids are counted, of this shard (dense: see `TableSpec.span`).

    Returns:
        The shape of the values that stand for them.
    """
    count, why = len(keys), None
    if spec.kind == "dense":
        first, end = spec.span(keys) if count in (0, 2) else (0, 0)
        if 0 <= first < end <= spec.dim:
            return 1, end - first
        why = f"of a tensor of {spec.dim} floats, keys are the first one meant and the end, or none"
    elif count:
        # Sorted keys lie between their first and last, so two comparisons bound them all.
        if not spec.open and (keys[0] < 0 or keys[-1] >= spec.shape[0]):
            why = f"keys run from {keys[0]} to {keys[-1]}, but ids must lie in [0, {spec.shape[0]})"
        elif count > 1 and not ascend(keys):
            why = "keys must be sorted and unique"
        elif shard.count > 1 and not lie_on(keys, shard.number, shard.count):
            why = f"a key is not of this shard: key % {shard.count} must be {shard.number}"
    if why:
        raise RefusedError("bad_keys", f"table {spec.name!r}: {why}")
    return count, spec.dim


def _check_size(spec: TableSpec, values: Values) -> None:
    """Check that values are finite, and so small that no sum of their squares overflows."""
    # One fast pass: no value is larger than the root of all squares, and a NaN is at most nothing. `vdot` warns of neither.
    if np.vdot(values, values) <= MAX_VALUE**2:
        return
    if not np.isfinite(values).all():
        raise RefusedError("not_finite", f"table {spec.name!r}: a NaN or an infinity is among the values: {DIVERGED}")
    largest = max(float(values.max()), -float(values.min()))
    if largest > MAX_VALUE:
        raise RefusedError(
            "too_large",
            f"table {spec.name!r}: values reach {largest:g}, over the limit of {MAX_VALUE:g}: {DIVERGED}",
        )


def _room_left(spec: TableSpec, shape: tuple[int, int], room: int) -> int:
    """Return what is left of `room`, bytes, once values of this shape are unpacked; refuse those that exceed it."""
    size = 4 * math.prod(shape)
    if size > room:
        raise RefusedError(
            "too_large",
            f"table {spec.name!r}: {size} bytes once unpacked, where {room} bytes of the limit of a message are left: push"
            " fewer rows, or raise limits.message_mib",
        )
    return room - size


def _check_constants(spec: TableSpec) -> None:
    rule, init = spec.rule, spec.init
    if len(spec.name) > MAX_NAME or not spec.name.isprintable():
        raise RefusedError(
            "malformed", f"table {spec.name[:99]!r}: of a name, {MAX_NAME} printable characters are allowed"
        )
    if not len(spec.shape) <= MAX_SIDES or not has_shape(spec):
        raise RefusedError(
            "mismatch",
            f"table {spec.name!r}: shapes have {MAX_SIDES} dimensions at most, each at least 1; a sparse table has two",
        )
    if not rule.learning_rate <= MAX_RATE or not rule.initial_g2 <= MAX_VALUE or not rule.epsilon >= MIN_EPSILON:
        raise RefusedError(
            "mismatch",
            f"table {spec.name!r}: {rule}: learning_rate is at most {MAX_RATE:g}, initial_g2 {MAX_VALUE:g}, epsilon at"
            f" least {MIN_EPSILON:g}",
        )
    if not max(abs(init.a), abs(init.b)) <= MAX_VALUE:
        raise RefusedError("mismatch", f"table {spec.name!r}: {init}: a start lies within {MAX_VALUE:g} of 0")


def _address_space(spec: TableSpec) -> int:
    if spec.kind == "dense":
        return 4 * rules.width(spec.rule, math.prod(spec.shape))
    return places(spec) * reserved_bytes(spec)


def _facts(push: Push) -> tuple[int, int, int, float, float]:
    return push.sequence, push.clock, push.parts, push.weight, push.rate


def _joined(spec: TableSpec, pieces: Sequence[Contribution]) -> Contribution:
    first, last = pieces[0], pieces[-1]
    if spec.kind == "dense" and (end := spec.span(last.keys)[1]) != spec.dim:
        raise RefusedError("mismatch", f"table {spec.name!r}: {end} of its {spec.dim} floats, where a push brings all")
    if len(pieces) == 1 and (spec.kind == "sparse" or not len(first.keys)):
        return first
    rows = spec.kind == "sparse"
    keys = np.concatenate([p.keys for p in pieces]) if rows else NO_KEYS
    return first._replace(keys=keys, values=np.concatenate([p.values for p in pieces], 0 if rows else 1))
