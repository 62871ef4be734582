"""Everything fedps raises on purpose.

    FedpsError
    ├── JobError          the job file, a flag or a name in it is wrong (ours to tell before anything starts)
    │   └── UnknownIdError  a user or an item that is not there was asked for
    ├── DataError         a data file is missing, malformed or does not fit the job; names file and line
    │   └── MalformedError    lines, or columns, that are no samples: all that were found together
    ├── IdentityError     a certificate, a key or a list of revoked ones that cannot be used; says why, and the remedy
    ├── TableError        a table was asked for what it does not hold, or given what it must not keep
    ├── WireError         bytes that are no message of this protocol
    │   └── LimitError    a message or request over a stated limit
    ├── RefusedError      the peer refused a request and said why (`kind` is a word from `wire.messages`)
    ├── LostError         the peer went away, or did not answer in time
    ├── RoleError         a role of a run failed; carries its name and traceback
    └── RunError          a run that Python code started failed; carries its folder

Local mistakes and the peer's are different types: `WireError` is what *we* raise on bad bytes, `RefusedError` is
what *they* answered.
"""

import errno
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)  # of an OSError: there is no room on the disk
BROKEN = (errno.EIO, errno.EROFS)  # the disk fails
CROWDED = (errno.EMFILE, errno.ENFILE)  # too many files and pipes are open
TOLD = 20  # mistakes in data that are told at once


class FedpsError(Exception):
    """Root of all errors that fedps raises on purpose."""


class JobError(FedpsError):
    """One or more mistakes in a job, each with the key, the value and the remedy.

    Args:
        mistakes: one sentence each; `str()` lists them all.
    """

    def __init__(self, mistakes: str | Sequence[str]) -> None:
        self.mistakes = [mistakes] if isinstance(mistakes, str) else list(mistakes)
        super().__init__("\n".join(self.mistakes))


class UnknownIdError(JobError):
    """There is no such user or item.

    Args:
        said: that; the asker's own words and no id beside.
        hint: what follows for who may see all ids, e.g. the nearest: found only where the error is shown.
    """

    def __init__(self, said: str, hint: Callable[[], str] = str) -> None:
        super().__init__(said)
        self.said, self._hint = said, hint

    def __str__(self) -> str:
        return f"{self.said}{self._hint()}"


class DataError(FedpsError):
    """A data file is missing, malformed, or does not fit the job."""


class MalformedError(DataError):
    """Lines of data that are no samples, of one file or several.

    Args:
        mistakes: what is wrong with each of the first, at most `TOLD` are kept; `str()` lists them.
        lines: how many there are.
    """

    def __init__(self, mistakes: Sequence[str], lines: int) -> None:
        self.mistakes, self.lines = list(mistakes[:TOLD]), lines
        more = lines - len(self.mistakes)
        super().__init__("\n".join([*self.mistakes, *[f"and {more:,} more malformed lines"] * bool(more)]))


class IdentityError(FedpsError):
    """A certificate, a key or a list of revoked ones that cannot be used, or a name that cannot stand in one."""


class TableError(FedpsError):
    """A table was asked for what it does not hold, or given what it must not keep."""


class WireError(FedpsError):
    """Bytes that are not a message of this protocol."""


class LimitError(WireError):
    """A message, table or connection count over a stated limit."""


class RefusedError(FedpsError):
    """The peer refused a request.

    Args:
        kind: one word for programs, e.g. `not_finite`, `unknown_table`.
        reason: one sentence for people, with the remedy.
        newest: where a newer process speaks for a client, its number.
    """

    def __init__(self, kind: str, reason: str, newest: int = 0) -> None:
        self.kind, self.reason, self.newest = kind, reason, newest
        super().__init__(f"{reason} [{kind}]")


class LostError(FedpsError):
    """The peer went away or did not answer within its deadline."""


class RoleError(FedpsError):
    """A role of a run (a worker, a server) failed.

    Args:
        role: e.g. `worker 3`.
        reason: one line.
        traceback: the role's own traceback, empty if it left none.
    """

    def __init__(self, role: str, reason: str, traceback: str = "") -> None:
        self.role, self.reason, self.traceback = role, reason, traceback
        super().__init__(f"{role}: {reason}")


class RunError(FedpsError):
    """A run that `fedps.run` started has failed.

    Args:
        reason: as its summary says.
        folder: the run's, with its summary, its report and each role's log.
    """

    def __init__(self, reason: str, folder: Path) -> None:
        self.folder = folder
        super().__init__(f"{reason}; what is left of the run is in {folder}")


def shortage(error: BaseException, elsewhere: str = "choose another --run_dir or runner.model_save_path") -> str | None:
    """Say what this machine has too little of, or that its disk fails, with the remedy; None if an error is of another kind.

    `elsewhere` says how another disk is chosen.
    """
    if not isinstance(error, OSError) or error.errno not in (*FULL, *BROKEN, *CROWDED, errno.EFBIG):
        return None
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in FULL:
        return f"{where}{error.strerror}: free space, or {elsewhere}"
    if error.errno in BROKEN:
        return f"{where}{error.strerror}: see to this disk, or {elsewhere}"
    if error.errno == errno.EFBIG:
        return f"{where}{error.strerror}: raise the limit with `ulimit -f unlimited`, or {elsewhere}"
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return f"{where}{error.strerror}, over the limit of {limit}: raise it with `ulimit -n`"


def speaks_for_itself(error: BaseException) -> bool:
    """Whether its sentence says all of an error: no traceback would help whoever reads it."""
    if isinstance(error, JobError | DataError | IdentityError | RefusedError | LostError):
        return True
    if not isinstance(error, FedpsError):
        return shortage(error) is not None
    cause = error.__cause__
    return isinstance(cause, OSError) or (type(error) is FedpsError and cause is None)  # of a disk; said on purpose


@contextmanager
def needing(extra: str, *modules: str) -> Iterator[None]:
    """Import what an extra of the package brings.

    Args:
        extra: its name.
        modules: what it brings; by default one of its name.

    Raises:
        JobError: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in (modules or (extra,)):
            raise
        raise JobError(f"{missing} is not installed here, and this needs it: pip install 'fedps[{extra}]'") from None


def needing_torch() -> AbstractContextManager[None]:
    """Import what needs torch. Raises JobError: it is not installed."""
    return needing("torch")
