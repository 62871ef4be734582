"""How an event travels from a role to the launcher, and how it stands in the journal; how a line stands in a log."""

import time
from typing import Any, Union

import msgspec
import numpy as np

from fedps.errors import FedpsError
from fedps.events import parties  # noqa: F401  (its events are some, too)
from fedps.events.events import Event, printable
from fedps.metrics import BUCKETS, Histogram

JOURNALED = {"hr@10": "hits", "ndcg@10": "ndcg"}  # sums that have another name in `events.jsonl`


def encode(event: Event) -> bytes:
    """Return an event as a role sends it to the launcher."""
    try:
        return _encoder.encode(event)
    except UnicodeEncodeError:  # it tells of a file whose name is no UTF-8
        return _encoder.encode(printable(msgspec.to_builtins(event, enc_hook=_bare)))


def decode(message: bytes) -> Event:
    """Read what `encode` wrote.

    Raises:
        FedpsError: that is no event.
    """
    try:
        event: Event = _decoder.decode(message)
    except msgspec.MsgspecError as error:
        raise FedpsError(f"what came is no event: {error}") from None
    return event


def facts(event: Event) -> dict[str, Any]:
    """Return an event as the journal holds it: its kind first, and no histogram, which would be too long.

    Sums and figures stand there by their own names, two sums by names that are older than there were others.
    """
    plain: dict[str, Any] = msgspec.to_builtins(event, enc_hook=_bare)
    for name in ("histogram", "histograms"):
        plain.pop(name, None)
    sums = {JOURNALED.get(name, name): value for name, value in plain.pop("sums", {}).items()}
    return plain | {k: v for k, v in (sums | plain.pop("figures", {})).items() if k not in plain}


def dated(line: str) -> str:
    """Return a line of a log for people as the original's Python dates it."""
    now = time.time_ns() // 1_000_000
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now // 1000))},{now % 1000:03} - INFO - {line}"


def _bare(fact: object) -> object:
    """Return what msgspec has no form for: a histogram as the bytes of int64[2, 4096], a number of numpy's as Python's."""
    if isinstance(fact, Histogram):
        return np.stack([fact.positives, fact.negatives]).tobytes()
    if isinstance(fact, np.generic):
        return fact.item()
    raise NotImplementedError(type(fact))


def _histogram(_: type, packed: bytes) -> Histogram:
    return Histogram(*np.frombuffer(packed, np.int64).reshape(2, BUCKETS))


_encoder = msgspec.msgpack.Encoder(enc_hook=_bare)
_events: Any = Union[tuple(Event.__subclasses__())]  # noqa: UP007  (made of a list)
_decoder = msgspec.msgpack.Decoder(_events, dec_hook=_histogram)
