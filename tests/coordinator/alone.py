"""A coordinator in a process of its own: JOB ADDRESS RUN_DIR. It says `ready`, and runs to the end."""

import sys
from pathlib import Path

from fedps.config import load_job
from fedps.coordinator.serve import run_coordinator
from fedps.events import events
from fedps.events.events import Event


def tell(event: Event) -> None:
    if isinstance(event, events.Ready):
        print("ready", flush=True)


if __name__ == "__main__":
    job, address, folder = sys.argv[1:]
    run_coordinator(load_job(Path(job)), address, tell, sys.stderr, run_dir=Path(folder))
