"""One secret number that multiplies many points, on several cores.

`cryptography` keeps the interpreter's lock meanwhile, so threads would not help. Processes are told the number through their
pipes alone, and end when their pipe does: none outlives its owner, however that ends.
"""

import signal
import sys
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import ModuleType, TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedps.crypto import SecretScalar
from fedps.errors import WireError

Points = NDArray[np.int64]  # [n, 4]: u-coordinates, 32 bytes each, little-endian
WORTH = 8192  # points for each process: to start one takes about as long as to multiply so many


class Blinding:
    """A new secret number, and the processes that multiply by it; to be closed.

    Args:
        workers: cores to use, one of them by this process itself.
    """

    def __init__(self, workers: int = 1) -> None:
        self._scalar, self._workers = SecretScalar(), workers
        self._others: list[tuple[BaseProcess, Connection]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def times(self, points: Points) -> Points:
        """Multiply points, int64[n, 4]; return as many.

        Raises:
            WireError: one is of low order.
        """
        first, *others = np.array_split(points, max(1, min(self._workers, len(points) // WORTH)))
        try:
            while len(self._others) < len(others):
                self._others.append(_start(self._scalar.secret))
            for part, (_, pipe) in zip(others, self._others, strict=False):
                pipe.send_bytes(_bytes(part))
            made = [self._scalar.times(_bytes(first))]
            made += [pipe.recv_bytes() for _, pipe in self._others[: len(others)]]
        except BaseException:  # what is under way is nobody's answer
            self.close()
            raise
        if not all(made[1:]):
            self._scalar.times(_bytes(points))  # raises what the process met
        return np.frombuffer(b"".join(made), "<i8").reshape(-1, 4)

    def close(self) -> None:
        """End the processes."""
        for _, pipe in self._others:
            pipe.close()
        for process, _ in self._others:
            process.join()
            process.close()
        self._others.clear()


def _start(secret: bytes) -> tuple[BaseProcess, Connection]:
    context = get_context("spawn")  # a fork would have this process's locks, and its connections
    ours, theirs = context.Pipe()
    process = context.Process(target=_multiply, args=(theirs,), name="fedps blinding", daemon=True)
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")  # which would be run again there
    try:
        process.start()
    finally:
        sys.modules["__main__"] = main
    theirs.close()
    ours.send_bytes(secret)
    return process, ours


def _multiply(pipe: Connection) -> None:
    """Multiply what comes through a pipe, until it ends; nothing is answered to points of which one is of low order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner ends, and its pipe with it
    with suppress(EOFError, OSError):
        scalar = SecretScalar(pipe.recv_bytes())
        while True:
            points = pipe.recv_bytes()
            try:
                pipe.send_bytes(scalar.times(points))
            except WireError:
                pipe.send_bytes(b"")


def _bytes(points: Points) -> bytes:
    return np.ascontiguousarray(points, "<i8").tobytes()
