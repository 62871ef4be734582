"""The memory of a run's processes."""

import sys
import time
from collections.abc import Sequence

import psutil

from fedps.launch.local.processes import Role

SHARE = 0.01  # of a core, which reading PSS may take
GROWTH = 1.1  # by which resident memory may grow before PSS is read all the same

Rss = dict[tuple[str, str], float]


class Memory:
    """Reads what processes hold in memory: resident (RSS) at every look, and their shares of it (PSS) now and then.

    For PSS the system goes through all pages of a process, milliseconds for each: read at every look, it would take
    some percent of the cores. It is read as often as `SHARE` allows, and when memory has grown.
    """

    def __init__(self) -> None:
        self._due, self._read_at = 0.0, 0.0  # time, s, monotonic, and the resident memory, MiB, of the last reading

    def look(self, roles: Sequence[Role]) -> tuple[Rss, float | None]:
        """Return each role's resident memory, and the proportional sum of all with this process, None if not due; MiB."""
        processes = {(role.kind, role.name): role.process.pid for role in roles if role.open}
        rss = {who: size for who, pid in processes.items() if (size := _mib(pid, "rss")) is not None}
        total = sum(rss.values())
        if time.monotonic() < self._due and total < self._read_at * GROWTH:
            return rss, None
        began = time.thread_time()
        pss = sum(_mib(pid, "pss") or 0.0 for pid in [None, *processes.values()])
        self._due, self._read_at = time.monotonic() + (time.thread_time() - began) / SHARE, total
        return rss, pss


def _mib(pid: int | None, kind: str) -> float | None:
    """Return a process's memory, this one's if `pid` is None; None if it has ended. Where there is no PSS, it is RSS."""
    try:
        process = psutil.Process(pid)
        full = kind == "pss" and sys.platform == "linux"
        size: int = process.memory_full_info().pss if full else process.memory_info().rss
    except psutil.Error:
        return None
    return size / 2**20
