"""Recorded runs: what left the clients, and the account of every byte of it."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from fedps.config.shared import LONG
from fedps.wire.frame import Frame, Limits, decode, encode
from fedps.wire.messages import Barrier, Figures, Hello, Join, Pull, Push, RoundReport, Seed, Values
from tests.privacy import marked
from tests.privacy.http2 import Unwrapped, unwrap
from tests.privacy.tap import Talk, read_talks

SUMS = {"users", "hr@10", "ndcg@10"}
ROOT = Path(__file__).parents[2]


class Recorded(NamedTuple):
    """A run: its folder, and each connection that passed the taps."""

    folder: Path
    talks: list[Talk]

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return found

    @property
    def streams(self) -> dict[str, bytes]:
        """Each direction of each connection, as it passed."""
        return {f"{way} {k}": getattr(t, way) for k, t in enumerate(self.talks) for way in ("up", "down")}

    def unwrapped(self, way: str) -> list[Unwrapped]:
        return [unwrap(getattr(talk, way)) for talk in self.talks]

    def messages(self, way: str) -> list[bytes]:
        return [m for u in self.unwrapped(way) for m in u.messages]


def record(jobs: Mapping[Path, Path], timeout: float) -> dict[Path, Recorded]:
    """Run jobs (job file → run folder) through taps, by `tapped`; return what was recorded of each."""
    arguments = [str(p) for pair in jobs.items() for p in pair]
    done = subprocess.run(
        [sys.executable, "-m", "tests.privacy.tapped", *arguments], cwd=ROOT, capture_output=True, text=True,
        timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {run: Recorded(run, read_talks(run.with_name(run.name + ".tap"))) for run in jobs.values()}


def everything(recorded: Recorded) -> dict[str, bytes]:
    """All that left a client: the raw streams, the messages in them, and the run folder without `private`."""
    found = recorded.streams
    for way in ("up", "down"):
        found |= {f"{way} message {k}": m for k, m in enumerate(recorded.messages(way))}
    private = recorded.folder / "private"
    files = [f for f in recorded.folder.rglob("*") if f.is_file() and private not in f.parents]
    return found | {str(f.relative_to(recorded.folder)): f.read_bytes() for f in files}


def check_every_byte(recorded: Recorded) -> list[Frame]:
    """Account for each byte that passed; return the frames."""
    messages = []
    for way, told in (("up", "sent_by_clients"), ("down", "received_by_clients")):
        for stream, found in zip((getattr(t, way) for t in recorded.talks), recorded.unwrapped(way), strict=True):
            assert found.size == len(stream)
            assert found.around["HEADERS"] < 1_000, "what gRPC itself says"
        messages += recorded.messages(way)
        assert sum(map(len, recorded.messages(way))) == recorded.summary["bytes"][told]
    frames = [decode(m, Limits()) for m in messages]
    assert all(m in written(f) for m, f in zip(messages, frames, strict=True)), "a byte that no frame accounts for"
    return frames


def written(frame: Frame) -> list[bytes]:
    """Return a frame's bytes; the weight of a push may be written as a whole number."""
    ticket, message, arrays = frame
    forms = [message]
    if isinstance(message, Push) and message.weight == int(message.weight):
        forms.append(msgspec.structs.replace(message, weight=int(message.weight)))
    return [encode(ticket, m, arrays) for m in forms]


def check_shared(
    frame: Frame, items: int, users: int = marked.USERS, samples: int = marked.USERS * marked.PER_USER
) -> None:
    """Make sure that a frame speaks of shared parameters only, and of rows that are items; a client has so many users and samples."""
    match frame.message:
        case Hello(job=job, client=client, instance=instance, number=number, shared=shared):
            assert len(job) + len(client) < 20, "the names that the job and the data file have"
            assert len(instance) == 16 and number == 1, "drawn by chance, and how often it was started"
            assert all(len(value) <= LONG + 20 for value in shared.values()), (
                "the job's own values, cut where they are long"
            )
        case Join(tables=specs):
            assert {s.name for s in specs} <= marked.SHARED
        case Seed(table=table):
            assert table in marked.SHARED
        case RoundReport(info=info, places=places):
            assert {table.partition(" and ")[0] for table, _ in places} <= marked.SHARED, "what servers gave, as tags"
            assert set(info.sums) <= SUMS, "sums over a client's data"
            assert info.users <= users and info.samples == samples
            assert all(a.min(initial=0) >= 0 and a.sum() <= 100 * users for a in frame.arrays[:4]), "counts of scores"
            return
        case Barrier(figures=Figures(samples=trained, sums=sums)):
            assert set(sums) <= SUMS and sums.get("users", 0) <= users and trained <= samples, (
                "sums over a client's data"
            )
        case Pull(tables=tables) | Push(tables=tables) | Values(tables=tables):
            assert set(tables) <= marked.SHARED
    for array in frame.arrays:
        if array.dtype == np.int64 and len(array):
            assert 0 <= array.min() <= array.max() < items
