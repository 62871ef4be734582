"""Keys and values of a message in fewer bytes: pure functions, a pair for each form; none knows of clients or servers.

Sorted keys travel as the first of them and the gaps between neighbours. A window's ids lie close together, so one or two
bytes a key are the rule, where int64 takes eight. All gaps have the width of the widest, so that three passes of numpy
pack them; variable lengths (varint) would save little more and take a loop.

Values travel in one of these forms, C columns of R rows:

    form      arrays of float32[R, C]                           bytes, about    what is lost
    none      float32[R, C]                                     4 R C           nothing
    fp16      float16[R, C]                                     2 R C           13 of 23 bits; over 65504 is cut
    bf16      uint16[R, C], upper halves of float32             2 R C           16 of 23 bits
    int8      float32[R] scales, int8[R, C]                     R C + 4 R       all but 255 steps a row, by chance
    low_rank  float32[R, K], float32[C, K]                      4 K (R + C)     all but K directions

A sparse table's rows are the matrix, or a dense tensor with its first side as rows (see `sides`). What comes from a
peer is opened by `unpack`, which allocates for a shape that the caller knows to be right, never for one that a peer says.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedps.errors import WireError
from fedps.types import Keys, TableName, TableSpec, Values

Form = Literal["none", "fp16", "bf16", "int8", "low_rank"]
Array = NDArray[Any]
Scales = NDArray[np.float32]

LARGEST_HALF = np.float32(65504)
STEPS = np.float32(127)  # of int8, on each side of zero

FIRST = np.dtype("<i8")
GAPS: dict[str, np.dtype[np.unsignedinteger]] = {  # type code of a frame's array → one gap
    "1": np.dtype("<u1"),
    "2": np.dtype("<u2"),
    "4": np.dtype("<u4"),
}

# type code (see `frame`) and dimensions of the arrays of each form
ARRAYS: dict[Form, list[tuple[str, int]]] = {
    "none": [("f", 2)],
    "fp16": [("h", 2)],
    "bf16": [("b", 2)],
    "int8": [("f", 1), ("q", 2)],
    "low_rank": [("f", 2), ("f", 2)],
}


def pack_gaps(keys: Keys) -> tuple[str, bytes] | None:
    """Return the code of the narrowest gaps that hold int64[U], and its bytes: the first key, then the gaps.

    None where they would not be fewer bytes.
    """
    if len(keys) < 3:
        return None
    gaps = keys[1:] - keys[:-1]
    widest = int(gaps.view(np.uint64).max())  # where a key is less than the one before, wider than any that follow
    for code, dtype in GAPS.items():
        if widest < 1 << 8 * dtype.itemsize:
            return code, keys[:1].tobytes() + gaps.astype(dtype).tobytes()
    return None


def gap_bytes(count: int, code: str) -> int:
    """Return how many bytes `count` keys take, at least one."""
    return FIRST.itemsize + (count - 1) * GAPS[code].itemsize


def unpack_gaps(data: bytes, at: int, count: int, code: str) -> Keys:
    """Return int64[count], read-only, from the bytes at `at`; there are `gap_bytes` of them, and `count` is at least one.

    A sum past 2^63 wraps around, so that what a peer sends amiss is out of order, and refused as any such keys are.
    """
    keys = np.empty(count, np.int64)
    keys[0] = int.from_bytes(data[at : at + FIRST.itemsize], "little", signed=True)
    keys[1:] = np.ndarray((count - 1,), GAPS[code], data, at + FIRST.itemsize)
    np.add.accumulate(keys, out=keys)
    keys.flags.writeable = False
    return keys


def plain(tables: Sequence[TableName]) -> tuple[Form, ...]:
    """Return the forms of a message that names none."""
    none: Form = "none"
    return (none,) * len(tables)


def sides(spec: TableSpec, keys: Keys) -> tuple[int, int]:
    """Return rows and columns of the matrix that some of a table's values are packed as.

    A dense tensor has its first side as rows; a piece of it that is not made of whole rows is packed as one.
    """
    if spec.kind == "sparse":
        return len(keys), spec.dim
    (first, end), columns = spec.span(keys), spec.dim // spec.shape[0] if len(spec.shape) > 1 else spec.dim
    whole = first % columns == 0 and end % columns == 0
    return ((end - first) // columns, columns) if whole else (1, end - first)


def to_fp16(matrix: Values) -> NDArray[np.float16]:
    """Round to half floats; a finite value that they do not reach becomes the largest, infinity and NaN stay."""
    with np.errstate(over="ignore"):
        halves = matrix.astype(np.float16)
    if not np.abs(matrix).max(initial=0) <= LARGEST_HALF:
        over = np.isinf(halves) & np.isfinite(matrix)
        halves[over] = np.copysign(LARGEST_HALF, matrix[over])
    return halves


def to_bf16(matrix: Values) -> NDArray[np.uint16]:
    """Round to bfloat16, ties to even; NaN stays NaN."""
    from ml_dtypes import bfloat16  # noqa: PLC0415  (few jobs send it, and every process would import it)

    with np.errstate(invalid="ignore", over="ignore"):
        return matrix.astype(bfloat16).view(np.uint16)


def from_bf16(halves: NDArray[np.uint16]) -> Values:
    """Return the floats that bfloat16 stand for."""
    from ml_dtypes import bfloat16  # noqa: PLC0415

    floats: Values = halves.view(bfloat16).astype(np.float32)
    return floats


def to_int8(matrix: Values, draw: np.random.Generator) -> tuple[Scales, NDArray[np.int8]]:
    """Round each value up or down to a step of its row, by chance, so that the mean is right (QSGD's rounding).

    A row's step is its largest value / 127. The mean over many draws is the value itself (Alistarh et al., NeurIPS 2017).

    Args:
        matrix: float32[R, C].
        draw: where chance comes from.
    """
    scales = np.abs(matrix).max(axis=1) / STEPS
    steps = _chances(matrix.shape, draw)
    with np.errstate(invalid="ignore", over="ignore"):
        steps += matrix / np.where(scales == 0, np.float32(1), scales)[:, None]
        np.clip(np.floor(steps, out=steps), -STEPS, STEPS, out=steps)
        return scales, steps.astype(np.int8)  # of NaN: anything, its row's scale is NaN


def _chances(shape: tuple[int, ...], draw: np.random.Generator) -> Values:
    """Draw uniform numbers in [0, 1), in steps of 2⁻¹⁶ around their middles: three times as fast as `random`."""
    words = draw.integers(0, 1 << 64, math.prod(shape) // 4 + 1, np.uint64)
    numbers = words.view(np.uint16)[: math.prod(shape)].reshape(shape).astype(np.float32)
    numbers += np.float32(0.5)
    numbers *= np.float32(2**-16)
    return numbers


def from_int8(scales: Scales, steps: NDArray[np.int8]) -> Values:
    """Return step × scale, row by row."""
    with np.errstate(invalid="ignore", over="ignore"):
        return steps * scales[:, None]


def to_low_rank(matrix: Values, start: Values) -> tuple[Values, Values]:
    """Return the two factors of a matrix of lower rank near to this one: one step of power iteration.

    PowerSGD (Vogels, Karimireddy, Jaggi, NeurIPS 2019, algorithm 1): P = orthogonalize(M Q), Q = Mᵀ P; M is nearly P Qᵀ.
    The next matrix of the kind starts from this Q.

    Args:
        matrix: M, float32[R, C].
        start: Q, float32[C, K].

    Returns:
        P, float32[R, min(K, R)], and Q, float32[C, min(K, R)].
    """
    with np.errstate(invalid="ignore", over="ignore"):
        left = np.linalg.qr(matrix @ start)[0]
        return left, matrix.T @ left


def from_low_rank(left: Values, right: Values) -> Values:
    """Return P Qᵀ."""
    with np.errstate(invalid="ignore", over="ignore"):
        return left @ right.T


def pack(form: Form, matrix: Values, draw: np.random.Generator) -> list[Array]:
    """Return a matrix in any form that needs nothing of the one before, i.e. all but `low_rank`; `draw`: the chance of int8."""
    match form:
        case "fp16":
            return [to_fp16(matrix)]
        case "bf16":
            return [to_bf16(matrix)]
        case "int8":
            return [*to_int8(matrix, draw)]
    return [matrix]


def unpack(form: Form, arrays: Sequence[Array], shape: tuple[int, int]) -> Values:
    """Return float32[R, C]; nothing is allocated before the arrays are seen to have the sizes that are due.

    Args:
        form: how the values came.
        arrays: of the types and dimensions in `ARRAYS`.
        shape: R and C that are due; with form `none` it is left to the caller to check.

    Raises:
        WireError: the arrays do not make up a matrix of that shape.
    """
    match form:
        case "none":
            return arrays[0]
        case "low_rank":
            left, right = arrays
            _check_shape(form, (len(left), len(right)), shape)
            if left.shape[1] != right.shape[1] or left.shape[1] > min(shape):
                raise WireError(f"factors of shapes {left.shape} and {right.shape} for a matrix of {shape}")
            return from_low_rank(left, right)
        case "int8":
            _check_shape(form, arrays[1].shape, shape)
            _check_shape("int8 scales", arrays[0].shape, shape[:1])
            return from_int8(arrays[0], arrays[1])
        case "bf16":
            _check_shape(form, arrays[0].shape, shape)
            return from_bf16(arrays[0])
        case "fp16":
            _check_shape(form, arrays[0].shape, shape)
            return arrays[0].astype(np.float32)


def _check_shape(what: str, shape: tuple[int, ...], due: tuple[int, ...]) -> None:
    if shape != due:
        raise WireError(f"values as {what} of shape {shape}, due {due}")
