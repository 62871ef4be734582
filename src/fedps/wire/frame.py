"""A message and its arrays as bytes.

    offset  size  what
    0       2     "FP"
    2       2     version of this layout, little-endian like all numbers here
    4       4     length of the header in bytes, H
    8       H     header, MessagePack: [ticket, message, [[code, side, ...], ...]], an entry for each array
    ...           zeros up to a multiple of 8
    ...     ...   the arrays' bytes, one after another, each filled up with zeros to a multiple of 8

A frame is read by those who do not trust its sender, so that:

- Nothing is allocated from a size that a frame declares. Arrays are read-only views of the bytes that came, and the sizes
  declared must add up to exactly those. Only keys that travel as gaps (`compress`) are laid out anew, and of these a
  frame holds no more than `message_bytes` in all.
- The header is bounded before it is parsed, and its structs are closed: a field that is not known is an error.
- Every array starts on a multiple of 8, so that a view of it is aligned.
- Which arrays a message brings, of which types and dimensions, is checked here; whether their values make sense, by who
  reads the message.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedps.errors import LimitError, WireError
from fedps.wire.compress import ARRAYS, GAPS, Form, gap_bytes, pack_gaps, plain, unpack_gaps
from fedps.wire.messages import (
    Assignment,
    Blind,
    Blinded,
    Common,
    Cut,
    Double,
    Gradient,
    Message,
    Pull,
    Push,
    RoundReport,
    Seed,
    Values,
)

MAGIC = b"FP\x01\x00"
ALIGNED = 8  # bytes; a power of two
DTYPES: dict[str, np.dtype[Any]] = {
    "f": np.dtype("<f4"),
    "i": np.dtype("<i8"),
    "h": np.dtype("<f2"),
    "b": np.dtype("<u2"),  # bfloat16: the upper half of a float32's bits
    "q": np.dtype("i1"),
}
EMPTY = {code: np.frombuffer(bytes(ALIGNED), dtype, 0) for code, dtype in DTYPES.items()}  # read-only, too
CODES = {dtype: code for code, dtype in DTYPES.items()}
COPIED = 4096  # bytes of an array that are copied sooner than a view of them is made
ZEROS = [bytes(count) for count in range(ALIGNED)]
Bytes = bytes | memoryview
Kind = tuple[str, int]  # of an array: its code and its dimensions
KEYS: Kind = ("i", 1)  # counts of a histogram, too
ROWS: Kind = ("f", 2)
LINE: Kind = ("f", 1)
POINTS: Kind = ("i", 2)
HALVES: Kind = ("b", 1)  # of two bytes


BRING = {Pull, Push, Values, Seed, RoundReport, Assignment, Blind, Blinded, Double, Common, Cut, Gradient}  # arrays
HELD_MESSAGES = 8  # of full size: what a server keeps for one connection


@dataclass(frozen=True)
class Limits:
    """What one peer may send, and what a server holds open.

    Args:
        message_bytes: bytes of a whole message.
        header_bytes: bytes of its header.
        arrays: arrays of a message.
        rows: rows of one array; larger requests are cut into several.
        connections: open connections of a server.
        parts: messages of one push.
        held_bytes: bytes a server keeps for one connection: a half-sent push, or answers that wait for their window.
        total_bytes: bytes it keeps for all connections together, pushes that are not merged counted.
        waiting: pulls of one connection that wait.
        tables: tables of one server.
        reserved_bytes: address space of all tables of one server, for as many rows as they may ever hold.
        line: bytes a second that a peer's line carries at the least; deadlines grow by what is sent.
    """

    message_bytes: int = 64 << 20
    header_bytes: int = 1 << 20
    arrays: int = 4096
    rows: int = 1 << 17
    connections: int = 4096
    parts: int = 1 << 16
    held_bytes: int = 512 << 20
    total_bytes: int = 4 << 30
    waiting: int = 4096
    tables: int = 1024
    reserved_bytes: int = 1 << 45
    line: int = 128 << 10

    def seconds(self, size: int) -> float:
        """Return how long so many bytes may be under way."""
        return size / self.line


class Header(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What stands before the arrays."""

    ticket: int
    message: Message
    arrays: tuple[tuple[str, tuple[int, ...]], ...]


class Frame(NamedTuple):
    """A decoded frame: the request's ticket, the message, read-only arrays."""

    ticket: int
    message: Message
    arrays: tuple[NDArray[Any], ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Header)


def encode(
    ticket: int, message: Message, arrays: Sequence[NDArray[Any]] = (), limits: Limits | None = None
) -> bytes:  # fmt: skip
    """Return the frame's bytes.

    Args:
        ticket: ties a reply to its request.
        message: any message.
        arrays: of a type in `DTYPES`, one or two dimensions.
        limits: what the peer takes; None: it is not looked at.

    Raises:
        WireError: an array is of another type.
        LimitError: the peer would refuse it for its size.
    """
    facts: list[tuple[str, tuple[int, ...]]] = []
    pieces: list[Bytes] = []
    try:
        for array in arrays:
            code, piece = _packed(array)
            facts.append((code, array.shape))
            pieces += piece, ZEROS[-len(piece) % ALIGNED]
    except KeyError as error:
        raise WireError(
            f"an array of {error.args[0]}: frames carry float32 and int64 (packed: float16, uint16, int8); convert it first"
        ) from None
    header = _encoder.encode(Header(ticket, message, tuple(facts)))
    data = b"".join((MAGIC, len(header).to_bytes(4, "little"), header, ZEROS[-len(header) % ALIGNED], *pieces))
    if limits is not None:
        _check_sizes(type(message).__name__, len(header), len(data), limits)
    return data


def _check_sizes(what: str, header: int, size: int, limits: Limits) -> None:
    if header > limits.header_bytes:
        raise LimitError(
            f"{what} with a header of {header} bytes passes the limit of {limits.header_bytes} bytes: use fewer tables, or"
            " shorter names"
        )
    if size > limits.message_bytes:
        raise LimitError(
            f"{what} of {size} bytes passes the limit of {limits.message_bytes} bytes a message: raise limits.message_mib"
        )


def _packed(array: NDArray[Any]) -> tuple[str, Bytes]:
    """Return an array's code and bytes; keys travel as gaps where these are fewer bytes."""
    code = CODES[array.dtype]
    if code == "i" and array.ndim == 1 and (gaps := pack_gaps(array)) is not None:
        return gaps
    return code, bytes_of(array)


def bytes_of(array: NDArray[Any]) -> Bytes:
    """Return an array's bytes: of a large one, a view of them."""
    return array.tobytes() if array.nbytes < COPIED else np.ascontiguousarray(array).data.cast("B")


def decode(data: bytes, limits: Limits) -> Frame:
    """Return what `encode` was given.

    Raises:
        LimitError: the frame is larger than `limits` allow.
        WireError: it is no frame of this protocol, or arrays and message do not fit.
    """
    if len(data) > limits.message_bytes:
        raise LimitError(f"a message of {len(data)} bytes passes the limit of {limits.message_bytes} bytes")
    if len(data) < 8 or data[:4] != MAGIC:
        raise WireError(f"{len(data)} bytes that do not begin as a fedps frame of version 1")
    length = int.from_bytes(data[4:8], "little")
    if length > limits.header_bytes or length > len(data) - 8:
        raise WireError(f"a header of {length} bytes in a frame of {len(data)}")
    try:
        header = _decoder.decode(data[8 : 8 + length])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"a header that cannot be read: {error}") from None
    if len(header.arrays) > limits.arrays:
        raise LimitError(f"{len(header.arrays)} arrays pass the limit of {limits.arrays}")
    arrays = _views(data, 8 + length + -length % ALIGNED, header.arrays, limits)
    _check_arrays(header.message, header.arrays)
    return Frame(header.ticket, header.message, arrays)


def _views(
    data: bytes, at: int, facts: Sequence[tuple[str, tuple[int, ...]]], limits: Limits
) -> tuple[NDArray[Any], ...]:
    """Return the arrays that stand from `at` on; shapes are a peer's claims, and may be of any size."""
    views: list[NDArray[Any]] = []
    room = limits.message_bytes
    for code, shape in facts:
        gaps, dtype = code in GAPS, DTYPES.get(code) or GAPS.get(code)
        if dtype is None or not 1 <= len(shape) <= 2 or min(shape) < 0:
            raise WireError(f"an array of type {code!r} and shape {shape}")
        if max(shape) > limits.message_bytes:  # without data if another side is 0, and numpy refuses it its own way
            raise WireError(f"an array of shape {shape}, longer than any message")
        if shape[0] > limits.rows:
            raise LimitError(f"an array of {shape[0]} rows passes the limit of {limits.rows} rows")
        count = shape[0] * (shape[1] if len(shape) == 2 else 1)
        size = gap_bytes(count, code) if gaps else count * dtype.itemsize
        if size > len(data) - at:
            raise WireError(f"an array of {size} bytes where {max(len(data) - at, 0)} are left")
        if gaps:
            room -= 8 * count  # what they are laid out in; packed they may be an eighth of that
            views.append(_keys(data, at, shape, code, room))
        else:
            views.append(np.ndarray(shape, dtype, data, at) if count else EMPTY[code].reshape(shape))
        at += size + -size % ALIGNED
    if at != len(data):
        raise WireError(f"the frame says {at} bytes and has {len(data)}")
    return tuple(views)


def _keys(data: bytes, at: int, shape: tuple[int, ...], code: str, room: int) -> NDArray[np.int64]:
    if len(shape) != 1 or not shape[0]:
        raise WireError(f"gaps of keys of shape {shape}")
    if room < 0:
        raise LimitError(f"keys that make up {-room} bytes more than a message may have")
    return unpack_gaps(data, at, shape[0], code)


def _check_arrays(message: Message, facts: Sequence[tuple[str, tuple[int, ...]]]) -> None:
    """Check that a message brings the arrays that it should, as the docstrings of `messages` have it."""
    if not facts and type(message) not in BRING:
        return
    tables: tuple[str, ...] = ()
    due: list[Kind] = []
    match message:
        case Pull(tables):
            due = [KEYS] * len(tables)
        case Push(tables, forms=forms):
            due = [kind for form in _forms(message, forms) for kind in (KEYS, *ARRAYS[form])]
        case Values(tables, forms):
            due = [kind for form in _forms(message, forms) for kind in ARRAYS[form]]
        case Seed():
            due = [ROWS]
        case RoundReport(logits=logits, places=places):
            due = [KEYS] * 4 + [LINE] * logits + [KEYS, KEYS, HALVES] * bool(places)
        case Assignment(targets_of=round_):
            due = [LINE] * (round_ > 0)
        case Blind() | Blinded():
            due = [POINTS]
        case Double() | Common():
            due = [KEYS]
        case Cut(form=form) | Gradient(form=form):
            due = list(ARRAYS[form])
    brought = [("i" if code in GAPS else code, len(shape)) for code, shape in facts]
    if brought != due:
        raise WireError(f"{type(message).__name__} with arrays {brought}, due (type, dimensions) {due}")
    if len(set(tables)) != len(tables):
        raise WireError(f"{type(message).__name__} names a table twice")


def _forms(message: Push | Values, forms: tuple[Form, ...]) -> tuple[Form, ...]:
    if forms and len(forms) != len(message.tables):
        raise WireError(f"{type(message).__name__} with {len(forms)} forms for {len(message.tables)} tables")
    return forms or plain(message.tables)
