"""Run the coordinator in the foreground, behind a listener, until all clients have left."""

from contextlib import closing
from pathlib import Path
from typing import TextIO

from fedps.access.audit import Audit
from fedps.config import Job
from fedps.coordinator.coordinator import Coordinator
from fedps.coordinator.selectors import ClientSelectorBase
from fedps.errors import LostError
from fedps.events import events
from fedps.events.events import Report
from fedps.net.listener import serve_to_the_end
from fedps.net.protection import protect


def run_coordinator(
    job: Job, bind: str, report: Report, log: TextIO | None = None, selector: ClientSelectorBase | None = None,
    stay: bool = False, run_dir: Path | None = None, resume_at: int | None = None,
) -> None:  # fmt: skip
    """Coordinate a job until every client has come and left, or SIGTERM.

    Args:
        job: the resolved job.
        bind: `host:port`; port 0 takes a free one, told in the event `ready`.
        report: where events go.
        log: where lines for people go; by default standard output.
        selector: who is picked; by default the job's `client_selector`.
        stay: wait for SIGTERM though all have left.
        run_dir: the run's folder, where its state is kept; None keeps none.
        resume_at: the round to go on with; by default the newest that was saved.

    Raises:
        JobError: the address cannot be bound, its certificates cannot be used, or the selector cannot be made.
        LostError: it ended by itself, for all clients were lost and none took leave.
        Exception: what the selector raised.
    """
    audit = Audit(run_dir, "coordinator", 0, job, report)
    report = audit.report
    certificates = protect(job.security, "coordinator", "0", [bind])
    coordinator = Coordinator(job, report, log, selector, run_dir, resume_at=resume_at)

    def ready(address: str) -> None:
        coordinator.say_ready(address)
        report(events.Ready(address))

    with audit:
        with closing(coordinator):
            serve_to_the_end(coordinator, bind, ready, stay, audit, certificates=certificates)
        if not stay and coordinator.members.abandoned:
            raise LostError(f"all clients were lost in round {coordinator.round.number} of {job.runner.epochs}")
        report(events.Stopped())
