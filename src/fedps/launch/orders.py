"""What the command line adds to a job that is run."""

from dataclasses import dataclass, field
from pathlib import Path

from fedps.config import Allow
from fedps.events.events import Scripted
from fedps.launch.addresses import Address


@dataclass(frozen=True)
class Orders:
    """What the command line adds to a job.

    Args:
        log_dir: folder of the roles' logs, by default `log` in the run's folder.
        server_at: where each server listens, by default on a free port of 127.0.0.1.
        coordinator_at: the same for the coordinator.
        allow: what the person at the command line allows.
        script: a training script of the user's, which plays all roles in place of the built-in ones.
        quiet: show nothing.
    """

    log_dir: Path | None = None
    server_at: tuple[Address, ...] = ()
    coordinator_at: Address | None = None
    allow: Allow = field(default_factory=Allow)
    script: Scripted | None = None
    quiet: bool = False


PLAIN = Orders()
