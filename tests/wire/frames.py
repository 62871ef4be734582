"""Good frames of every message, and ways to spoil them."""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedps.types import ClientInfo, Rule, TableSpec
from fedps.wire.compress import Form, to_bf16, to_fp16, to_int8, to_low_rank
from fedps.wire.frame import MAGIC, encode
from fedps.wire.messages import (
    Alive,
    Assignment,
    Barrier,
    Begin,
    Begun,
    Blind,
    Blinded,
    Census,
    Common,
    Counted,
    Cut,
    Done,
    Double,
    EndEpoch,
    Figures,
    GiveUp,
    Gradient,
    Hello,
    Join,
    Leave,
    Message,
    Pull,
    Push,
    Refused,
    RoundReport,
    Seed,
    Values,
    Verdict,
    Welcome,
)
from tests.events.kinds import sums

KEYS = np.array([1, 4, 6], np.int64)
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)
SPECS = (TableSpec("item", "sparse", (100, 4)), TableSpec("bias", "dense", (2, 2), Rule("adam")))

FORMS: tuple[Form, ...] = ("none", "fp16", "bf16", "int8", "low_rank")
PACKED: list[NDArray[Any]] = [
    *(KEYS, ROWS, KEYS, to_fp16(ROWS), KEYS, to_bf16(ROWS), KEYS, *to_int8(ROWS, np.random.default_rng(0))),
    *(KEYS, *to_low_rank(ROWS, np.eye(4, 2, dtype=np.float32))),
]

REQUESTS: list[tuple[Message, Sequence[NDArray[Any]]]] = [
    (Hello("job", "7", "instance", 3), ()),
    (Join(SPECS, 3), ()),
    (Seed("bias"), (ROWS[:1],)),
    (Pull(("item", "bias")), (KEYS, KEYS[:0])),
    (Push(("item", "bias"), 1, 3, 0.5), (KEYS, ROWS, KEYS[:0], ROWS[:1])),
    (Push(tuple("abcde"), 1, 3, forms=FORMS), PACKED),
    (Barrier(1, "trained"), ()),
    (Join(SPECS, 3, samples=900), ()),
    (Census(), ()),
    (Alive(), ()),
    (Barrier(4, "evaluated", Figures(9, 4.5, sums(2, 1.0, 0.5))), ()),
    (Leave(), ()),
    (RoundReport(2, ClientInfo("Linux", 1e5, 1e8, 900, 900, 0.5, 0.4, 0.8, sums(9, 4.0, 2.5))), (KEYS,) * 4),
    (RoundReport(2, ClientInfo(samples=9), logits=True), (*(KEYS,) * 4, ROWS[0])),
]
REPLIES: list[tuple[Message, Sequence[NDArray[Any]]]] = [
    (Welcome(0, 1, 3), ()),
    (Counted(497.5), ()),
    (Values(("item", "bias")), (ROWS, ROWS[:1])),
    (Values(("item", "bias"), ("bf16", "none")), (to_bf16(ROWS), ROWS[:1])),
    (Values(("item", "bias"), clock=7), (ROWS, ROWS[:1])),
    (Done(4, True), ()),
    (Assignment(3, "JOIN", 100), ()),
    (Assignment(3, "JOIN", targets_of=2), (ROWS[0],)),
    (Refused("order", "say Hello first"), ()),
]
POINTS = np.arange(8).reshape(2, 4)
OF_PARTIES: list[tuple[Message, Sequence[NDArray[Any]]]] = [
    (Blind("train", 0, 2), (POINTS,)),
    (Blinded(1, 2), (POINTS[:0],)),
    (Double("test", 0, 1), (POINTS[1],)),
    (Common(0, 1, "5d41402a"), (KEYS,)),
    (Begin("federated", "a1", (0, 40), "d1", 900, 4), ()),
    (Begun(40, "a1", ("federated",)), ()),
    (Cut("federated", 41), (ROWS,)),
    (Cut("federated", 0, "test", "int8"), to_int8(ROWS, np.random.default_rng(0))),
    (Gradient(41, "fp16"), (to_fp16(ROWS),)),
    (EndEpoch("federated", 0), ()),
    (Verdict(True, False), ()),
    (GiveUp("a gradient is not finite"), ()),
]
MESSAGES = REQUESTS + REPLIES + OF_PARTIES
GOOD = [encode(k + 1, message, arrays) for k, (message, arrays) in enumerate(MESSAGES)]
EXTREME = [-1, 0, 1, 3, 2**31, 2**32, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)]


def pack(header: object, tail: bytes = b"") -> bytes:
    """Lay out a frame around any header, right or wrong."""
    body = msgspec.msgpack.encode(header)
    return MAGIC + len(body).to_bytes(4, "little") + body + bytes(-len(body) % 8) + tail


def unpack(frame: bytes) -> tuple[Any, bytes]:
    """Return a good frame's header as plain lists and dicts, and its arrays' bytes."""
    length = int.from_bytes(frame[4:8], "little")
    return msgspec.msgpack.decode(frame[8 : 8 + length]), frame[8 + length + -length % 8 :]


CORPUS = Path(__file__).parent / "corpus"  # frames that were, or could have been, too much for somebody


@contextmanager
def kept(frame: bytes) -> Iterator[None]:
    """Keep a frame for all tests to come if reading it raises."""
    try:
        yield
    except Exception:
        CORPUS.joinpath(f"found-{hashlib.sha256(frame).hexdigest()[:12]}.frame").write_bytes(frame)
        raise


Way = Callable[[random.Random, bytes], bytes]


def spoil(rng: random.Random, good: Sequence[bytes] = GOOD) -> bytes:
    """Return one of the good frames with one to three things changed."""
    frame = rng.choice(good)
    for _ in range(rng.randint(1, 3)):
        ways: list[Way] = [*WAYS, partial(_splice, other=rng.choice(good))]
        frame = rng.choice(ways)(rng, frame)
    return frame


def _truncate(rng: random.Random, frame: bytes) -> bytes:
    return frame[: rng.randrange(len(frame) + 1)]


def _extend(rng: random.Random, frame: bytes) -> bytes:
    return frame + rng.randbytes(rng.choice([1, 7, 8, 4096]))


def _flip(rng: random.Random, frame: bytes) -> bytes:
    spoiled = bytearray(frame)
    for _ in range(rng.randint(1, 4) if frame else 0):
        spoiled[rng.randrange(len(spoiled))] ^= 1 << rng.randrange(8)
    return bytes(spoiled)


def _resize(rng: random.Random, frame: bytes) -> bytes:
    size = rng.choice([0, 1, len(frame), len(frame) - 8, 2**31, 2**32 - 1, rng.randrange(2**16)])
    return frame[:4] + (size % 2**32).to_bytes(4, "little") + frame[8:]


def _splice(rng: random.Random, frame: bytes, other: bytes) -> bytes:
    return frame[: rng.randrange(len(frame) + 1)] + other[rng.randrange(len(other)) :]


def _junk(rng: random.Random, frame: bytes) -> bytes:
    return rng.choice([b"", MAGIC, frame[:8]]) + rng.randbytes(rng.randrange(200))


def _reword(rng: random.Random, frame: bytes) -> bytes:
    """Keep the layout right, and put a wrong value somewhere into the header."""
    try:
        header, tail = unpack(frame)
        return pack(_replace_one(rng, header), tail)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, OverflowError):
        return frame  # spoiled before: there is no header to reword


def _nest(rng: random.Random, frame: bytes) -> bytes:
    deep = rng.choice([b"\x91", b"\x81\xa1a"]) * rng.choice([10, 1000, 20_000])
    return MAGIC + len(deep).to_bytes(4, "little") + deep + frame[8:]


def _enlarge(rng: random.Random, frame: bytes) -> bytes:
    """Declare arrays of sizes that their bytes do not have."""
    try:
        header, tail = unpack(frame)
        sides = [rng.choice([2**30, 2**31, 2**32, 2**62, 2**63, 0, 1, 4]) for _ in range(rng.randint(1, 3))]
        return pack([*header[:2], [[a[0], sides] for a in header[2]]], tail)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, TypeError, LookupError):
        return frame


def _replace_one(rng: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        return value | {key: _replace_one(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [_replace_one(rng, v) if k == at else v for k, v in enumerate(value)]
    return rng.choice([None, True, "", "item", "Leave", [], {}, float("nan"), 1e308, b"\xff", *EXTREME])


WAYS: list[Way] = [*(_truncate, _extend, _flip, _resize, _junk, _reword, _nest, _enlarge)]
