"""What a request must keep to before any of it is applied: bounds on numbers, sizes and declarations.

All are pure: they return nothing, or raise `RefusedError` with the value, the bound and the remedy.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedps.access.conversation import MAX_NAME
from fedps.config.checks.selection import MAX_SHARE
from fedps.errors import RefusedError
from fedps.server.members import STAGES, Stop
from fedps.table import rules
from fedps.table.sparse import RESERVED_ROWS
from fedps.types import TableName, TableSpec
from fedps.wire.compress import sides
from fedps.wire.frame import Limits
from fedps.wire.messages import Barrier, Join, Push

# A finite value can still ruin a row for everybody: 1e38 added ten times, or squared once, is infinite in float32. With
# these bounds, sums and squares over 4096 clients and 2^26 floats stay finite, and so does a row for 1e29 pushes.
MAX_VALUE = 1e9
MIN_WEIGHT, MAX_WEIGHT = 1e-6, 1e9
MAX_RATE, MIN_EPSILON = 1e6, 1e-30
DIVERGED = "has training diverged? Lower hyper_parameters.optimizer.learning_rate"
MAX_SAMPLES = 1 << 40
MAX_SIDES, MAX_RULES = 8, 16  # dimensions of a tensor; different rules of one declaration
INDEX_BYTES = 136  # of address space a row, at most (see `sparse.Index`)
OVERHEAD = 1 << 16  # bytes of an answer beside its arrays, with room to spare


def declaration(join: Join, limits: Limits) -> None:
    """Check that a declaration as a whole can be served; each spec is looked at by the store."""
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
        _constants(spec)
    room = sum(_room(t) for t in tables)
    if room > limits.reserved_bytes:
        raise RefusedError(
            "too_large",
            f"the tables may grow to {room} bytes, over the limit of {limits.reserved_bytes} bytes a server: declare"
            " fewer rows or floats, or use more servers",
        )


def values(table: TableName, array: NDArray[np.float32]) -> None:
    """Check that no value is so large that sums or squares of it would overflow; NaN is refused too."""
    flat = array.reshape(-1)
    with np.errstate(all="ignore"):
        if np.dot(flat, flat) <= MAX_VALUE**2:  # one fast pass: no single value can be larger than the root
            return
    largest = max(float(array.max()), -float(array.min()))
    if not largest <= MAX_VALUE:
        raise RefusedError(
            "too_large",
            f"table {table!r}: values reach {largest:g}, over the limit of {MAX_VALUE:g}: {DIVERGED}",
        )


def push(said: Push, limits: Limits, optimizes: bool) -> None:
    """Check a push's own numbers. `optimizes`: whether it brings gradients; a change is taken whole."""
    if said.sequence < 1:
        raise RefusedError("stale", f"push {said.sequence}: pushes are counted from 1")
    if not MIN_WEIGHT <= said.weight <= MAX_WEIGHT:
        raise RefusedError("malformed", f"weight {said.weight} lies outside [{MIN_WEIGHT:g}, {MAX_WEIGHT:g}]")
    if not 0 <= said.rate <= MAX_SHARE:
        raise RefusedError("malformed", f"rate {said.rate} lies outside [0, {MAX_SHARE:g}]")
    if said.rate != 1 and not optimizes:
        raise RefusedError("malformed", f"rate {said.rate}: of a gradient alone a share of the learning rate is taken")
    if said.parts > limits.parts:
        raise RefusedError("too_large", f"{said.parts} parts pass the limit of {limits.parts} parts a push")
    if not 0 <= said.part < said.parts:
        raise RefusedError("malformed", f"part {said.part} of {said.parts}: parts are counted from 0")


def barrier(said: Barrier, epochs: int) -> Stop:
    """Check that a barrier is one of the job's; return it."""
    if said.stage not in STAGES or not 1 <= said.epoch <= epochs:
        raise RefusedError(
            "malformed",
            f"barrier {said.stage!r} of epoch {said.epoch}: stages are {', '.join(STAGES)}, epochs run from 1 to {epochs}",
        )
    return Stop(said.epoch, said.stage)


def answer_bytes(specs: Mapping[TableName, TableSpec], keys: Mapping[TableName, NDArray[Any]], limits: Limits) -> int:
    """Return the bytes that answer a pull, refusing those that no message could carry."""
    size = sum(4 * math.prod(sides(specs[table], its)) for table, its in keys.items())
    if size + OVERHEAD > limits.message_bytes:
        raise RefusedError(
            "too_large",
            f"an answer of {size} bytes passes the limit of {limits.message_bytes} bytes a message: pull fewer rows, or"
            " raise limits.message_mib",
        )
    return size


def unpacked(table: TableName, shape: tuple[int, int], room: int) -> int:
    """Return what is left of `room`, bytes, once values of this shape are unpacked; refuse those that exceed it."""
    size = 4 * shape[0] * shape[1]
    if size > room:
        raise RefusedError(
            "too_large",
            f"table {table!r}: {size} bytes once unpacked, where {room} bytes of the limit of a message are left: push"
            " fewer rows, or raise limits.message_mib",
        )
    return room - size


def _constants(spec: TableSpec) -> None:
    rule, init = spec.rule, spec.init
    if len(spec.name) > MAX_NAME or not spec.name.isprintable():
        raise RefusedError(
            "malformed", f"table {spec.name[:99]!r}: of a name, {MAX_NAME} printable characters are allowed"
        )
    if not len(spec.shape) <= MAX_SIDES or any(n < 1 for n in spec.shape):
        raise RefusedError(
            "mismatch", f"table {spec.name!r}: shapes have {MAX_SIDES} dimensions at most, each at least 1"
        )
    if not rule.learning_rate <= MAX_RATE or not rule.initial_g2 <= MAX_VALUE or not rule.epsilon >= MIN_EPSILON:
        raise RefusedError(
            "mismatch",
            f"table {spec.name!r}: {rule}: learning_rate is at most {MAX_RATE:g}, initial_g2 {MAX_VALUE:g}, epsilon at"
            f" least {MIN_EPSILON:g}",
        )
    if not max(abs(init.a), abs(init.b)) <= MAX_VALUE:
        raise RefusedError("mismatch", f"table {spec.name!r}: {init}: a start lies within {MAX_VALUE:g} of 0")


def _room(spec: TableSpec) -> int:
    if spec.kind == "dense":
        return 4 * rules.width(spec.rule, math.prod(spec.shape))
    rows = min(spec.shape[0], RESERVED_ROWS)
    return rows * (4 * rules.width(spec.rule, math.prod(spec.shape[1:])) + INDEX_BYTES)
