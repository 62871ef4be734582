"""Where rows start, and how a push changes them: plain numpy, used by clients on their own rows and as the oracle of kernels.

A stored row is one block `[w | state]` of float32: `w` holds the row's `dim` values, the state stands beside it. A
dense tensor is one row of all its elements. `step` counts the pushes its table has had, the present one included. A
counter (`n`, `last`) is no float, which would stand still from 2^24 on: its 4 bytes are those of a uint32.

    rule          state       change of w by a pushed value g
    add           –           w += g
    sgd           –           w -= lr g
    adagrad       G[dim]      G += g²; w -= lr g / (√G + ε)                                  (Duchi et al., JMLR 2011)
    row_adagrad   G           w -= lr g √(g0 / (g0 + G)); then G += mean(g²)       (Paddle's SparseAdaGradSGDRule)
    lazy_adam     m, v, n     Adam with the row's own count n of pushes           (Kingma & Ba, ICLR 2015, alg. 1)
    shared_adam   m, v, n     the same with one m and one v a row, means over its components
    adam          m, v, last  Adam of the whole table: a row that is not pushed goes on moving by its momentum, as in
                              torch.optim.Adam; it catches up in closed form when it is next read or pushed

Four more take g for the change that the clients' merge came to, and have optimizers of the server move w along it
(Reddi et al., ICLR 2021, algorithm 2; momentum: FedAvgM, Hsu et al., arXiv:1909.06335). ε is the papers' τ, and a v of
0 stands for its start τ². Only rows in the merged change move.

    fed_momentum  m           m = β1 m + g; w += lr m
    fed_adagrad   m, v        m = β1 m + (1 - β1) g; v += g²; w += lr m / (√v + ε)
    fed_adam      m, v        the same with v = β2 v + (1 - β2) g²
    fed_yogi      m, v        the same with v -= (1 - β2) g² sign(v - g²)

All that take gradients first add λ w to g, λ being the rule's `weight_decay`: L2 of what is pushed to, as NCF and BPR use it (Rendle
et al., UAI 2009, fig. 4). So a dense tensor decays as in torch.optim, and a row at those steps that touch it.

A row starts from a stream for each (job seed, table, id), so that any shard, restart or order gives the same row. The
stream is counter-based: SplitMix64 (Steele et al., OOPSLA 2014) over the stream's number and the column, mapped to uniforms
in (0, 1) and, for normal starts, through Box-Muller in float64.
"""

import zlib
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fedps.errors import TableError
from fedps.types import Keys, Rule, RuleName, TableSpec, Values

Block = NDArray[np.float32]
Counters = NDArray[np.uint32]
Words = NDArray[np.uint64]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
TAIL = 1 << 15  # steps after which bias correction no longer changes
LAST = (1 << 32) - 1  # the largest counter
STATE: dict[RuleName, str] = {  # of a row: v a float a component, 1 a float, n a counter, which stands last
    "add": "",
    "sgd": "",
    "adagrad": "v",
    "row_adagrad": "1",
    "lazy_adam": "vvn",
    "shared_adam": "11n",
    "adam": "vvn",
    "fed_momentum": "v",
    "fed_adagrad": "vv",
    "fed_adam": "vv",
    "fed_yogi": "vv",
}
OF_CHANGES: tuple[RuleName, ...] = ("add", "fed_momentum", "fed_adagrad", "fed_adam", "fed_yogi")  # not of gradients


def width(rule: Rule, dim: int) -> int:
    """Return the floats of a stored row: its values and their state."""
    state = STATE[rule.name]
    return dim * (1 + state.count("v")) + len(state) - state.count("v")


def counters(rule: Rule, block: Block) -> Counters:
    """Return a view of rows' counters, uint32[U, 1]; [U, 0] where the rule keeps none.

    `lazy_adam` and `shared_adam` count a row's own pushes, and stop at `LAST`. `adam` notes the table's step at the
    row's last push, modulo 2^32: only the difference to the present step is ever used. 0 says: never pushed.
    """
    return block.view(np.uint32)[:, block.shape[1] - STATE[rule.name].count("n") :]


def apply(rule: Rule, block: Block, values: Values, step: int) -> None:
    """Change rows in place.

    Args:
        rule: the table's rule.
        block: float32[U, width].
        values: float32[U, dim], what was pushed.
        step: pushes of this table so far, this one included.
    """
    dim = values.shape[1]
    w, state = block[:, :dim], block[:, dim:]
    lr = np.float32(rule.learning_rate)
    settle(rule, block, step - 1)
    if rule.weight_decay and rule.name not in OF_CHANGES:
        values = values + np.float32(rule.weight_decay) * w
    match rule.name:
        case "add":
            w += values
        case "sgd":
            w -= lr * values
        case "adagrad":
            state += values * values
            w -= lr * values / (np.sqrt(state) + np.float32(rule.epsilon))
        case "row_adagrad":
            w -= lr * values * np.sqrt(rule.initial_g2 / (rule.initial_g2 + state))
            state += np.mean(values * values, axis=1, keepdims=True)
        case "lazy_adam":
            _adam(rule, w, state[:, :dim], state[:, dim:-1], values, _counted(rule, block))
        case "shared_adam":
            _shared_adam(rule, w, state[:, :1], state[:, 1:2], values, _counted(rule, block))
        case "adam":
            _adam(rule, w, state[:, :dim], state[:, dim:-1], values, np.float64(step))
            counters(rule, block)[:] = step & LAST
        case "fed_momentum":
            state *= np.float32(rule.beta1)
            state += values
            w += lr * state
        case "fed_adagrad" | "fed_adam" | "fed_yogi":
            _fed(rule, w, state[:, :dim], state[:, dim:], values)


def settle(rule: Rule, block: Block, step: int) -> None:
    """Bring rows up to `step` where the rule moves them without a push (`adam`); elsewhere do nothing.

    After a last push at step s a row's mean decays by β1 and its root mean square by √β2 a step, so the missed moves
    are Σ r^j F(s+j), j = 1…k, with r = β1/√β2 and F the bias correction: two entries of `momentum_tail`. That ε does
    not decay with the denominator is the only approximation.
    """
    if rule.name != "adam":
        return
    dim, last = (block.shape[1] - 1) // 3, counters(rule, block)
    behind = (np.uint32(step & LAST) - last).view(np.int32)  # as sequence numbers differ (RFC 1982): modulo 2^32
    missed = np.where(last > 0, np.maximum(behind, 0), 0).astype(np.int64)
    if not missed.any():
        return
    m, v = block[:, dim : 2 * dim], block[:, 2 * dim : 3 * dim]
    tail, n = momentum_tail(rule.beta1, rule.beta2), np.maximum(step - missed, 1)
    ratio = rule.beta1 / rule.beta2**0.5
    moves = ratio * tail[np.minimum(n + 1, TAIL)] - ratio ** (missed + 1.0) * tail[np.minimum(n + missed + 1, TAIL)]
    epsilon = (rule.epsilon * np.sqrt(1 - rule.beta2 ** n.astype(np.float64))).astype(np.float32)
    block[:, :dim] -= (rule.learning_rate * moves).astype(np.float32) * m / (np.sqrt(v) + epsilon)
    m *= (rule.beta1 ** missed.astype(np.float64)).astype(np.float32)
    v *= (rule.beta2 ** missed.astype(np.float64)).astype(np.float32)
    np.copyto(last, np.uint32(step & LAST), where=missed > 0)


@cache
def momentum_tail(beta1: float, beta2: float) -> NDArray[np.float64]:
    """Return G(n) = Σ r^(i-n) F(i) over i ≥ n, float64[TAIL + 1]: all moves still to come from step n on.

    F(i) = √(1 - β2^i) / (1 - β1^i) is Adam's bias correction at step i; beyond TAIL it is taken as it stands there.

    Raises:
        TableError: the sum has no end, as β1 is not below √β2.
    """
    if not 0 <= beta1 < beta2**0.5 < 1:
        raise TableError(f"rule adam: beta1 {beta1} is not below √beta2 of {beta2}: lower beta1, or use lazy_adam")
    correction = np.sqrt(1 - powers(beta2)[1:]) / (1 - powers(beta1)[1:])
    sums, terms, ratio = correction, 1, beta1 / beta2**0.5  # sums: of the first `terms` terms of each G(n)
    while ratio**terms > np.finfo(np.float64).tiny:
        later = np.full(TAIL, sums[-1])
        later[: max(TAIL - terms, 0)] = sums[terms:]
        sums, terms = sums + ratio**terms * later, 2 * terms
    return np.concatenate([[0.0], sums])


def powers(base: float) -> NDArray[np.float64]:
    """Return base^n for n = 0 … TAIL."""
    return np.concatenate([[1.0], np.cumprod(np.full(TAIL, base))])


def _counted(rule: Rule, block: Block) -> NDArray[np.float64]:
    """Count a push of each row, and return the rows' own counts, float64[U, 1]."""
    own = counters(rule, block)
    own += own < LAST
    return own.astype(np.float64)


def _corrections(rule: Rule, step: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    first = 1 / (1 - rule.beta1**step)
    second = 1 / (1 - rule.beta2**step)
    return first, np.asarray(second, np.float32)


def _adam(rule: Rule, w: Block, m: Block, v: Block, g: Values, step: NDArray[np.float64] | np.float64) -> None:
    first, second = _corrections(rule, np.asarray(step))
    m *= np.float32(rule.beta1)
    m += np.float32(1 - rule.beta1) * g
    v *= np.float32(rule.beta2)
    v += np.float32(1 - rule.beta2) * (g * g)
    w -= np.asarray(rule.learning_rate * first, np.float32) * m / (np.sqrt(v * second) + np.float32(rule.epsilon))


def _shared_adam(rule: Rule, w: Block, m: Block, v: Block, g: Values, step: NDArray[np.float64]) -> None:
    first, second = _corrections(rule, step)
    fresh = np.float32(rule.beta1) * m + np.float32(1 - rule.beta1) * g  # each component its own mean, kept as one
    v[:] = np.float32(rule.beta2) * v + np.float32(1 - rule.beta2) * np.mean(g * g, axis=1, keepdims=True)
    m[:] = np.float32(rule.beta1) * m + np.float32(1 - rule.beta1) * np.mean(g, axis=1, keepdims=True)
    w -= np.asarray(rule.learning_rate * first, np.float32) * fresh / (np.sqrt(v * second) + np.float32(rule.epsilon))


def _fed(rule: Rule, w: Block, m: Block, v: Block, change: Values) -> None:
    square, one2, tau = change * change, np.float32(1 - rule.beta2), np.float32(rule.epsilon)
    m *= np.float32(rule.beta1)
    m += np.float32(1 - rule.beta1) * change
    np.copyto(v, tau * tau, where=v == 0)
    if rule.name == "fed_adagrad":
        v += square
    elif rule.name == "fed_adam":
        v *= np.float32(rule.beta2)
        v += one2 * square
    else:
        v -= one2 * square * np.sign(v - square)
    w += np.float32(rule.learning_rate) * m / (np.sqrt(v) + tau)


def initial_rows(spec: TableSpec, keys: Keys) -> Values:
    """Return the start of rows, float32[U, dim].

    Args:
        spec: the table; its name, seed and init fix the start.
        keys: int64[U], any order.

    Rows that are given follow from no stream: they are zeros here, for whoever lays them out before they come.
    """
    shape = (len(keys), spec.dim)
    init = spec.init
    if init.kind == "given":
        return np.zeros(shape, np.float32)
    if init.kind == "constant" or not len(keys):
        return np.full(shape, init.a, np.float32)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        stream = np.uint64((zlib.crc32(spec.name.encode()) ^ (spec.seed >> 32)) << 32 | (spec.seed & 0xFFFFFFFF))
        rows = _mix(_mix(keys.astype(np.uint64) + stream * GOLDEN) ^ stream)[:, None]
        columns = np.arange(2 * spec.dim, dtype=np.uint64)
        if init.kind == "uniform":
            drawn = _uniform(_mix(rows + columns[None, : spec.dim] * GOLDEN))
            return (init.a + (init.b - init.a) * drawn).astype(np.float32)
        first = _uniform(_mix(rows + columns[None, 0::2] * GOLDEN))
        second = _uniform(_mix(rows + columns[None, 1::2] * GOLDEN))
    normal = np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second)
    start: Values = (init.a + init.b * normal).astype(np.float32)
    return start


def rowless(spec: TableSpec, keys: Keys) -> Values:
    """Return what ids without a row are served, float32[U, dim]: their start; where rows wait to be made, its middle."""
    if spec.bounds.admit_after == 1:
        return initial_rows(spec, keys)
    init = spec.init
    middle = (init.a + init.b) / 2 if init.kind == "uniform" else init.a
    return np.full((len(keys), spec.dim), middle, np.float32)


def _mix(x: Words) -> Words:
    x = x + GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _uniform(x: Words) -> NDArray[np.float64]:
    return ((x >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
