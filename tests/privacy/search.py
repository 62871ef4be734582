"""Search bytes for secrets in every plain way they may be written.

A *needle* is one secret in one form. Needles are at least `SHORTEST` bytes, so that chance does not find them: secrets
are drawn from 2^56 ids, and floats are looked for by fours.
"""

import base64
import hashlib
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedps.vertical.matching import key_of
from fedps.vertical.points import points_of

Numbers = NDArray[Any]
Needles = dict[bytes, str]  # the bytes, and what they are
SHORTEST, SHORTEST_DECIMAL = 6, 11  # bytes; digits say less than bytes do
CHUNK = 1 << 22  # positions looked at together
STREAM_LIMIT = 64 << 20  # bytes of one unpacked stream
ZLIB = [bytes([c, f]) for c in range(0x08, 0x79, 0x10) for f in range(256) if not ((c << 8 | f) % 31 or f & 0x20)]
STREAMS = re.compile(b"|".join([rb"\x1f\x8b\x08", *map(re.escape, ZLIB)]))  # how a gzip or zlib stream may begin


def forms_of_ids(ids: Numbers) -> Needles:
    """Return the forms of a client's ids, int64[n] sorted: each alone, by its distance to the last, and by threes."""
    found: Needles = {}
    gaps = np.diff(ids)
    for name, numbers in (("id", ids), ("gap of sorted ids", gaps)):
        for number in numbers.tolist():
            _put(found, f"{name} varint", [varint(number)])
            _put(found, f"{name} zigzag varint", [varint(2 * number)])
            _put(found, f"{name} decimal", [str(number).encode()])
            _put(found, f"{name} hexadecimal", [f"{number:x}".encode(), f"{number:X}".encode()])
            _put(found, f"{name} MessagePack", [msgpack_integer(number)])
        for dtype in ("<i8", ">i8", "<f8", ">f8"):
            for raw in np.atleast_2d(numbers.astype(dtype)).T:
                _put_binary(found, f"{name} {dtype}", raw.tobytes())
    for dtype in ("<u4", ">u4", "<f4", ">f4"):
        for at in range(len(ids) - 2):
            _put_binary(found, f"three ids {dtype}", ids[at : at + 3].astype(dtype).tobytes())
    return found


def forms_of_floats(values: Numbers, what: str) -> Needles:
    """Return the forms of four floats, float32[4]."""
    found: Needles = {}
    for dtype in ("<f4", ">f4", "<f8", ">f8", "<f2", ">f2"):
        _put_binary(found, f"{what} {dtype}", values.astype(dtype).tobytes())
    for order in "<>":
        _put_binary(found, f"{what} bfloat16 {order}", bfloat16(values, order))
    numbers = values.astype(np.float64).tolist()
    _put(found, f"{what} decimal", [repr(number).encode() for number in numbers])
    for glue in (", ", ",", " ", "\n", "\t"):  # a short number alone would be found by chance among losses
        texts = ([repr(n) for n in numbers], [str(v) for v in values], [f"{n:g}" for n in numbers])
        _put(found, f"{what} decimal", [glue.join(two).encode() for t in texts for two in pairwise(t)])
    return found


def forms_of_column(values: Numbers, what: str) -> Needles:
    """Return the forms of a run of small numbers in the order of the samples, e.g. labels."""
    found: Needles = {}
    for dtype in ("u1", "<u2", ">u2", "<i4", ">i4", "<i8", ">i8", "<f4", ">f4", "<f8"):
        _put_binary(found, f"{what} {dtype}", values.astype(dtype).tobytes())
    for glue in (",", ", ", "\n", " "):
        _put(found, f"{what} text", [glue.join(map(str, values.tolist())).encode()])
    if not np.isin(values, (0, 1)).all():
        return found
    for order in ("big", "little"):
        _put_binary(found, f"{what} bits", np.packbits(values.astype(bool), bitorder=order).tobytes())
    return found


def forms_of_hashes(texts: Sequence[bytes], word: str) -> Needles:
    """Return the beginnings of what texts may be hashed to by whoever knows a word, or none."""
    found: Needles = {}
    for text in texts:
        for name in ("md5", "sha1", "sha256", "sha512", "sha3_256", "blake2b", "blake2s"):
            found[hashlib.new(name, text).digest()[:8]] = name
        for key in (word.encode(), key_of(word)):
            found[hashlib.blake2b(text, key=key).digest()[:8]] = "keyed blake2b"
            found[hashlib.sha256(key + text).digest()[:8]] = "salted sha256"
    for key in (b"", key_of(word)):
        for point in points_of(texts, key):
            found |= {point.tobytes()[at : at + 8]: "point" for at in range(0, 32, 8)}
    return found


def _put_binary(found: Needles, name: str, raw: bytes) -> None:
    """Add bytes as they are, and as the texts that bytes are put into."""
    _put(found, name, [raw])
    _put(found, f"{name} hexadecimal", [raw.hex().encode(), raw.hex().upper().encode()])
    for shift in range(3):  # base64 looks different at each of three offsets
        whole = base64.b64encode(bytes(shift) + raw)
        sure = whole[(shift * 8 + 5) // 6 : (shift + len(raw)) * 8 // 6]
        _put(found, f"{name} base64", [sure, sure.translate(bytes.maketrans(b"+/", b"-_"))])


def _put(found: Needles, name: str, needles: Iterable[bytes]) -> None:
    shortest = SHORTEST_DECIMAL if name.endswith("decimal") else SHORTEST
    found.update((n, name) for n in needles if len(n) >= shortest and n.strip(n[:1]))


def varint(number: int) -> bytes:
    """Return a number in groups of seven bits, lowest first."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def msgpack_integer(number: int) -> bytes:
    """Return a number as MessagePack writes large unsigned ones."""
    return b"\xcf" + number.to_bytes(8) if number > 0xFFFFFFFF else b"\xce" + number.to_bytes(4)


def bfloat16(values: Numbers, order: str) -> bytes:
    """Return floats cut to their upper sixteen bits."""
    return (values.astype("<f4").view("<u4") >> 16).astype(f"{order}u2").tobytes()


def search(haystacks: Mapping[str, bytes], needles: Needles) -> dict[str, set[str]]:
    """Return the forms that were found, each with the names of the haystacks (or streams packed in them)."""
    prefixes, by_prefix = _index(needles)
    hits: dict[str, set[str]] = defaultdict(set)
    for name, hay in _with_unpacked(haystacks):
        for at in _candidates(hay, prefixes):
            for needle in by_prefix[hay[at : at + SHORTEST]]:
                if hay.startswith(needle, at):
                    hits[needles[needle]].add(name)
    return dict(hits)


def _index(needles: Needles) -> tuple[NDArray[np.uint64], dict[bytes, list[bytes]]]:
    by_prefix: dict[bytes, list[bytes]] = defaultdict(list)
    for needle in needles:
        by_prefix[needle[:SHORTEST]].append(needle)
    return np.sort(np.array([int.from_bytes(p, "little") for p in by_prefix], np.uint64)), by_prefix


def _candidates(hay: bytes, prefixes: NDArray[np.uint64]) -> Iterator[int]:
    """Yield the positions at which some needle's first bytes stand: a coarse look at all, a fine one at the rest."""
    low = np.uint64((1 << 24) - 1)
    coarse = np.zeros(1 << 24, bool)
    coarse[prefixes & low] = True
    padded = np.frombuffer(hay + bytes(8), np.uint8)
    for start in range(0, len(hay), CHUNK):
        part = padded[start : start + CHUNK + 8].astype(np.uint32)
        words = part[:-8] | part[1:-7] << 8 | part[2:-6] << 16
        near = np.flatnonzero(coarse[words])
        fine = np.zeros(len(near), np.uint64)
        for k in range(SHORTEST):
            fine |= part[near + k].astype(np.uint64) << np.uint64(8 * k)
        place = np.minimum(np.searchsorted(prefixes, fine), max(len(prefixes) - 1, 0))
        yield from (start + near[prefixes[place] == fine]).tolist()


def _with_unpacked(haystacks: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for name, hay in haystacks.items():
        yield name, hay
        for at, unpacked in unpack(hay):
            yield f"{name}, packed at {at}", unpacked


def unpack(hay: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield position and contents of every zlib or gzip stream in some bytes, torn ones as far as they go."""
    for match in STREAMS.finditer(hay):
        engine, out = zlib.decompressobj(wbits=47), bytearray()  # 47: zlib or gzip, told by the header
        try:
            for start in range(match.start(), len(hay), 1 << 14):
                out += engine.decompress(hay[start : start + (1 << 14)])
                if engine.eof or len(out) > STREAM_LIMIT:
                    break
        except zlib.error:
            pass
        if len(out) >= SHORTEST:
            yield match.start(), bytes(out)


def merged(parts: Sequence[Needles]) -> Needles:
    """Return all needles of several secrets."""
    return {needle: name for part in parts for needle, name in part.items()}
