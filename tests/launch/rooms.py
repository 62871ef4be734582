"""The command line in this process: its rooms stand aside, or have torch already."""

import sys
from pathlib import Path
from typing import Any

import pytest

from fedps.cli import main


class Room:
    """Stands for a room's function: notes how it was called, and answers or raises."""

    def __init__(self) -> None:
        self.answer: Any = {"status": "ok"}
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Note a call."""
        self.args, self.kwargs = args, kwargs
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def here(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    """Run the command line in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["fedps", *map(str, args)])
    try:
        main()
    except SystemExit as end:
        assert end.code is None or isinstance(end.code, int)
        return end.code or 0
    return 0


def launcher(monkeypatch: pytest.MonkeyPatch) -> Room:
    """Put a room in the launcher's place."""
    room = Room()
    monkeypatch.setattr("fedps.launch.launcher.run", room)
    return room


def write_tiny_job(folder: Path) -> Path:
    """Write a job of two clients with a sample each; return its file."""
    (folder / "train").mkdir()
    for client in range(2):
        (folder / "train" / f"{client}.csv").write_text("0,1,1\n")
    path = folder / "job.yaml"
    path.write_text("runner: {train_data_dir: train}\n")
    return path
