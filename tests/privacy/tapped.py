"""Run jobs with the real launcher and real processes, every byte between them through taps.

    python -m tests.privacy.tapped JOB.yaml RUN_DIR [JOB.yaml RUN_DIR ...]

leaves beside each run's folder `RUN_DIR.tap/` with the recordings. It is a program of its own, so that whatever a run
starts is a child of it, and one fork server does for all jobs.
"""

import sys
from pathlib import Path

from fedps.config import load_job
from fedps.launch.folder import make_run_folder
from fedps.launch.launcher import Launch
from fedps.launch.local import processes as roles
from tests.privacy.tap import Tap, write_talks


class TappedLaunch(Launch):
    """The launcher as it is, but workers are told the taps' addresses for the servers' and the coordinator's."""

    def _addresses(self) -> tuple[list[str], str | None]:
        servers, coordinator = super()._addresses()
        self.taps = [Tap(address) for address in (*servers, coordinator) if address is not None]
        told = [tap.address for tap in self.taps]
        return told[: len(servers)], told[-1] if coordinator is not None else None


def main(arguments: list[str]) -> None:
    with roles.fork_server(torch=False):
        for job_file, run_dir in zip(arguments[::2], arguments[1::2], strict=True):
            job, folder = load_job(Path(job_file)), Path(run_dir)
            launch = TappedLaunch(job, make_run_folder(job, folder), 0.0, as_json=True)
            launch.run(in_process=False)
            for tap in launch.taps:
                write_talks(tap.talks(), folder.with_name(folder.name + ".tap"))


if __name__ == "__main__":
    main(sys.argv[1:])
