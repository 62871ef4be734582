"""The active party's life: it listens, finds the common samples with the passive parties, trains, evaluates, and saves.

Stages, in this order: `federated`, with all parties; `passive`, where the job's `lift` asks for it, with the top on passive
parties' features alone; `active`, with nobody else.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from fedps.config.vertical import VerticalJob
from fedps.events.events import Report
from fedps.vertical.joined import Measured


class Stage(NamedTuple):
    """What a stage came to.

    Attributes:
        epochs: each epoch's metrics.
        best: the place in `epochs` of the one that is kept.
        samples_per_second: of training, without evaluation.
        bytes: sent and received in it by the active party.
    """

    epochs: list[Measured]
    best: int
    samples_per_second: float
    bytes: int


class Outcome(NamedTuple):
    """What a job came to.

    Attributes:
        samples: common samples that are trained on.
        held_out: those that are not.
        stages: by name.
        match_bytes: sent and received to find the common samples.
    """

    samples: int
    held_out: int
    stages: Mapping[str, Stage]
    match_bytes: int


def run_active(job: VerticalJob, folder: Path, bind: str, report: Report, ready: Callable[[str], None]) -> Outcome:
    """Live the active party's life.

    Args:
        job: the job, with its own part at least.
        folder: its own, `parties/<name>` of the run's folder: `model/`, `checkpoint/` and `matched` lie in it.
        bind: `host:port` where it listens; port 0 takes a free one.
        report: where events go.
        ready: called with the real address, once connections are taken.

    Raises:
        JobError: the job, a party's data or its network has a mistake; or the address cannot be bound.
        DataError: a file cannot be read, or written.
        RefusedError: a passive party has said what may not be; it is named.
        LostError: a passive party never came, went away, or was silent for too long; it is named.
    """
    raise NotImplementedError
