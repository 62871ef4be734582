"""A coordinator of simulated devices: it keeps their clock, and offers the selector only those that are online."""

from pathlib import Path
from typing import TextIO

from msgspec.structs import replace

from fedps.config import Job
from fedps.coordinator.coordinator import Coordinator
from fedps.coordinator.resuming import Saved
from fedps.coordinator.selectors import ClientSelectorBase, FLStrategy
from fedps.events import events
from fedps.events.events import Report
from fedps.simulation.clock import Clock
from fedps.simulation.traces import read_traces
from fedps.types import ClientId, ClientInfo


class SimulatedCoordinator(Coordinator):
    """Decides as `Coordinator` does, at the simulated times at which rounds end.

    Args:
        job: the job; it names traces.
        report, log, selector, run_dir: as for `Coordinator`.

    Raises:
        JobError: the traces cannot be read, or the job's selector cannot be made.
    """

    def __init__(
        self, job: Job, report: Report, log: TextIO | None = None, selector: ClientSelectorBase | None = None,
        run_dir: Path | None = None,
    ) -> None:  # fmt: skip
        self._clock = Clock(read_traces(job.traces) if job.traces else {})
        super().__init__(job, report, log, selector, run_dir)

    def _choose(self, round_: int, clients: dict[ClientId, ClientInfo]) -> dict[ClientId, FLStrategy]:
        if not self.round:
            self._clock.now = 0.0  # what an earlier process left belongs to rounds that do not count any more
        else:
            took = self._clock.advance(info.seconds for info in clients.values())
            self._report(events.Clock(self.round, took, self._clock.now))
        present = set(self._clock.present(clients))
        return super()._choose(round_, {c: replace(i, available=c in present) for c, i in clients.items()})

    def _saved(self) -> Saved:
        return replace(super()._saved(), clock=self._clock.now)

    def _restore(self, saved: Saved) -> None:
        super()._restore(saved)
        self._clock.now = saved.clock


def make_coordinator(
    job: Job, report: Report, log: TextIO | None = None, selector: ClientSelectorBase | None = None,
    run_dir: Path | None = None,
) -> Coordinator:  # fmt: skip
    """Return the job's coordinator, of simulated devices if it names traces.

    Raises:
        JobError: the traces cannot be read, or the job's selector cannot be made.
    """
    kind = Coordinator if job.traces is None else SimulatedCoordinator
    return kind(job, report, log, selector, run_dir)
