"""A coordinator of simulated devices: it keeps their clock, and offers the selector only those that are online."""

from pathlib import Path
from typing import TextIO

from msgspec.structs import replace

from fedps.config import Job
from fedps.coordinator.coordinator import Coordinator
from fedps.coordinator.selectors import ClientSelectorBase, FLStrategy
from fedps.simulation.clock import Clock
from fedps.simulation.traces import read_traces
from fedps.tracking import Report
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
        super().__init__(job, report, log, selector, run_dir)
        self._clock = Clock(read_traces(job.traces) if job.traces else {})

    def _choose(self, round_: int, clients: dict[ClientId, ClientInfo]) -> dict[ClientId, FLStrategy]:
        if self.round:
            took = self._clock.advance(info.seconds for info in clients.values())
            self._report({"event": "clock", "round": self.round, "seconds": took, "clock": self._clock.now})
        present = set(self._clock.present(clients))
        return super()._choose(round_, {c: replace(i, available=c in present) for c, i in clients.items()})


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
