"""Compiled loops over rows: copy them out, apply a rule in place; and how loops are compiled, here and in `index`.

numba compiles each once and keeps the machine code beside the package, as Python does its own; in the cache if that is
read only; and in memory alone if neither can be written. Arrays that come off the wire are read-only views; signatures
name them so, which writable arrays fit too.

No loop checks bounds. Who calls one has seen to it that slots lie within the block, that no slot comes twice in a push,
and that values have a row a slot: a wrong width would overwrite other rows. A row is `[w | state]`, as `rules` has it; of
Adam `[w | m | v | counter]`, the counter being a uint32 in the place of the last float.
"""

import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from fedps.cache import CacheError, loops_folder
from fedps.table.rules import LAST, TAIL
from fedps.types import RULES, Rule

_f4w = types.Array(types.float32, 2, "C")
_f4r = types.Array(types.float32, 2, "C", readonly=True)
_i8r = types.Array(types.int64, 1, "C", readonly=True)
_f8r = types.Array(types.float64, 1, "C", readonly=True)
_f8w = types.Array(types.float64, 1, "C")
_f8p = types.Array(types.float64, 2, "C")
LEARNING_RATE = 0  # its place among a rule's constants
# A rule's number is its place in `RULES`.
ADD, SGD, ADAGRAD, ROW_ADAGRAD, LAZY_ADAM, SHARED_ADAM, ADAM, FED_MOMENTUM, FED_ADAGRAD, FED_ADAM, FED_YOGI = range(
    len(RULES)
)


def choose_folder() -> bool:
    """Choose where machine code is kept, and say whether there is such a folder."""
    beside = Path(__file__).parent / "__pycache__"
    if config.CACHE_DIR or os.access(beside if beside.exists() else beside.parent, os.W_OK | os.X_OK):
        return True
    try:
        config.CACHE_DIR = str(loops_folder())
    except CacheError:
        return False
    return True


KEPT = choose_folder()


def compiled(signature: Any) -> Any:
    """Compile a loop for one signature, cached on disk, without the interpreter's lock."""

    def compile_loop(loop: Any) -> Any:
        if KEPT:
            with suppress(Exception):  # what was kept is torn, or the disk is full; a loop that is wrong fails below
                return njit(signature, cache=True, nogil=True, error_model="numpy")(loop)
        return njit(signature, nogil=True, error_model="numpy")(loop)

    return compile_loop


inlined = njit(nogil=True, error_model="numpy")  # a piece of a compiled loop, kept with it


@njit(inline="always")
def spread(key):  # type: ignore[no-untyped-def]  # numba infers these
    """Mix an id's bits (Stafford's mix 13), so that neighbouring ids do not meet in the index."""
    x = np.uint64(key)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(typing_context: Any, array: Any, row: Any) -> Any:
    """Ask for a row's first cache line ahead of its use, so that many are under way at once."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, args[0])
        stride = cgutils.unpack_tuple(builder, view.strides)[0]
        line = builder.gep(builder.bitcast(view.data, cgutils.voidptr_t), [builder.mul(stride, args[1])])
        number = cgutils.int32_t
        form = ir.FunctionType(ir.VoidType(), [line.type, number, number, number])
        ask = builder.module.declare_intrinsic("llvm.prefetch", [line.type], form)
        builder.call(ask, [line, number(0), number(3), number(1)])  # to read, to keep, data
        return context.get_dummy_value()

    return types.void(array, row), generate


@compiled(types.void(_f4w, _i8r, _f4w))
def gather(block, slots, out):  # type: ignore[no-untyped-def]
    """Copy rows' values: out[i] = block[slots[i], :dim]."""
    dim = out.shape[1]
    for i in range(len(slots)):
        row = block[slots[i]]
        for j in range(dim):
            out[i, j] = row[j]


@inlined
def _power(powers, k, base, n):  # type: ignore[no-untyped-def]
    """Return base^n, which stands in row k of the powers unless n is large: a row needs four of them, which would take longest."""
    return powers[k, n] if n < powers.shape[1] else base ** np.float64(n)


@inlined
def _missed(counter, step, c, tail, powers):  # type: ignore[no-untyped-def]
    """Return how many steps a row of Adam lies behind, and of its moves since: the sum of their rates, and their epsilon."""
    behind = np.int64(np.int32(np.uint32(step) - counter))  # a difference modulo 2^32, as in `rules.settle`
    if counter == 0 or behind <= 0:
        return 0, np.float32(0), np.float32(0)
    ratio, end = c[1] / np.sqrt(c[2]), len(tail) - 1
    faded = _power(powers, 2, ratio, behind + 1) * tail[min(step + 1, end)]
    moves = np.float32(c[0] * (ratio * tail[min(step - behind + 1, end)] - faded))
    return behind, moves, np.float32(c[3] * np.sqrt(1 - _power(powers, 1, c[2], step - behind)))


@compiled(types.void(_f4w, _i8r, _f8r, _f8r, _f8p, types.int64, _f4w))
def gather_adam(block, slots, c, tail, powers, step, out):  # type: ignore[no-untyped-def]
    """Copy rows' values as `settle_adam` would make them, and leave the rows as they are."""
    dim, counters = out.shape[1], block.view(np.uint32)
    for i in range(len(slots)):
        row, values = block[slots[i]], out[i]
        w, ms, vs = row[:dim], row[dim : 2 * dim], row[2 * dim : 3 * dim]
        behind, moves, epsilon = _missed(counters[slots[i], 3 * dim], step, c, tail, powers)
        if behind:
            for j in range(dim):
                values[j] = w[j] - moves * ms[j] / (np.sqrt(vs[j]) + epsilon)
        else:
            for j in range(dim):
                values[j] = w[j]


@compiled(types.void(_f4w, _i8r, _f8r, _f8r, _f8p, types.int64))
def settle_adam(block, slots, c, tail, powers, step):  # type: ignore[no-untyped-def]
    """`rules.settle` at slots: bring rows to `step` by the moves they have missed since their last push.

    c: as `constants` gives them; tail: `rules.momentum_tail`; powers: of `adam_powers`.
    """
    dim, counters = (block.shape[1] - 1) // 3, block.view(np.uint32)
    for i in range(len(slots)):
        row = block[slots[i]]
        behind, moves, epsilon = _missed(counters[slots[i], 3 * dim], step, c, tail, powers)
        if behind:
            w, ms, vs = row[:dim], row[dim : 2 * dim], row[2 * dim : 3 * dim]
            fade1 = np.float32(_power(powers, 0, c[1], behind))
            fade2 = np.float32(_power(powers, 1, c[2], behind))
            for j in range(dim):
                w[j] -= moves * ms[j] / (np.sqrt(vs[j]) + epsilon)
                ms[j] *= fade1
                vs[j] *= fade2
            counters[slots[i], 3 * dim] = np.uint32(step)


# One loop over rows a rule. Parts of a row are cut out as slices and counted from 0: LLVM makes vector code of that, and
# none of `row[dim + j]`, which is four times slower. Constants are rounded to float32 outside of loops, as numpy does in
# `rules`; powers of steps are taken in float64.


@inlined
def _add(block, slots, values):  # type: ignore[no-untyped-def]
    for i in range(len(slots)):
        row = block[slots[i]]
        for j in range(values.shape[1]):
            row[j] += values[i, j]


@inlined
def _sgd(block, slots, values, c):  # type: ignore[no-untyped-def]
    lr, decay = np.float32(c[0]), np.float32(c[5])
    for i in range(len(slots)):
        row = block[slots[i]]
        for j in range(values.shape[1]):
            row[j] -= lr * (values[i, j] + decay * row[j])


@inlined
def _adagrad(block, slots, values, c):  # type: ignore[no-untyped-def]
    lr, eps, decay, dim = np.float32(c[0]), np.float32(c[3]), np.float32(c[5]), values.shape[1]
    for i in range(len(slots)):
        row, gradient = block[slots[i]], values[i]
        w, total = row[:dim], row[dim:]
        for j in range(dim):
            g = gradient[j] + decay * w[j]
            total[j] += g * g
            w[j] -= lr * g / (np.sqrt(total[j]) + eps)


@inlined
def _row_adagrad(block, slots, values, c):  # type: ignore[no-untyped-def]
    g0, decay, dim = c[4], np.float32(c[5]), values.shape[1]
    for i in range(len(slots)):
        row = block[slots[i]]
        scale = np.float32(c[0] * np.sqrt(g0 / (g0 + np.float64(row[dim]))))
        square = 0.0
        for j in range(dim):
            g = values[i, j] + decay * row[j]
            row[j] -= scale * g
            square += g * g
        row[dim] += np.float32(square / dim)


@inlined
def _adam(block, slots, values, c, own, step):  # type: ignore[no-untyped-def]
    # own: rows count their own pushes (lazy_adam); else they note the table's, and were settled to `step` - 1.
    b1, b2, eps = np.float32(c[1]), np.float32(c[2]), np.float32(c[3])
    one1, one2, dim = np.float32(1 - c[1]), np.float32(1 - c[2]), values.shape[1]
    decay = np.float32(c[5])
    n, noted = np.float64(step), np.uint32(step)
    rate, second = np.float32(c[0] / (1 - c[1] ** n)), np.float32(1 / (1 - c[2] ** n))
    counters = block.view(np.uint32)
    for i in range(len(slots)):
        row, gradient = block[slots[i]], values[i]
        w, m, v = row[:dim], row[dim : 2 * dim], row[2 * dim : 3 * dim]
        if own:
            counter = counters[slots[i], 3 * dim]
            n = np.float64(counter) + (counter < LAST)
            rate, second, noted = np.float32(c[0] / (1 - c[1] ** n)), np.float32(1 / (1 - c[2] ** n)), np.uint32(n)
        counters[slots[i], 3 * dim] = noted
        for j in range(dim):
            g = gradient[j] + decay * w[j]
            m[j] = b1 * m[j] + one1 * g
            v[j] = b2 * v[j] + one2 * (g * g)
            w[j] -= rate * m[j] / (np.sqrt(v[j] * second) + eps)


@inlined
def _shared_adam(block, slots, values, c):  # type: ignore[no-untyped-def]
    b1, b2, eps = np.float32(c[1]), np.float32(c[2]), np.float32(c[3])
    one1, one2, dim = np.float32(1 - c[1]), np.float32(1 - c[2]), values.shape[1]
    decay, counters = np.float32(c[5]), block.view(np.uint32)
    for i in range(len(slots)):
        row = block[slots[i]]
        mean, square = 0.0, 0.0
        for j in range(dim):
            g = values[i, j] + decay * row[j]
            mean += g
            square += g * g
        # The state is m, v, counter; each component moves by an m of its own, of which the mean is kept.
        counter = counters[slots[i], dim + 2]
        n = np.float64(counter) + (counter < LAST)
        counters[slots[i], dim + 2] = np.uint32(n)
        rate, second = np.float32(c[0] / (1 - c[1] ** n)), np.float32(1 / (1 - c[2] ** n))
        row[dim + 1] = b2 * row[dim + 1] + one2 * np.float32(square / dim)
        root, m = np.sqrt(row[dim + 1] * second) + eps, b1 * row[dim]
        for j in range(dim):
            row[j] -= rate * (m + one1 * (values[i, j] + decay * row[j])) / root
        row[dim] = m + one1 * np.float32(mean / dim)


@inlined
def _fed_momentum(block, slots, values, c):  # type: ignore[no-untyped-def]
    lr, b1, dim = np.float32(c[0]), np.float32(c[1]), values.shape[1]
    for i in range(len(slots)):
        row = block[slots[i]]
        w, m = row[:dim], row[dim:]
        for j in range(dim):
            m[j] = b1 * m[j] + values[i, j]
            w[j] += lr * m[j]


@inlined
def _fed(block, slots, values, c, rule):  # type: ignore[no-untyped-def]
    lr, b1, b2, tau = np.float32(c[0]), np.float32(c[1]), np.float32(c[2]), np.float32(c[3])
    one1, one2, dim = np.float32(1 - c[1]), np.float32(1 - c[2]), values.shape[1]
    for i in range(len(slots)):
        row = block[slots[i]]
        w, m, v = row[:dim], row[dim : 2 * dim], row[2 * dim :]
        for j in range(dim):
            g = values[i, j]
            square, before = g * g, tau * tau if v[j] == 0 else v[j]
            if rule == FED_ADAGRAD:
                v[j] = before + square
            elif rule == FED_ADAM:
                v[j] = b2 * before + one2 * square
            else:
                v[j] = before - one2 * square * np.sign(before - square)
            m[j] = b1 * m[j] + one1 * g
            w[j] += lr * m[j] / (np.sqrt(v[j]) + tau)


@compiled(types.void(_f4w, _i8r, _f4r, _f8r, types.int64, types.int64))
def change(block, slots, values, c, rule, step):  # type: ignore[no-untyped-def]
    """`rules.apply` at slots, by the rule's number in `RULES`. c: as `constants` gives them."""
    if rule == ADD:
        _add(block, slots, values)
    elif rule == SGD:
        _sgd(block, slots, values, c)
    elif rule == ADAGRAD:
        _adagrad(block, slots, values, c)
    elif rule == ROW_ADAGRAD:
        _row_adagrad(block, slots, values, c)
    elif rule in {LAZY_ADAM, ADAM}:
        _adam(block, slots, values, c, rule == LAZY_ADAM, step)
    elif rule == SHARED_ADAM:
        _shared_adam(block, slots, values, c)
    elif rule == FED_MOMENTUM:
        _fed_momentum(block, slots, values, c)
    else:
        _fed(block, slots, values, c, rule)


@compiled(types.void(types.float64, _f8w))
def raise_to(base, out):  # type: ignore[no-untyped-def]
    """Write base^n to out[n]: to the bit what a loop here would compute."""
    for n in range(len(out)):
        out[n] = base ** np.float64(n)


@compiled(types.boolean(_i8r))
def ascend(keys):  # type: ignore[no-untyped-def]
    """Return whether keys are sorted and unique."""
    falls = 0
    for i in range(1, len(keys)):  # to the end, whatever is found: so several are compared at a time
        falls += keys[i] <= keys[i - 1]
    return falls == 0


@compiled(types.boolean(_i8r, types.int64, types.int64))
def lie_on(keys, shard, shards):  # type: ignore[no-untyped-def]
    """Return whether all keys are of one shard."""
    elsewhere = 0
    for key in keys:
        elsewhere += key % shards != shard
    return elsewhere == 0


@cache
def adam_powers(beta1: float, beta2: float) -> NDArray[np.float64]:
    """Return β1^n, β2^n and (β1/√β2)^n for small n, float64[3, TAIL + 1]."""
    powers = np.empty((3, TAIL + 1))
    for base, out in zip((beta1, beta2, beta1 / np.sqrt(beta2)), powers, strict=True):
        raise_to(base, out)
    return powers


def constants(rule: Rule) -> NDArray[np.float64]:
    """Return a rule's constants as the loops take them, float64[6]: lr, beta1, beta2, epsilon, g0, weight decay."""
    c = (rule.learning_rate, rule.beta1, rule.beta2, rule.epsilon, rule.initial_g2, rule.weight_decay)
    return np.array(c)
