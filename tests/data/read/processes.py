"""Which processes are left: found by a mark in their environment, so that nobody else's are counted."""

import time

import psutil

MARK = "FEDPS_TEST_MARK"


def left(mark: str, within: float = 5.0) -> list[list[str]]:
    """Return the command lines of living processes that carry a mark, once there are none or time is up."""
    ends = time.monotonic() + within
    while (found := _living(mark)) and time.monotonic() < ends:
        time.sleep(0.02)
    return found


def _living(mark: str) -> list[list[str]]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process.cmdline())
        except psutil.Error:
            continue
    return found
