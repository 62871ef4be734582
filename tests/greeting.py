"""The greeting of a client that reads the same job as whom it greets."""

from typing import Literal

from fedps.config import Job
from fedps.config.shared import shared_part
from fedps.wire.messages import Hello


def hello(job: Job, client: str, instance: str = "process", to: Literal["server", "coordinator"] = "server") -> Hello:
    """Return what a client of this job says first."""
    return Hello(job.name, client, instance, to=to, shared=shared_part(job))
