"""Which of several processes that have one folder may write there: the newest, by a number that each takes as it begins."""

from contextlib import suppress
from itertools import count
from pathlib import Path

from fedps.errors import RefusedError

CLAIM = "process-"  # what the name of a process's claim begins with


class Claim:
    """One process's claim to be the newest of its folder; no other that came before writes there, however late it wakes.

    Args:
        folder: which is there.
        whose: what the processes are of, for messages.
        remedy: what to do where there are two.

    Attributes:
        number: larger than those of all processes before.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, whose: str, remedy: str) -> None:
        self._folder, self._whose, self._remedy = folder, whose, remedy
        self.number = _take(folder)

    def count_on(self, newest: int) -> None:
        """Take a number above one that others know of, though this is the newest process here: the folder is another than then.

        Raises:
            RefusedError: as for `check`.
            OSError: the folder cannot be written.
        """
        self.check()
        self.number = _take(self._folder, newest)

    def check(self) -> None:
        """Make sure that this is the newest process.

        Raises:
            RefusedError: it is not; it must end, and write nothing more.
        """
        if max(_taken(self._folder), default=0) > self.number:
            raise RefusedError(
                "superseded",
                f"a newer process works for {self._whose} in {self._folder}: this one ends, and has written nothing since;"
                f" {self._remedy}",
            )


def _taken(folder: Path) -> list[int]:
    """Return the numbers that processes have taken."""
    numbers = (path.name.removeprefix(CLAIM) for path in folder.glob(f"{CLAIM}*"))
    return [int(number) for number in numbers if number.isdecimal()]


def _take(folder: Path, known: int = 0) -> int:
    """Take a number larger than one that is known, and than those of all processes before, and return it."""
    earlier = _taken(folder)
    for number in count(max([known, *earlier]) + 1):
        with suppress(FileExistsError):  # another has taken it at the same time
            (folder / f"{CLAIM}{number}").touch(mode=0o600, exist_ok=False)
            break
    for other in earlier:
        (folder / f"{CLAIM}{other}").unlink(missing_ok=True)
    return number
