"""What a coordinator remembers beyond its process: one file in the run folder, written whole or not at all.

A restarted coordinator takes up the round, who is told what, the history and the selector's state. A job that starts
from another's model (`warmup_model_path`) takes up the last two.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from fedps.coordinator.members import Member
from fedps.coordinator.planner import History, Planner
from fedps.coordinator.selectors import Turns, state_of
from fedps.errors import FedpsError, JobError
from fedps.storage.whole import write_whole
from fedps.types import ClientId
from fedps.wire.messages import Assignment

FILE = "coordinator.json"


class SavedMember(msgspec.Struct, frozen=True):
    """One client: the process that speaks for it, and what that was last told."""

    instance: str
    round: int
    told: Assignment | None


class Saved(msgspec.Struct, frozen=True):
    """What the file holds. `selector` is the job's word for it, `state` what it returned; `clock`: simulated seconds."""

    round: int
    members: dict[ClientId, SavedMember]
    finished: dict[ClientId, str]
    history: dict[ClientId, Turns]
    selector: str
    state: Any = None
    best: float | None = None
    since: int = 0
    end: str | None = None
    clock: float = 0.0


def write(folder: Path, saved: Saved) -> None:
    """Write a state; what was there stays whole until the new one is.

    Raises:
        FedpsError: it cannot be written; names the file.
    """
    path = folder / FILE
    try:
        write_whole(path, msgspec.json.encode(saved))
    except OSError as error:
        raise FedpsError(f"{path}: the coordinator's state cannot be written: {error.strerror}") from error


def read(folder: Path) -> Saved | None:
    """Return the state that lies in a folder, None if there is none.

    Raises:
        JobError: the file cannot be read, or is none of ours.
    """
    path = folder / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Saved)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise JobError(f"{path}: is no coordinator's state: {error}; remove it to begin without") from error


def saved_from(
    planner: Planner, round_: int, members: Mapping[ClientId, Member], finished: Mapping[ClientId, str], selector: str
) -> Saved:
    """Return what to remember beyond this process.

    Raises:
        Exception: what the selector raised, or that its state is not of the kind that can be kept.
    """
    kept = {client: SavedMember(m.instance, m.round, m.told) for client, m in members.items()}
    stopping = planner.stopping
    return Saved(
        round_, kept, dict(finished), planner.history.turns, selector, state_of(planner.selector),
        stopping.best, stopping.since, stopping.reason,
    )  # fmt: skip


def restore(planner: Planner, saved: Saved, selector: str) -> bool:
    """Let a planner go on from there; return whether its selector did too.

    Raises:
        JobError: the selector does not take its state.
    """
    planner.history = History(saved.history)
    stopping = planner.stopping
    stopping.best, stopping.since, stopping.reason = saved.best, saved.since, saved.end
    if saved.state is None or saved.selector != selector:
        return False
    try:
        planner.selector.load_state(saved.state)
    except Exception as error:  # whatever the user's own code raises
        name = type(planner.selector).__name__
        raise JobError(
            f"{name}.load_state(): {type(error).__name__}: {error}; remove {FILE} to begin without"
        ) from error
    return True
