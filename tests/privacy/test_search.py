"""The controls of the search: planted in noise, every form is found, and only that; in noise alone, none."""

import base64
import gzip
import json
import zlib
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from fedps.wire.frame import Limits, decode, encode
from fedps.wire.messages import Pull
from tests.privacy import search
from tests.privacy.http2 import unwrap, wrap

RNG = np.random.default_rng(11)
IDS = np.sort(RNG.integers(1 << 50, 1 << 56, 5))
ROW = RNG.normal(0, 0.1, 4).astype(np.float32)
LABELS, ITEMS = RNG.integers(0, 2, 64), RNG.integers(0, 3706, 8)
NEEDLES = search.merged(
    [
        search.forms_of_ids(IDS),
        search.forms_of_floats(ROW, "row"),
        search.forms_of_column(LABELS, "labels"),
        search.forms_of_column(ITEMS, "items"),
    ]
)
NOISE = RNG.bytes(200_000)
ONE = int(IDS[2])
GAP = int(IDS[3] - IDS[2])

# What a leak would look like, written here by other means than the search uses: form and bytes.
LEAKS: dict[str, bytes] = {
    "id <i8": ONE.to_bytes(8, "little"),
    "id >i8": ONE.to_bytes(8, "big"),
    "id <f8": np.array([ONE], np.float64).tobytes(),
    "id >f8": np.array([ONE], np.float64).byteswap().tobytes(),
    "id decimal": f'{{"user": {ONE}}}'.encode(),
    "id hexadecimal": hex(ONE).encode(),
    "id <i8 hexadecimal": ONE.to_bytes(8, "little").hex().encode(),
    "id varint": b"\x08" + search.varint(ONE),
    "gap of sorted ids varint": search.varint(7) + search.varint(GAP) + search.varint(9),
    "gap of sorted ids <i8": np.diff(IDS).tobytes(),
    "three ids <f4": IDS.astype(np.float32).tobytes(),
    "three ids >u4": (IDS & 0xFFFFFFFF).astype(">u4").tobytes(),
    "row <f4": ROW.tobytes(),
    "row >f4": ROW.byteswap().tobytes(),
    "row <f8": ROW.astype(np.float64).tobytes(),
    "row >f8": ROW.astype(">f8").tobytes(),
    "row <f2": ROW.astype(np.float16).tobytes(),
    "row >f2": ROW.astype(">f2").tobytes(),
    "row bfloat16 <": b"".join(ROW[k : k + 1].tobytes()[2:] for k in range(4)),
    "row bfloat16 >": b"".join(ROW[k : k + 1].byteswap().tobytes()[:2] for k in range(4)),
    "row decimal": json.dumps(ROW.tolist()).encode(),
    "row decimal ": repr(ROW.tolist()[2]).encode(),
    "row decimal  ": " ".join(f"{x:g}" for x in ROW).encode(),
    "row decimal   ": str(list(map(str, ROW))).replace("'", "").encode(),
    "row <f4 hexadecimal": ROW.tobytes().hex().encode(),
    "labels u1": bytes(LABELS.tolist()),
    "labels <f4": LABELS.astype(np.float32).tobytes(),
    "labels bits": np.packbits(LABELS).tobytes(),
    "labels text": ",".join(map(str, LABELS)).encode(),
    "items <i8": ITEMS.tobytes(),
    "items <u2": ITEMS.astype(np.uint16).tobytes(),
}
WRAPPINGS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda leak: NOISE[:777] + leak + NOISE[777:],
    "zlib": lambda leak: NOISE[:501] + zlib.compress(b"...." + leak) + NOISE[501:],
    "zlib, fast": lambda leak: NOISE[:501] + zlib.compress(b"...." + leak, 1) + NOISE[501:],
    "gzip": lambda leak: NOISE[:502] + gzip.compress(b"...." + leak) + NOISE[502:],
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("form", LEAKS)
def test_a_planted_leak_is_found(form: str, wrapping: str) -> None:
    assert form.strip() in search.search({"wire": WRAPPINGS[wrapping](LEAKS[form])}, NEEDLES)


@pytest.mark.parametrize("url_safe", [False, True])
@pytest.mark.parametrize("shift", range(3))
@pytest.mark.parametrize("form", ["id <i8", "row <f4", "row <f2", "labels u1"])
def test_base64_is_found_at_every_offset(form: str, shift: int, url_safe: bool) -> None:
    encode64 = base64.urlsafe_b64encode if url_safe else base64.b64encode
    told = json.dumps({"note": encode64(b"#" * shift + LEAKS[form] + b"tail").decode()}).encode()
    assert f"{form} base64" in search.search({"events": told}, NEEDLES)


def test_messagepack_integers_are_found() -> None:
    assert "id MessagePack" in search.search({"wire": msgspec.msgpack.encode({"users": IDS.tolist()})}, NEEDLES)
    for number in (2**31, 2**40, 2**63):
        assert search.msgpack_integer(number) == msgspec.msgpack.encode(number)


def test_noise_alone_hits_nothing() -> None:
    assert len(NEEDLES) > 300
    assert search.search({"noise": NOISE, "zeros": bytes(100_000), "text": b"0123456789abcdef" * 999}, NEEDLES) == {}


def test_a_needle_at_the_very_end_or_over_a_chunk_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "CHUNK", 64)
    for at in (0, 57, 60, 63, 64, 1000):
        assert "row <f4" in search.search({"wire": NOISE[:at] + LEAKS["row <f4"]}, NEEDLES)


def test_every_way_of_packing_begins_as_the_search_expects() -> None:
    for level in range(10):
        for window in range(9, 16):
            engine = zlib.compressobj(level, wbits=window)
            packed = engine.compress(LEAKS["row <f8"]) + engine.flush()
            assert (0, LEAKS["row <f8"]) in list(search.unpack(packed))


def test_a_leak_that_frames_cut_in_two_is_found_in_the_messages() -> None:
    leak = LEAKS["row <f8"]
    message = NOISE[:1000] + leak + NOISE[:1000]
    stream = wrap([NOISE[:90], message], frame_size=1000 + 90 + 10 + 16)  # the cut runs through the leak
    assert search.search({"raw": stream}, NEEDLES) == {}
    found = unwrap(stream)
    assert found.messages == [NOISE[:90], message]
    assert found.size == len(stream)
    assert "row <f8" in search.search({"message": found.messages[1]}, NEEDLES)


@pytest.mark.parametrize(
    ("position", "value"),
    [(24 + 3, 77), (24 + 4, 0x8), (24, 0xFF), (24 + 9, 1), (24 + 9 + 4, 200)],
    ids=["unknown kind", "padded", "cut off", "compressed", "message cut off"],
)
def test_bytes_that_may_hide_something_are_not_passed_over(position: int, value: int) -> None:
    stream = bytearray(wrap([b"x" * 100]))
    stream[position] = value
    with pytest.raises(ValueError, match="bytes at"):
        unwrap(bytes(stream))


def test_padding_between_arrays_is_compared_too() -> None:
    message = encode(1, Pull(("item.weight",)), [np.arange(3)])
    start = 8 + int.from_bytes(message[4:8], "little")
    end = start + -start % 8  # where the array begins
    assert message[start:end] == bytes(end - start)
    assert end > start, "this message has padding to hide in"
    altered = message[:start] + b"!" + message[start + 1 :]
    frame = decode(altered, Limits())
    assert encode(*frame) == message != altered, "it decodes, and its true bytes are other ones"
