"""What a coordinator remembers beyond its process: two files in the run folder.

`coordinator.json` is small and replaced whole with each round: the round, what each client was assigned, the selector's
state. `turns.jsonl` is what grows from round to round, the clients' turns, and is only appended to: a line is `[client,
turn]`, and of two that tell of one round the later holds. Turns are on disk before the state that follows from them; so a
process that dies between the two has lost nothing, for its clients report that round again.

A restarted coordinator takes up all of it. A job that starts from another's model (`warmup_model_path`) takes up the
turns and the selector's state.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from fedps.coordinator.selectors import Turn, Turns
from fedps.errors import FedpsError, JobError
from fedps.storage.whole import append, write_whole
from fedps.types import ClientId
from fedps.wire.messages import Assignment

STATE, TURNS = "coordinator.json", "turns.jsonl"
Line = tuple[ClientId, Turn]
DECODER, ENCODER = msgspec.json.Decoder(Line), msgspec.json.Encoder()


class MemberRecord(msgspec.Struct, frozen=True):
    """One client: the process that speaks for it, and the answer to its last report."""

    instance: str
    assignment: Assignment | None = None


class Checkpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """What `coordinator.json` holds.

    Args:
        round: the one that was open.
        members: all clients that took part.
        selector: the job's word for it.
        state: what the selector returned.
        best, since, end: as `planner.Stopping` has them.
        clock: simulated seconds.
        before: rounds that were counted before round 1 was begun again; the lines of turns count them, too.
        history: turns, where an earlier version wrote the file.
    """

    round: int
    members: dict[ClientId, MemberRecord]
    selector: str
    state: Any = None
    best: float | None = None
    since: int = 0
    end: str | None = None
    clock: float = 0.0
    before: int = 0
    history: dict[ClientId, Turns] = {}


class Memory:
    """The two files of one run folder.

    Args:
        folder: the run's; None remembers nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._before = 0  # as in `Checkpoint`
        self._length = 0  # bytes of whole lines of turns; a line that a dying process cut off is overwritten

    def begin_anew(self, rounds: int) -> None:
        """Note that rounds are counted from 1 again, after so many."""
        self._before += rounds

    def read(self) -> tuple[Checkpoint, list[Line]] | None:
        """Return the state and all turns, each client's in their order; None if there is no state.

        Raises:
            JobError: a file cannot be read, or is none of ours.
        """
        if self._folder is None or not (path := self._folder / STATE).exists():
            return None
        try:
            checkpoint = msgspec.json.decode(path.read_bytes(), type=Checkpoint)
            turns = [(client, turn) for client, ts in checkpoint.history.items() for turn in ts]
            path = self._folder / TURNS
            lines = path.read_bytes() if path.exists() else b""
            self._before, self._length = checkpoint.before, lines.rfind(b"\n") + 1
            for client, turn in DECODER.decode_lines(lines[: self._length]):
                turns.append((client, turn._replace(round=turn.round - self._before)))
        except (OSError, msgspec.MsgspecError) as error:
            raise JobError(f"{path}: is no coordinator's state: {error}; remove it to begin without") from error
        return checkpoint, turns

    def write(self, checkpoint: Checkpoint, news: Sequence[Line]) -> None:
        """Write a state, and the turns that are new in it; what was there stays whole until they are.

        Raises:
            FedpsError: they cannot be written; names the file.
        """
        if self._folder is None:
            return
        path = self._folder / TURNS
        try:
            lines = ENCODER.encode_lines(
                (client, turn._replace(round=turn.round + self._before)) for client, turn in news
            )
            if lines:
                append(path, lines, self._length)
                self._length += len(lines)
            path = self._folder / STATE  # which syncs the other's name, too
            write_whole(path, msgspec.json.encode(msgspec.structs.replace(checkpoint, before=self._before)))
        except OSError as error:
            raise FedpsError(f"{path}: the coordinator's state cannot be written: {error.strerror}") from error
