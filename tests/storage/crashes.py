"""A disk that stops at any step: what a process that is killed, or a power cut, leaves behind."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

STEPS = ((os, "open"), (os, "fsync"), (Path, "replace"), (Path, "rename"), (Path, "unlink"), (Path, "mkdir"))


class Stopped(BaseException):
    """The process is no more: nothing it would still have cleaned up is cleaned up."""


class Disk:
    """Counts what is done to the files below a folder, and stops for good before one of these steps.

    Attributes:
        steps: how many were done.
    """

    def __init__(self, folder: Path, stop_before: int | None) -> None:
        self.steps, self._folder, self._stop_before = 0, folder, stop_before
        self._synced = {f.stat().st_ino for f in folder.rglob("*")}

    def step(self, do: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a step."""

        def done(*args: Any, **kwargs: Any) -> Any:
            if self.steps == self._stop_before:
                self._lose_what_was_not_synced()
                raise Stopped
            self.steps += 1
            if do is fsync:
                self._synced.add(os.fstat(args[0]).st_ino)
            return do(*args, **kwargs)

        return done

    def _lose_what_was_not_synced(self) -> None:
        for file in self._folder.rglob("*"):
            if file.is_file() and file.stat().st_ino not in self._synced:
                os.truncate(file, 0)


fsync = os.fsync


@contextmanager
def disk(folder: Path, stop_before: int | None = None) -> Iterator[Disk]:
    """Let the disk stop before a step, counted from 0; what the process does after it has no effect."""
    found = Disk(folder, stop_before)
    with pytest.MonkeyPatch.context() as patch:
        for place, name in STEPS:
            patch.setattr(place, name, found.step(getattr(place, name)))
        with suppress(Stopped):
            yield found


@contextmanager
def failing(name: str, after: int) -> Iterator[None]:
    """Let one kind of step fail as a full or broken disk does, from its `after`-th time on, counted from 0."""
    place = next(p for p, n in STEPS if n == name)
    do, left = getattr(place, name), [after]

    def fail(*args: Any, **kwargs: Any) -> Any:
        if left[0] <= 0:
            raise OSError(28, "No space left on device")
        left[0] -= 1
        return do(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, fail)
        yield
