"""How much a server may hold in memory, whatever its clients ask for: rows of tables, and what waits for something else.

Clients choose how many rows they pull, how large their pushes are and when they come. Without a bound a single one could
take all of a machine's memory; so there is one for each connection, and one for the server as a whole.
"""

from collections.abc import Hashable
from pathlib import Path

import psutil

from fedps.errors import DataError, RefusedError, TableError

GRANT = 256 << 20  # bytes of new rows between two looks at what is free
RESERVE = 8  # rows are made until this part of the memory that was free at the start is left


class Budget:
    """Bytes kept for requests that cannot be answered or applied yet: parts, pushes that are not merged, pulls that wait.

    Args:
        each: of one connection, and kind of request.
        total: of all together.
    """

    def __init__(self, each: int, total: int) -> None:
        self._each, self._total = each, total
        self._kept: dict[Hashable, int] = {}
        self.used = 0

    def keep(self, owner: Hashable, size: int, what: str, each: int | None = None) -> None:
        """Keep so many bytes for an owner from now on, in place of what was kept for it before.

        Args:
            owner: whose they are.
            size: bytes in all; 0 lets go of what is kept.
            what: the owner's, for the refusal.
            each: the owner's own bound, by default that of a connection.

        Raises:
            RefusedError: that passes a bound; what was kept before still is.
        """
        # To keep less than before is always possible: what is given back must never be refused.
        each, before = self._each if each is None else each, self._kept.get(owner, 0)
        if size == before:
            return
        if size > before and size > each:
            raise RefusedError(
                "too_large",
                f"{size} bytes of {what} pass the limit of {each} bytes: ask for less at a time, use more servers, or raise"
                " limits.message_mib",
            )
        if size > before and self.used - before + size > self._total:
            raise RefusedError(
                "too_large",
                f"{size} bytes of {what}, and {self.used - before} bytes kept for others, pass this server's limit of"
                f" {self._total} bytes: use more servers, or one with more memory",
            )
        self.used += size - before
        self._kept[owner] = size
        if not size:
            del self._kept[owner]


class Room:
    """Memory for rows: a table asks for it before it makes any.

    A machine's memory is not this server's alone. So what is free is looked at now and then, and of that a part is granted.

    Attributes:
        at_start: bytes that were free when the server began.
        taken: bytes that rows were made in since.
        promised: bytes that pushes which are taken but not merged may need; a merge must not fail halfway.
        replays: whether what was applied once is applied again: that fits as it is, into what is kept free too, or not at all.
    """

    def __init__(self) -> None:
        self.at_start = free_memory()
        self.taken = self.promised = self._granted = 0
        self.replays = False

    def fits(self, size: int) -> bool:
        """Whether so many bytes may be taken, beside those promised."""
        size += self.promised
        if size > self._granted:
            kept = 0 if self.replays else self.at_start // RESERVE
            self._granted = min(free_memory() - kept, max(size, GRANT))
        return size <= self._granted

    def take(self, size: int) -> None:
        """Take room for new rows.

        Raises:
            TableError: there is none.
            DataError: the same, while it `replays`.
        """
        if not self.fits(size):
            if self.replays:
                raise DataError(
                    f"{size} bytes of rows that there were find no room in this machine's memory: free some, or start it on"
                    " a machine with as much as it had"
                )
            raise TableError(
                f"{size} bytes of new rows find no room in this server's memory, of which {self.at_start // RESERVE} bytes"
                " stay free: use more servers, or one with more memory"
            )
        self._granted -= size
        self.taken += size


def free_memory() -> int:
    """Return the bytes that this process could still take: of the machine, or of its container if that has less."""
    free, group = psutil.virtual_memory().available, Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())  # "max" where there is none
        cache = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
        return min(free, limit - int((group / "memory.current").read_text()) + int(cache))
    except (OSError, ValueError, KeyError):
        return free
