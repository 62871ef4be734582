"""A shell command over one file: what it prints, in blocks of whole lines; its end, however it ends.

Nothing of it outlives the reading: the command has a process group of its own, which is killed when the reading ends,
and by a guard within the group when this process dies, however that happens.
"""

import os
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import IO, NamedTuple

from fedps.errors import DataError

# Standard input is the guard's lifeline: it ends when this process does. The command itself reads the file.
SHELL = """
exec 3<&0
{ read -r _ <&3; kill -KILL 0; } >/dev/null 2>&1 &
guard=$!
/bin/sh -c "$1" <"$2" 3<&-
code=$?
kill -KILL "$guard"
wait "$guard" 2>/dev/null
exit "$code"
"""
BLOCK = 1 << 21  # bytes handed on at once
MOST = 1 << 32  # bytes of one file's output: a command that prints without end is stopped
TAIL = 2000  # bytes of standard error that an error repeats
GLANCE = 0.1  # seconds between two looks at whether to go on
PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")


class Command(NamedTuple):
    """A shell command, file in, text out.

    Attributes:
        text: as a shell reads it.
        folder: where it runs.
        silence: seconds without output after which it is killed.
        arguments: put behind the text.
        modules: a folder in which its Python looks for modules, too.
    """

    text: str
    folder: Path
    silence: float
    arguments: tuple[str, ...] = ()
    modules: Path | None = None


class StoppedError(DataError):
    """A command was stopped from without, as another one failed."""


def run(command: Command, path: Path, stop: Event | None = None) -> Generator[bytes, None, None]:
    """Yield what `command < path` prints, in blocks that end with a line end (the last one may not).

    Its `python` is the one that runs this process; proxy variables are taken out of its environment.

    Args:
        command: what to run.
        path: its standard input.
        stop: ends it early, when set.

    Raises:
        DataError: it cannot start, fails, is silent for too long, or prints too much; names file and command.
    """
    where = f"{path}: pipe_command {command.text!r}"
    _check_readable(path)
    line = " ".join([command.text, *map(shlex.quote, command.arguments)])
    try:
        process = subprocess.Popen(  # noqa: S603  (the user's own command, allowed by --allow-commands)
            ["/bin/sh", "-c", SHELL, "sh", line, str(path.absolute())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=command.folder,
            env=_environment(command.modules), start_new_session=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:  # the latter of a NUL in the command
        raise DataError(f"{where}: cannot start: {getattr(error, 'strerror', None) or error}") from error
    tail = _Tail()
    try:
        yield from _whole_lines(_output(process, where, command.silence, tail, stop or Event()))
        code = _wait(process, where, command.silence)
        tail.add(_rest(process))
    finally:
        _end(process)
    if code != 0:
        raise DataError(f"{where}: ends with exit code {code}{_why(code)}{tail.shown()}")


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _environment(modules: Path | None) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if name.lower() not in PROXIES}
    ours.setdefault("PYTHONHASHSEED", "0")  # scripts make ids by `hash`: they must be the same in each process
    if modules is not None:
        ours["PYTHONPATH"] = os.pathsep.join([*filter(None, [ours.get("PYTHONPATH")]), str(modules)])
    return ours | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), ours.get("PATH", os.defpath)])}


class _Tail:
    """The last bytes of standard error."""

    def __init__(self) -> None:
        self._bytes = b""

    def add(self, chunk: bytes) -> None:
        self._bytes = (self._bytes + chunk)[-TAIL:]

    def shown(self) -> str:
        text = self._bytes.decode("utf-8", "replace").strip()
        return f"; it says:\n{text}" if text else "; it says nothing on standard error"


def _output(
    process: subprocess.Popen[bytes], where: str, silence: float, tail: _Tail, stop: Event
) -> Iterator[bytes]:  # fmt: skip
    """Yield pieces of standard output as they come, until it ends, and keep the end of standard error."""
    out, err = _pipe(process.stdout), _pipe(process.stderr)
    printed, last = 0, time.monotonic()
    with selectors.DefaultSelector() as selector:
        for stream in (out, err):
            selector.register(stream, selectors.EVENT_READ)
        while out in selector.get_map():
            ready = selector.select(GLANCE)
            if stop.is_set():
                raise StoppedError(f"{where}: stopped, for another file failed")
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.fileobj is err:
                    tail.add(chunk)
                else:
                    printed += len(chunk)
                    if printed > MOST:
                        raise DataError(f"{where}: prints more than {MOST} bytes; split the file")
                    yield chunk
                    last = time.monotonic()  # after the reader's own work on it
            if time.monotonic() - last > silence:
                raise DataError(_silent(where, silence, tail))


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # noqa: S101  (asked for at the start)
    return stream


def _rest(process: subprocess.Popen[bytes]) -> bytes:
    """Return what stands on standard error and was not read yet."""
    fd = _pipe(process.stderr).fileno()
    os.set_blocking(fd, False)
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:  # a child in the background holds it open
        return b""


def _silent(where: str, silence: float, tail: _Tail) -> str:
    return (
        f"{where}: is silent for {silence:g} seconds, and was killed; raise runner.start_timeout if it needs longer"
        f"{tail.shown()}"
    )


def _whole_lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Join pieces into blocks of about `BLOCK` bytes that end with a line end."""
    block: list[bytes] = []
    size = 0
    for piece in pieces:
        block.append(piece)
        size += len(piece)
        if size >= BLOCK and b"\n" in piece:
            whole, end, rest = b"".join(block).rpartition(b"\n")
            yield whole + end
            block, size = [rest], len(rest)
    if size:
        yield b"".join(block)


def _wait(process: subprocess.Popen[bytes], where: str, limit: float) -> int:
    """Return the exit code, and leave the process to be reaped, so that its group's number stays its own."""
    ends = time.monotonic() + limit
    while not (end := os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)):
        if time.monotonic() > ends:
            raise DataError(f"{where}: has closed its output, and does not end within {limit:g} seconds")
        time.sleep(0.002)
    return end.si_status if end.si_code == os.CLD_EXITED else -end.si_status


def _why(code: int) -> str:
    if code == 127:
        return " (there is no such command)"
    if code > 128:
        return f" (signal {code - 128})"
    return ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever is left of the group, and reap."""
    with suppress(ProcessLookupError, PermissionError):  # macOS: a group of zombies alone
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
