"""What parties of vertical training tell of a run, beside what all roles do; names and fields as in `events`."""

from fedps.events.events import Event


class Matched(Event, frozen=True):
    """A party knows which samples all have: so many of its own, and so many common ones."""

    ids: int
    common: int
    seconds: float


class Measured(Event, frozen=True):
    """The active party has measured an epoch of a stage: its loss, and what held-out samples come to, by name."""

    stage: str
    epoch: int  # from 1 on
    epochs: int  # at most
    figures: dict[str, float | None]


class Staged(Event, frozen=True):
    """A stage has come to its end: the figures of the epoch that is kept, speed, and bytes of all its messages."""

    stage: str
    epoch: int  # that is kept, from 1 on
    figures: dict[str, float | None]
    samples_per_second: float
    bytes: int


class Scored(Event, frozen=True):
    """The active party has scored new samples: so many together with all others, alone, and not at all."""

    federated: int
    alone: int
    none: int


class Outcome(Event, frozen=True):
    """Vertical training has come to its end at the active party: common samples, and bytes of finding them."""

    samples: int
    held_out: int
    match_bytes: int
