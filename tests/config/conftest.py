"""A job file beside folders of three clients."""

from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., Path]
MINIMAL = "runner:\n  train_data_dir: train\n"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a job file beside folders of three clients."""
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
        for client in ("0", "1", "north"):
            (tmp_path / folder / f"{client}.csv").write_text("0,1,1\n")
        (tmp_path / folder / ".hidden.csv").write_text("")

    def write(text: str = MINIMAL, name: str = "job.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write
