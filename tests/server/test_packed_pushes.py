"""Packed pushes at the real server: the good are applied as what they stand for, the bad are refused whole."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedps.server.server import ParameterServer
from fedps.types import NO_KEYS, Init, Rule, TableSpec
from fedps.wire.compress import Array, Form, to_bf16, to_fp16, to_int8, to_low_rank
from fedps.wire.frame import Limits, encode
from fedps.wire.messages import Done, Join, Push, Refused
from tests.conftest import MakeJob
from tests.greeting import hello
from tests.memory import allocating_less_than
from tests.server.callers import BIAS, ROWS, Caller, Hostile, ones, push, state
from tests.wire.frames import spoil

KEYS = np.array([1, 4, 6], np.int64)
VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)
NO_CHANGE = np.zeros((1, 3), np.float32)
START = np.eye(4, 2, dtype=np.float32)


def packed(form: Form, values: NDArray[np.float32]) -> list[Array]:
    match form:
        case "fp16":
            return [to_fp16(values)]
        case "bf16":
            return [to_bf16(values)]
        case "int8":
            return [*to_int8(values, np.random.default_rng(0))]
        case "low_rank":
            return [*to_low_rank(values, START)]
        case _:
            return [values]


def said(form: Form, arrays: list[Array], sequence: int = 1, weight: float = 1.0) -> tuple[Any, ...]:
    return Push(("rows", "bias"), sequence, 0, weight, forms=(form, "none")), KEYS, *arrays, NO_KEYS, NO_CHANGE


@pytest.fixture
def server(make_job: MakeJob, tmp_path: Path) -> ParameterServer:
    return ParameterServer(make_job(sync_mode="async"), 0, tmp_path / "run", lambda event: None)


@pytest.mark.parametrize("form", ["fp16", "bf16", "int8", "low_rank"])
def test_rows_change_by_what_was_packed_and_once(form: Form, server: ParameterServer) -> None:
    caller = Caller(server, "7").join()
    for _ in range(2):  # said again, as after a reconnect
        assert isinstance(caller.ask(*said(form, packed(form, VALUES))), Done)
    np.testing.assert_allclose(caller.rows(*KEYS), 1 + VALUES, atol=0.1)


def column(rows: int) -> NDArray[np.float32]:
    return np.full((rows, 1), 1e30, np.float32)


FORMS: tuple[Form, ...] = ("fp16", "bf16", "int8", "low_rank")
NAN, HUGE = np.where(VALUES == 5, np.float32(np.nan), VALUES), np.where(VALUES == 5, np.float32(1e30), VALUES)
BAD: dict[str, tuple[str, Form, list[Array]]] = {
    **{f"a NaN as {form}": ("not_finite", form, packed(form, NAN)) for form in FORMS},
    "a value of 1e30 as bf16": ("too_large", "bf16", packed("bf16", HUGE)),
    "a scale of 1e30": ("too_large", "int8", packed("int8", HUGE)),
    "a scale that makes infinity": ("not_finite", "int8", [np.full(3, 3e38, np.float32), np.full((3, 4), 9, np.int8)]),
    "factors that make infinity": ("not_finite", "low_rank", [column(3), column(4)]),
    "a row too few": ("malformed", "fp16", packed("fp16", VALUES[:2])),
    "rows of another width": ("malformed", "int8", packed("int8", VALUES[:, :3])),
    "factors of another matrix": ("malformed", "low_rank", packed("low_rank", np.ones((5, 4), np.float32))),
}


@pytest.mark.parametrize(("kind", "form", "arrays"), BAD.values(), ids=BAD.keys())
def test_bad_packed_pushes_are_refused_whole(
    kind: str, form: Form, arrays: list[Array], server: ParameterServer
) -> None:
    caller = Caller(server, "7").join()
    before = state(server)
    answer = caller.ask(*said(form, arrays))
    assert isinstance(answer, Refused)
    assert answer.kind == kind
    assert state(server) == before
    assert isinstance(caller.ask(*push(1, [2], ones(1))), Done), "and the good one in its place is taken"


def test_a_small_message_does_not_unpack_to_more_than_a_message_may_hold(make_job: MakeJob, tmp_path: Path) -> None:
    """Two tables of 12 MB once unpacked, in 50 KB: each would be taken, together they pass the limit of 16 MiB."""
    server = ParameterServer(make_job(), 0, tmp_path, lambda event: None, Limits(message_bytes=16 << 20))
    wide = [TableSpec(name, "sparse", (3000, 1000), Rule("add"), Init()) for name in ("a", "b")]
    caller = Caller(server, "7").join(*wide, BIAS)
    keys, left, right = np.arange(3000), np.zeros((3000, 1), np.float32), np.zeros((1000, 1), np.float32)
    message = Push(("a", "b", "bias"), 1, 0, forms=("low_rank", "low_rank", "none"))
    data = encode(9, message, [keys, left, right, keys, left, right, NO_KEYS, NO_CHANGE])
    assert len(data) < 50_000
    with allocating_less_than(14 << 20):
        caller.connection.received(data)
    [answer] = caller.answers(9)
    assert isinstance(answer, Refused)
    assert answer.kind == "too_large"
    assert "'b': 12000000 bytes once unpacked" in answer.reason


def frames(server: ParameterServer) -> list[bytes]:
    """Return packed pushes of NaN: whatever bits are flipped, none of them is acceptable."""
    nan, bias = np.full((3, 4), np.nan, np.float32), np.full((1, 3), np.nan, np.float32)
    found = [encode(1, hello(server.job, "bad")), encode(2, Join((ROWS, BIAS), 0))]
    for form in ("fp16", "bf16", "int8", "low_rank"):
        message = Push(("rows", "bias"), 1, 0, forms=(form, "bf16"))
        found.append(encode(3, message, [KEYS, *packed(form, nan), NO_KEYS, to_bf16(bias)]))
    return found


def test_10_000_spoiled_packed_frames_change_nothing(server: ParameterServer) -> None:
    good, rng, [greeting, join, *pushes] = Caller(server, "good").join(), random.Random(0), frames(server)
    before, refused = state(server), server.refusals.total
    for _ in range(50):
        bad = Hostile(server, (greeting, join))
        for _ in range(200):
            bad.say(spoil(rng, pushes))
        bad.connection.closed()
    assert server.refusals.total - refused > 5000
    assert state(server) == before
    assert isinstance(good.ask(*push(1, [2], ones(1))), Done)
