"""R3: spoiled frames at the real server, beside an honest client whose answers stay right."""

import random
from pathlib import Path

import numpy as np
import psutil
import pytest

from fedps.server.server import ParameterServer
from fedps.types import NO_KEYS
from fedps.wire.frame import encode
from fedps.wire.messages import Barrier, Done, Join, Leave, Pull, Push, Seed, Values
from tests.conftest import MakeJob
from tests.greeting import hello
from tests.server.callers import BIAS, ROWS, Caller, Hostile, state
from tests.wire.frames import CORPUS, kept, spoil

KEYS = np.array([1, 4, 6], np.int64)
# no flipped bits, and no piece of another frame, make pushes of nothing but NaN acceptable
NAN, CHANGE = np.full((1, 3), np.nan, np.float32), np.full((3, 4), np.nan, np.float32)
REST = [
    encode(2, Join((ROWS, BIAS), 0)),
    encode(3, Seed("bias"), [NAN]),
    encode(4, Pull(("rows", "bias")), [KEYS, NO_KEYS]),
    *(encode(5, Push(("rows", "bias"), n, 0, 1.0), [KEYS, CHANGE, NO_KEYS, NAN]) for n in (1, 2)),
    encode(6, Push(("rows", "bias"), 1, 0, 1.0, 0, 3), [KEYS, CHANGE, NO_KEYS, NAN]),
    encode(7, Barrier(1, "trained")),
    encode(8, Leave()),
]


def frames_for(server: ParameterServer) -> list[bytes]:
    """Return frames that a client may send: Hello, Join, and what changes nothing for its NaN."""
    return [encode(1, hello(server.job, "bad")), *REST]


class Honest(Caller):
    """A client that knows what each answer must be."""

    def __init__(self, server: ParameterServer) -> None:
        super().__init__(server, "good")
        self.join()
        self._due = np.ones((100, 4), np.float32)
        self._rng, self._pushes = np.random.default_rng(0), 0

    def turn(self) -> None:
        """Push to some rows, pull some, and compare."""
        keys = np.unique(self._rng.integers(0, 100, 20))
        change = self._rng.normal(size=(len(keys), 4)).astype(np.float32)
        self._due[keys] += change
        self._pushes += 1
        bias = np.zeros((1, 3), np.float32)
        pushed = self.ask(Push(("rows", "bias"), self._pushes, 0), keys, change, NO_KEYS, bias)
        assert isinstance(pushed, Done) and not pushed.late
        assert isinstance(self.ask(Pull(("rows",)), np.arange(100)), Values)
        assert self.replies[-1].arrays[0].tobytes() == self._due.tobytes()
        self.replies.clear()


def make_server(make_job: MakeJob, folder: Path) -> ParameterServer:
    return ParameterServer(make_job(sync_mode="async"), 0, folder / "run", lambda event: None)


def fuzz(server: ParameterServer, honest: Honest, frames: int, seed: int) -> None:
    """Send spoiled frames, 200 from each of many hostile clients; the honest client has a turn after each 100."""
    print(f"seed {seed}")
    rng, opening = random.Random(seed), frames_for(server)
    for _ in range(frames // 200):
        hostile = Hostile(server, opening[:2])
        for half in range(2):
            for _ in range(100):
                frame = spoil(rng, opening)
                with kept(frame):
                    hostile.say(frame)
            honest.turn()
            if half == 0 and rng.random() < 0.5:
                hostile.connection.closed()  # and some go on talking
        hostile.connection.closed()
        assert hostile.answers > 2


def test_30_000_spoiled_frames_change_nothing(make_job: MakeJob, tmp_path: Path) -> None:
    quiet, loud = make_server(make_job, tmp_path), make_server(make_job, tmp_path)
    alone, beside = Honest(quiet), Honest(loud)
    fuzz(loud, beside, 30_000, seed=1)
    for _ in range(300):
        alone.turn()
    assert state(loud) == state(quiet)
    assert loud.refusals.total > 15_000 and quiet.refusals.total == 0
    assert loud.roster.connected == ["good"]


def test_the_corpus_changes_nothing(make_job: MakeJob, tmp_path: Path) -> None:
    quiet, loud = make_server(make_job, tmp_path), make_server(make_job, tmp_path)
    alone, beside = Honest(quiet), Honest(loud)
    for path in sorted(CORPUS.iterdir()):
        for opening in ([], frames_for(loud)[:1], frames_for(loud)[:2]):
            Hostile(loud, opening).say(path.read_bytes())
        beside.turn()
        alone.turn()
    assert state(loud) == state(quiet)
    assert loud.refusals.total > 2 * len(list(CORPUS.iterdir()))


def test_the_comparison_would_find_an_accepted_push(make_job: MakeJob, tmp_path: Path) -> None:
    """The control: the same frame without its NaN is applied, and the honest client sees it."""
    server = make_server(make_job, tmp_path)
    honest, hostile = Honest(server), Hostile(server, frames_for(server)[:2])
    change, bias = np.full((3, 4), 7, np.float32), np.zeros((1, 3), np.float32)
    hostile.say(encode(5, Push(("rows", "bias"), 1, 0), [KEYS, change, NO_KEYS, bias]))
    with pytest.raises(AssertionError):
        honest.turn()


@pytest.mark.slow
def test_1_000_000_spoiled_frames_change_nothing_and_leave_no_memory(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job, tmp_path)
    honest, process = Honest(server), psutil.Process()
    fuzz(server, honest, 50_000, seed=2)  # caches fill
    before = process.memory_info().rss
    fuzz(server, honest, 950_000, seed=3)
    assert process.memory_info().rss - before < 32 << 20
    assert server.refusals.total > 500_000
