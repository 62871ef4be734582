"""The greeting of a client that reads the same job as whom it greets."""

import re
from typing import Literal

from fedps.config import Job
from fedps.config.shared import shared_part
from fedps.wire.messages import Hello

NUMBERS = {"old": 0, "p": 1, "process": 1}  # of a client's processes; others come later, by the number they end with


def hello(
    job: Job, client: str, instance: str = "process", to: Literal["server", "coordinator"] = "server",
    number: int | None = None,
) -> Hello:  # fmt: skip
    """Return what a client of this job says first."""
    if number is None:
        said = re.search("[0-9]*$", instance)
        number = NUMBERS.get(instance, 2 + int((said and said[0]) or 0))
    return Hello(job.name, client, instance, number, to=to, shared=shared_part(job))
