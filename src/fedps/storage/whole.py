"""The one way to write a file, or a folder of files: it is there whole, or not at all; and to add to one that only grows.

What is durable when, and what a reader may see:

1. A file takes its name by a rename, after its bytes were synced: under its name it is never seen half, not even after a
   power cut. One that was there before stays as it was until then.
2. Of files written together none takes its name before all are synced, and they take them in the order in which they
   were given. So the last one may be the record that makes the others count.
3. When writing has returned, the names are durable too: their folder was synced.
4. Whatever fails raises OSError and leaves nothing behind. A process that dies leaves `.<name>.<random>.part`, which no
   reader looks at; whoever next writes a file of that name removes it once it has lain still for `STALE` seconds.
"""

import errno
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

PRIVATE, GROUP, PUBLIC = 0o600, 0o640, 0o644  # modes of files, from which the umask may take
OPEN, CLOSED = 0o777, 0o700  # and of folders
STALE = 3600.0  # seconds without a write after which a temporary file belongs to nobody


def write_whole(path: Path, payload: bytes | Iterable[bytes | memoryview], mode: int = PRIVATE) -> None:
    """Write a file of which every byte is there.

    Args:
        path: of the file, in a folder that is there.
        payload: its bytes, or pieces of them.
        mode: of the file; by default its owner alone may read it.

    Raises:
        OSError: it cannot be written; what was there stays as it was.
    """
    with open_whole(path, mode=mode) as (file,):
        file.writelines([payload] if isinstance(payload, bytes) else payload)


@contextmanager
def open_whole(
    *paths: Path, mode: int = PRIVATE, last: Callable[[], None] = lambda: None
) -> Iterator[list[IO[bytes]]]:  # fmt: skip
    """Open files of one folder to write to; they take their names together when the block ends, none if it raises.

    Args:
        paths: in the order in which they take their names.
        mode: of the files.
        last: is called when all is on disk, right before the first takes its name; none does if it raises.

    Raises:
        OSError: one cannot be written; none has taken its name, unless a rename itself failed.
    """
    parts = {path: path.with_name(f".{path.name}.{secrets.token_hex(4)}.part") for path in paths}
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(_create(part, mode)) for part in parts.values()]
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        last()
        for path, part in parts.items():
            part.replace(path)
        sync_names(paths[0].parent)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    for path in paths:
        _remove_stale(path)


def append(path: Path, payload: bytes, at: int, mode: int = PRIVATE) -> None:
    """Add to a file that only grows; what is added is on disk when this returns, though the name of a new file is not.

    Args:
        path: of the file, made if it is not there.
        payload: what comes behind the first `at` bytes, which stay; whatever a dying process left behind them goes.
        at: bytes.
        mode: of a new file.

    Raises:
        OSError: it cannot be written; the first `at` bytes stay.
    """
    with open(path, "r+b", opener=lambda name, flags: os.open(name, flags | os.O_CREAT, mode)) as file:
        file.truncate(at)
        file.seek(at)
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Make a folder anew: what the block puts into the folder that it is given stands at `path` when the block ends.

    If it raises, all stays as it was. A folder that stood there is moved aside first and removed last; a process that
    dies between the two renames leaves it in `.<name>.<random>/old`.

    Args:
        path: where, in a folder that is there.

    Raises:
        OSError: it cannot be written.
    """
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    new, old = scratch / "new", scratch / "old"
    try:
        new.mkdir()
        yield new
        os.sync()  # all files at once: thousands of clients' files, one by one, would each wait for the disk
        _swap(new, path, old)
        sync_names(path.parent)
    finally:
        if path.exists() or not old.exists():  # else what was moved aside is all there is
            shutil.rmtree(scratch, ignore_errors=True)


def make_folder(folder: Path, mode: int = OPEN) -> None:
    """Make a folder, and those above it, if they are not there; each that is made is durable and has this mode.

    Raises:
        OSError: it cannot be made, or is a file.
    """
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    for each in reversed(missing):
        each.mkdir(mode, exist_ok=True)
        sync_names(each.parent)
    if not missing:
        folder.mkdir(exist_ok=True)  # says so if it is a file


def sync_names(folder: Path) -> None:
    """Make the names in a folder outlive a power cut.

    Raises:
        OSError: the disk fails.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync names by themselves
            raise
    finally:
        os.close(descriptor)


def _create(part: Path, mode: int) -> IO[bytes]:
    """Open a new file for writing: `x`, so that two writers of one name never share their temporary file."""
    return open(part, "xb", opener=lambda path, flags: os.open(path, flags, mode))


def _remove_stale(path: Path) -> None:
    """Remove what processes that died left of a file, so that it does not pile up. That may wait: nothing is raised."""
    with suppress(OSError):
        for part in path.parent.iterdir():
            if part.name.startswith(f".{path.name}.") and part.suffix == ".part":
                facts = part.lstat()
                if stat.S_ISREG(facts.st_mode) and time.time() - facts.st_mtime > STALE:
                    part.unlink(missing_ok=True)


def _swap(new: Path, path: Path, old: Path) -> None:
    """Put `new` in the place of `path`, which is moved to `old`; if that fails, back."""
    try:
        if path.exists():
            path.rename(old)
        new.rename(path)
    except BaseException:  # an interrupt between the two lines, too
        if old.exists() and not path.exists():
            old.rename(path)
        raise
