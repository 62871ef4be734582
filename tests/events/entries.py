"""Entries of clients, and a ledger of so many of them."""

import numpy as np

from fedps.events.events import Entry, Event
from fedps.events.ledger import Ledger
from fedps.metrics import Histogram
from tests.conftest import MakeJob


def histogram(scores: list[float], labels: list[int]) -> Histogram:
    """Return the histogram of some scores."""
    made = Histogram()
    made.add(np.array(scores, np.float32), np.array(labels, np.float32))
    return made


def worker(who: str, at: float, event: Event) -> Entry:
    """Return what a client says."""
    return Entry(at, "worker", who, event)


def ledger_of(make_job: MakeJob, workers: int, began: float = 0.0, **runner: object) -> Ledger:
    """Return the ledger of a run of so many clients that has just begun."""
    job = make_job(**runner)
    return Ledger(job.model_copy(update={"runner": job.runner.model_copy(update={"worker_num": workers})}), began)
