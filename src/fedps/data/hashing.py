"""Ids for texts: XXH64, which is the same on every machine, in every run and in other languages.

The algorithm is that of the reference (github.com/Cyan4973/xxHash, doc/xxhash_spec.md), taken over all texts of one length
at a time, so that numpy's loops do the work.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedps.types import Keys

Words = NDArray[np.uint64]
P1, P2, P3, P4, P5 = map(
    np.uint64,
    (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5),
)
CHUNK = 1 << 14  # texts at a time: what is worked on stays in the processor's cache


def stable_hash(texts: Sequence[str], seed: int = 0) -> Keys:
    """Return the ids of texts in an open id space, int64[n]: their XXH64 as UTF-8.

    Two of n different texts get one id with a chance of about n² / 2⁶⁵.

    Args:
        texts: any, also the empty one.
        seed: the job's, 0 ≤ seed < 2⁶⁴; another seed gives all texts other ids.
    """
    data = [text.encode() for text in texts]
    lengths = np.fromiter(map(len, data), np.int64, len(data))
    hashes = np.empty(len(data), np.uint64)
    for length in np.unique(lengths).tolist():
        alike = np.flatnonzero(lengths == length)
        for first in range(0, len(alike), CHUNK):
            at = alike[first : first + CHUNK]
            joined = np.frombuffer(b"".join([data[k] for k in at.tolist()]), np.uint8)
            hashes[at] = _of_one_length(joined.reshape(len(at), length), np.uint64(seed))
    return hashes.view(np.int64)


def _of_one_length(texts: NDArray[np.uint8], seed: np.uint64) -> Words:
    """Return the XXH64 of texts, uint8[n, length]."""
    count, length = texts.shape
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        at = length // 32 * 32
        hashes = _stripes(_words(texts[:, :at], np.uint64), seed) if at else np.full(count, seed + P5)
        hashes = hashes + np.uint64(length)
        for word in _words(texts[:, at : length // 8 * 8], np.uint64).T:
            hashes = _turned(hashes ^ _round(np.zeros(count, np.uint64), word), 27) * P1 + P4
        at = length // 8 * 8
        for half in _words(texts[:, at : length // 4 * 4], np.uint32).T:
            hashes = _turned(hashes ^ half * P1, 23) * P2 + P3
        for byte in texts[:, length // 4 * 4 :].T.astype(np.uint64):
            hashes = _turned(hashes ^ byte * P5, 11) * P1
        hashes = (hashes ^ hashes >> np.uint64(33)) * P2
        hashes = (hashes ^ hashes >> np.uint64(29)) * P3
        return hashes ^ hashes >> np.uint64(32)


def _stripes(words: Words, seed: np.uint64) -> Words:
    """Take in stripes of four words each, uint64[n, 4 k]; return uint64[n]."""
    lanes = [np.full(len(words), start) for start in (seed + P1 + P2, seed + P2, seed, seed - P1)]
    for k in range(words.shape[1]):
        lanes[k % 4] = _round(lanes[k % 4], words[:, k])
    first, second, third, fourth = lanes
    hashes = _turned(first, 1) + _turned(second, 7) + _turned(third, 12) + _turned(fourth, 18)
    for lane in lanes:
        hashes = (hashes ^ _round(np.zeros_like(lane), lane)) * P1 + P4
    return hashes


def _words(texts: NDArray[np.uint8], kind: type[np.uint64 | np.uint32]) -> Words:
    """Return bytes as little-endian words, uint64[n, k]."""
    return np.ascontiguousarray(texts).view(np.dtype(kind).newbyteorder("<")).astype(np.uint64)


def _round(lane: Words, word: Words) -> Words:
    return _turned(lane + word * P2, 31) * P1


def _turned(words: Words, by: int) -> Words:
    return words << np.uint64(by) | words >> np.uint64(64 - by)
