"""Clients of a coordinator without a network: each keeps its replies."""

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from fedps.config import Job
from fedps.coordinator.coordinator import Coordinator
from fedps.coordinator.selectors import ClientSelectorBase
from fedps.types import ClientInfo
from fedps.wire.frame import Limits, decode, encode
from fedps.wire.messages import Assignment, Message, RoundReport, Welcome
from tests.events.kept import into
from tests.greeting import hello

NONE = np.empty(0, np.int64)
Events = list[dict[str, Any]]


class Caller:
    """A client that keeps its replies."""

    def __init__(self, coordinator: Coordinator, client: str, instance: str = "p", greet: bool = True) -> None:
        self.coordinator, self.replies, self.hung_up = coordinator, list[Message](), False
        self._ticket = 0
        self._hello = hello(coordinator.job, client, instance, "coordinator")
        self.connection = coordinator.opened(self._take, "test")
        if greet:
            assert isinstance(self.greet(), Welcome)

    def greet(self) -> Message:
        return self.ask(self._hello)

    def _take(self, data: bytes | None) -> None:
        if data is None:
            self.hung_up = True
        else:
            self.replies.append(decode(data, Limits()).message)

    def send(self, message: Message, arrays: Any = ()) -> None:
        self._ticket += 1
        self.connection.received(encode(self._ticket, message, arrays))

    def ask(self, message: Message, arrays: Any = ()) -> Message:
        before = len(self.replies)
        self.send(message, arrays)
        assert len(self.replies) == before + 1, f"no reply to {message}"
        return self.replies[-1]

    def report(self, round_: int, info: ClientInfo | None = None, arrays: Any = (NONE,) * 4) -> None:
        self.send(RoundReport(round_, info or ClientInfo(samples=5)), arrays)

    @property
    def told(self) -> list[Assignment]:
        """What it was assigned, but for the round's secret."""
        return [replace(r, secret=b"") for r in self.replies if isinstance(r, Assignment)]


def with_keys(job: Job, **runner: Any) -> Job:
    """Return the job with other keys of its runner, and of `selector` where one is given so."""
    settings = runner.pop("selector", {})
    return job.model_copy(
        update={
            "runner": job.runner.model_copy(update=runner),
            "selector": job.selector.model_copy(update=settings),
        }
    )


STARTED: list[Coordinator] = []  # that keep a state; those of a test end with it


def started(
    job: Job, events: Events, selector: ClientSelectorBase | None = None, run_dir: Path | None = None, **more: Any
) -> Coordinator:
    """Return a coordinator that tells its events to a list; one that still has the folder dies first."""
    if run_dir is not None:
        kill_all()
    coordinator = Coordinator(job, into(events), io.StringIO(), selector, run_dir, **more)
    STARTED.append(coordinator)
    return coordinator


def kill_all() -> None:
    """Let what the coordinators hold go, as it does when their processes are killed: nothing more is saved."""
    while STARTED:
        STARTED.pop()._memory.close()


def later(seconds: float) -> float:
    """Return a time so many seconds from now."""
    return time.monotonic() + seconds
