"""The folder of what is compiled: steps of networks, loops over rows, and beside them what was downloaded.

It is `FEDPS_CACHE`; else `fedps` in the user's cache folder; else, for a user without a home or with one that is read
only, `fedps-<uid>` among the temporary files. It holds code that is loaded: so it, and numba's folder in it, are used only
if they are the user's own, and nobody else may write to them.
"""

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedps.errors import FedpsError

LOOPS = "loops"  # numba's folder in it
ELSEWHERE = "set FEDPS_CACHE to a folder elsewhere"  # the remedy, whatever is wrong with it
LONGEST = 300.0  # seconds that one process waits for what another makes
LOOK_EVERY = 0.05  # seconds
OTHERS = stat.S_IWGRP | stat.S_IWOTH  # the right of others to write


class CacheError(FedpsError):
    """There is no folder for what is compiled; the message says why."""


def cache_folder(notes: list[str] | None = None) -> Path:
    """Return the folder of the cache, made if it was not there.

    Args:
        notes: lets a folder that is open to others be closed, and takes a line if it was. What lay there may be anybody's:
            all that could be loaded is discarded.

    Raises:
        CacheError: it cannot be made, is another user's, or is open to others.
    """
    if named := os.environ.get("FEDPS_CACHE"):
        return _opened(Path(named), notes)
    *others, last = _candidates()
    for home in others:
        with suppress(CacheError):
            if os.access(_opened(home, notes), os.W_OK | os.X_OK):
                return home
    return _opened(last, notes, links=False)  # among temporary files a link may be anybody's


def loops_folder() -> Path:
    """Return numba's folder in the cache; one that others could write to is discarded, for it may hold anybody's code.

    Raises:
        CacheError: there is none that is the user's own.
    """
    folder = cache_folder() / LOOPS
    with suppress(OSError):
        if folder.stat().st_mode & OTHERS:  # numba makes folders as the umask says
            shutil.rmtree(folder)
    return _opened(folder, None)


@contextmanager
def in_turn(file: Path, longest: float = LONGEST) -> Iterator[None]:
    """Let one process after the other do what is in the context, so that those behind find what the first has made.

    Who has waited for `longest`, or cannot lock files there, goes on beside the others. The lock of a process that dies is
    the system's to take back.

    Args:
        file: it stands for what is made; it is there only while it is.
        longest: seconds.
    """
    lock = _locked(file, time.monotonic() + longest)
    try:
        yield
    finally:
        if lock is not None:
            with suppress(OSError):  # where it stays, it is free all the same
                file.unlink()  # who waits for it sees that it is gone, and takes another
            os.close(lock)


def _locked(file: Path, until: float) -> int | None:
    with suppress(OSError):
        while time.monotonic() < until:
            lock, ours = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), False
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ours = os.path.samestat(os.fstat(lock), file.stat())  # else whoever had it has just removed it
            except (BlockingIOError, FileNotFoundError):
                time.sleep(LOOK_EVERY)
            finally:
                if not ours:
                    os.close(lock)
            if ours:
                return lock
    return None


def _candidates() -> Iterator[Path]:
    """Yield where it may lie, the best first."""
    if named := os.environ.get("XDG_CACHE_HOME"):
        yield Path(named) / "fedps"
    else:
        with suppress(RuntimeError):  # a user whom the system does not know has no home
            yield Path.home() / ".cache" / "fedps"
    yield Path(tempfile.gettempdir()) / f"fedps-{os.getuid()}"


def _opened(home: Path, notes: list[str] | None, links: bool = True) -> Path:
    """Make a folder fit to load code from, and return it; `links`: it may be one to a folder elsewhere."""
    try:
        for each in reversed([f for f in (home, *home.parents) if not f.exists()]):
            each.mkdir(0o700, exist_ok=True)
        facts = home.stat(follow_symlinks=links)
        if facts.st_uid == os.getuid() and facts.st_mode & OTHERS and notes is not None:
            _close(home, facts.st_mode)
            notes.append(f"{home}: others could write to it; it is closed to them now, and steps are compiled again")
            facts = home.stat(follow_symlinks=links)
        if not home.is_dir():
            raise NotADirectoryError("is a file")
    except OSError as error:
        raise CacheError(f"{home}: no folder for what is compiled: {error}; {ELSEWHERE}") from error
    if facts.st_uid != os.getuid():
        raise CacheError(f"{home}: is another user's, and code is loaded from there: {ELSEWHERE}")
    if facts.st_mode & OTHERS:
        raise CacheError(f"{home}: others may write to it, and code is loaded from there: chmod go-w, or {ELSEWHERE}")
    return home


def _close(home: Path, mode: int) -> None:
    home.chmod(mode & ~OTHERS & 0o7777)
    for file in (*home.glob("step-*"), *home.glob("plan-*")):
        file.unlink(missing_ok=True)
    shutil.rmtree(home / LOOPS, ignore_errors=True)
