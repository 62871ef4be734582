"""Every event of a run, as a frozen struct.

A role hands its events to a `Report`. The launcher stamps each with a time, the role and its id: that is an `Entry`,
which the ledger adds up, the progress shows, and the journal writes as one line of `events.jsonl`, with the names below
as keys and the struct's own name as `event`. Those lines are read by other tools, so names here never change.

Epochs are counted from 0 where one begins, ends or goes on, rounds from 1; an epoch that is evaluated or saved is
named by the round that it ends. Seconds are real ones unless they are said to be simulated.
"""

import re
import time
import traceback
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import msgspec

from fedps.errors import DataError, FedpsError, JobError, RefusedError, shortage, speaks_for_itself
from fedps.metrics import Histogram
from fedps.types import ClientId, Counts, TableName


class Event(
    msgspec.Struct, frozen=True, tag_field="event", tag=lambda name: re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
):
    """Something that a role tells of itself; the kind of EpochBegin is `epoch_begin`."""


Report = Callable[[Event], None]
FINAL = ("identity", "differs")  # refusals that are not made good by another process
STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # which nobody sets, and no sleep of the machine stops
_ZERO = time.time() - time.clock_gettime(STEADY)  # the same, seconds since 1970


class Entry(NamedTuple):
    """An event with its time (seconds since 1970), and the role and id of whom it is."""

    time: float
    role: str
    id: str
    event: Event


class Started(Event, frozen=True):
    """A process has begun to play its role."""

    pid: int


class Ready(Event, frozen=True):
    """A server or the coordinator listens; `address` is host:port."""

    address: str


class Checked(Event, frozen=True):
    """The job's network was looked at: the mistakes found, or where its parameters live and by what steps they train."""

    mistakes: list[str]  # sentences for people; without any the job can run
    private: list[str] = []  # names of parameters, as those that are shared
    shared: list[str] = []
    engine: str = ""  # `compiled` or `torch`
    reason: str | None = None  # why it is torch
    notes: list[str] = []  # what was found amiss in the cache of compiled steps, and mended
    plan: str = ""  # file of the network made ready; empty if it was not kept


class Failed(Event, frozen=True):
    """A role cannot go on; `in_job`: to start it again is no use; `in_data`: because of a mistake in the data."""

    error: str
    traceback: str = ""
    in_job: bool = False
    in_data: bool = False

    @classmethod
    def of(cls, error: BaseException) -> "Failed":
        """Tell of an exception; what fedps says of itself, or of a disk that fails, is told by its sentence alone."""
        reason = shortage(error) or (
            str(error) if isinstance(error, FedpsError) else f"{type(error).__name__}: {error}"
        )
        final = isinstance(error, JobError) or (isinstance(error, RefusedError) and error.kind in FINAL)
        trace = "" if speaks_for_itself(error) else printable("".join(traceback.format_exception(error)))
        return cls(printable(reason), trace, final, isinstance(error, DataError))


class Restarted(Event, frozen=True):
    """The launcher starts a role again that has failed, for the `attempt`-th time, from 1."""

    reason: str
    attempt: int


class Resumed(Event, frozen=True):
    """The launcher goes on with a run that was broken off; `exact`: as if it had not been."""

    broken_off: float  # when the last was heard of it, seconds since 1970
    exact: bool
    epochs: dict[ClientId, int]  # that each client has behind it,
    batches: dict[ClientId, int]  # and of the next one


class Scripted(Event, frozen=True):
    """A training script of the user's plays the roles: its file, what it is given, and the folder it is started in."""

    script: str
    args: list[str]
    folder: str


class Stopped(Event, frozen=True):
    """A server or the coordinator has ended in order; the messages that a server refused, and pushes that came once more."""

    rejected: int | None = None
    repeated: int | None = None


class Audited(Event, frozen=True):
    """The audit log of a server or the coordinator is complete: how many entries it has, and the digest of the last."""

    entries: int
    digest: str


class Closed(Event, frozen=True):
    """The launcher has ended the run."""

    status: str
    error: str | None


class Read(Event, frozen=True):
    """A client has read its `train` or `test` samples."""

    side: str
    files: list[str]  # names, without folders
    reader: str  # by what, in a few words
    samples: int
    seconds: float


class Unsaved(Event, frozen=True):
    """A server or a client could not save its part of an epoch, or a client a checkpoint behind it; training goes on."""

    epoch: int
    reason: str
    what: Literal["epoch", "checkpoint"] = "epoch"


class Note(Event, frozen=True):
    """What the user must know; `seen`: who looked through the data before anybody trained has said it."""

    note: str
    seen: bool = False


class Skipped(Event, frozen=True):
    """Malformed lines were passed over; what they say stays in the client's log."""

    side: str
    lines: int


class Data(Event, frozen=True):
    """A client's data is ready: training samples, users held out, and what popularity comes to, as sums over those."""

    samples: int
    test_users: int
    popularity: dict[str, int | float] = {}


class Assigned(Event, frozen=True):
    """A client has got its assignment for a round, `seconds` after its report of the last one."""

    round: int
    state: Literal["JOIN", "WAIT", "FINISH"]
    evaluate: bool
    seconds: float


class EpochBegin(Event, frozen=True):
    """A client begins to train."""

    epoch: int


class FirstBatch(Event, frozen=True):
    """A client has trained its very first batch: its start is over."""


class Progress(Event, frozen=True):
    """How far a client's training has come: batches and samples of this epoch."""

    epoch: int
    batch: int  # batches done
    batches: int  # batches in all
    samples: int  # samples done
    loss: float  # mean of the batches since the last such event
    auc: float | None  # of all the process has trained; None if that is of one class alone


class Dropped(Event, frozen=True):
    """So many events of a role's progress were left out, because the launcher did not read; no other kind ever is."""

    count: int


class AtWork(Event, frozen=True):
    """A client is at work on what takes it long, several times in `step_timeout`; the servers are told as well."""


class EpochEnd(Event, frozen=True):
    """What a client's training of an epoch came to."""

    epoch: int
    samples: int
    loss: float  # mean over samples
    auc: float | None  # of all the process has trained; None if that is of one class alone
    histogram: Histogram  # of the epoch's scores
    waited: float = 0.0  # seconds of it in which rows or merges were waited for
    late: int = 0  # pushes that came after their step or window was closed: what they changed is lost


class EvaluateBegin(Event, frozen=True):
    """A client begins to score its held-out users."""

    epoch: int


class Evaluated(Event, frozen=True):
    """Sums over a client's held-out samples, by name as `figures.sums_of` lists them, and histograms of all scores."""

    epoch: int
    sums: dict[str, int | float]
    histograms: dict[str, Histogram]  # by the AUC that each tells


class Simulated(Event, frozen=True):
    """What a round took a client's simulated device, seconds, and its fate; empty if it came to the end."""

    round: int
    seconds: float
    fate: str


class Done(Event, frozen=True):
    """A client has left in order; bytes over all its connections, and messages that were sent again."""

    bytes_sent: int
    bytes_received: int
    retries: int


class Saved(Event, frozen=True):
    """A server has written an epoch."""

    epoch: int
    folder: str
    seconds: float


class Tables(Event, frozen=True):
    """What the rows of a server's sparse tables are at the end of an epoch, by table."""

    epoch: int
    tables: dict[TableName, Counts]


class Loaded(Event, frozen=True):
    """A server starts from a saved epoch."""

    folder: str
    seconds: float


class Joined(Event, frozen=True):
    """A client takes part from now on, by this process of it."""

    client: str
    instance: str


class Left(Event, frozen=True):
    """A client has taken leave."""

    client: str


class Expelled(Event, frozen=True):
    """A client that took part is counted as one that never came; why, it was told (`refused`)."""

    client: str


class Lost(Event, frozen=True):
    """A client's connection broke, and it did not come back in time."""

    client: str
    reason: str


class Refused(Event, frozen=True):
    """Messages were refused; `client` is an address where the sender had not said its name."""

    client: str
    kind: str
    reason: str
    count: int = 1


class Suspended(Event, frozen=True):
    """A server goes on without a client from this clock on, until it speaks again."""

    client: str
    clock: int
    reason: str


class LeftBehind(Event, frozen=True):
    """The coordinator goes on without a client's report of a round."""

    client: str
    round: int
    reason: str


class Selected(Event, frozen=True):
    """Who trains in a round, who waits and who is done; `seconds` is what the decision took."""

    round: int
    selected: list[ClientId]
    waiting: list[ClientId]
    finished: list[ClientId]
    seconds: float


class Round(Event, frozen=True):
    """What the clients reported of a round, merged: figures by name, None where nobody trained or evaluated."""

    round: int
    figures: dict[str, int | float | None]


class Completed(Event, frozen=True):
    """All figures of a round by name, as the summary has them: nothing more of it comes."""

    round: int
    figures: dict[str, int | float | list[ClientId] | None]


class Compared(Event, frozen=True):
    """What servers gave clients in a round was compared: so many rows and tensors that at least two had."""

    round: int
    values: int
    alone: list[ClientId]  # of whom none could be compared
    differs: str = ""  # what a server gave to some and not to others; empty if nothing


class Taught(Event, frozen=True):
    """Soft targets were made of a round's logits: each client's weight, and their mean cross-entropy against the labels."""

    round: int
    loss: float
    weights: dict[ClientId, float]


class EndsEarly(Event, frozen=True):
    """The job ends before its last round."""

    round: int
    reason: str


class Clock(Event, frozen=True):
    """What a round took simulated devices, and their clock at its end; simulated seconds."""

    round: int
    seconds: float
    clock: float


def now() -> float:
    """Return seconds since 1970 as this process first knew them, and counts on: no clock that is set makes a time jump."""
    return _ZERO + time.clock_gettime(STEADY)


def stamp(role: str, name: str, event: Event) -> Entry:
    """Stamp an event that has just come."""
    return Entry(round(now(), 6), role, name, event)


def printable(fact: Any, kept: str = "\n\t") -> Any:
    """Return a fact with all characters that cannot be printed, but those `kept`, written as escapes."""
    if isinstance(fact, str):
        escaped = (c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in fact)
        return fact if fact.isprintable() else "".join(escaped)
    if isinstance(fact, dict):
        return {key: printable(value) for key, value in fact.items()}
    return [printable(value) for value in fact] if isinstance(fact, list) else fact
