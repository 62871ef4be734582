"""What the launcher asks of the operating system: the memory of its roles, and signals as exceptions."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil

from fedps.launch.local.processes import Role


def weigh(running: Sequence[Role]) -> tuple[dict[tuple[str, str], float], float]:
    """Return each role's resident memory, and the proportional sum of all with this process; MiB."""
    rss, pss = {}, psutil.Process().memory_full_info().pss / 2**20 if sys.platform == "linux" else 0.0
    for role in running:
        try:
            memory = psutil.Process(role.process.pid).memory_full_info()
        except psutil.Error:
            continue
        rss[role.kind, role.name] = memory.rss / 2**20
        pss += getattr(memory, "pss", memory.rss) / 2**20
    return rss, pss


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C: stop all roles in order."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
