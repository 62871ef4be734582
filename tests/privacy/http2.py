"""From recorded HTTP/2 to the gRPC messages in it, leaving no byte unexplained (RFC 9113, section 4; gRPC's framing)."""

from collections import defaultdict
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PING = 0, 1, 6
NAMES = {0: "DATA", 1: "HEADERS", 3: "RST_STREAM", 4: "SETTINGS", 6: "PING", 7: "GOAWAY", 8: "WINDOW_UPDATE"}
PADDED = 0x8


class Unwrapped(NamedTuple):
    """One direction of a connection: its messages in order, and the bytes of all that is not a message, by kind."""

    messages: list[bytes]
    around: dict[str, int]

    @property
    def size(self) -> int:
        """Bytes of the direction, as its parts say."""
        return sum(map(len, self.messages)) + sum(self.around.values())


def unwrap(stream: bytes) -> Unwrapped:
    """Take a direction apart.

    Raises:
        ValueError: a frame or message is cut off, padded, compressed or of an unknown kind: bytes that could hide
            something.
    """
    around: dict[str, int] = defaultdict(int)
    data: dict[int, bytearray] = defaultdict(bytearray)
    at = 0
    if stream.startswith(PREFACE):
        at = around["preface"] = len(PREFACE)
    while at < len(stream):
        length, kind, flags = int.from_bytes(stream[at : at + 3]), stream[at + 3], stream[at + 4]
        end = at + 9 + length
        if kind not in NAMES or end > len(stream) or (kind in (DATA, HEADERS) and flags & PADDED):
            raise ValueError(f"frame of kind {kind}, flags {flags}, {length} bytes at {at} of {len(stream)}")
        if kind == DATA:
            data[int.from_bytes(stream[at + 5 : at + 9])] += stream[at + 9 : end]
            around["DATA headers"] += 9
        else:
            around[NAMES[kind]] += 9 + length
        at = end
    messages = [m for payload in data.values() for m in _messages(bytes(payload))]
    around["message headers"] = 5 * len(messages)
    return Unwrapped(messages, dict(around))


def _messages(payload: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(payload):
        compressed, length = payload[at], int.from_bytes(payload[at + 1 : at + 5])
        if compressed or at + 5 + length > len(payload):
            raise ValueError(f"a message of {length} bytes at {at} of {len(payload)}, compression {compressed}")
        found.append(payload[at + 5 : at + 5 + length])
        at += 5 + length
    return found


def wrap(messages: list[bytes], frame_size: int = 16_384) -> bytes:
    """Return messages as a client's stream that cuts them into frames; the inverse of `unwrap`, for controls."""
    payload = b"".join(b"\0" + len(m).to_bytes(4) + m for m in messages)
    cuts = [payload[at : at + frame_size] for at in range(0, len(payload), frame_size)]
    return PREFACE + b"".join(len(c).to_bytes(3) + b"\0\0" + (1).to_bytes(4) + c for c in cuts)
