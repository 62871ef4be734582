"""One client's life as a process: `python -m tests.client.one_life JOB RUN_DIR SERVER CLIENT`; it goes on where it can."""

import sys
from pathlib import Path

from fedps.client.checkpoint import NEWEST
from fedps.client.life import FLClient
from fedps.config import load_job
from fedps.types import ClientId

if __name__ == "__main__":
    job, run_dir, server, client = sys.argv[1:]
    FLClient(load_job(Path(job)), ClientId(client), [server], Path(run_dir), lambda event: None, resume=NEWEST).run()
