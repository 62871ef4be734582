"""Where rows start: a stream for each (job seed, table, id), so that any shard, restart or order gives the same row.

The stream is counter-based: SplitMix64 (Steele et al., OOPSLA 2014) over the stream's number and the column, mapped to
uniforms in (0, 1) and, for normal starts, through Box-Muller in float64.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

from fedps.types import Keys, TableSpec, Values

Words = NDArray[np.uint64]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


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
        stream = np.uint64(zlib.crc32(spec.name.encode()) << 32 | (spec.seed & 0xFFFFFFFF))
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


def _mix(x: Words) -> Words:
    x = x + GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _uniform(x: Words) -> NDArray[np.float64]:
    return ((x >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
