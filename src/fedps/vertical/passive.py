"""A passive party's life: it dials the active one, finds the common samples with it, trains its own part, and saves that."""

from pathlib import Path

from fedps.config.vertical import VerticalJob
from fedps.events.events import Report


def run_passive(job: VerticalJob, party: str, folder: Path, address: str, report: Report) -> None:
    """Live a passive party's life.

    Args:
        job: the job, with this party's part at least.
        party: its name.
        folder: its own, as for `run_active`.
        address: `host:port` at which the active party listens.
        report: where events go.

    Raises:
        JobError: the job, the party's data or its network has a mistake.
        DataError: a file cannot be read, or written.
        RefusedError: the active party takes something amiss, and says what; or has said what may not be.
        LostError: the active party does not answer, or went away.
    """
    raise NotImplementedError
