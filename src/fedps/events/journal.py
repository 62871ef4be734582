"""Events of a run: flat JSON objects, one a line.

Roles hand events to a `Report`; the launcher, the only writer, stamps and appends them to `events.jsonl`.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

Report = Callable[[dict[str, object]], None]


def stamp(role: str, name: str, event: Mapping[str, object]) -> dict[str, object]:
    """Put time (seconds since 1970), role and id before an event's own facts."""
    return {"time": round(time.time(), 6), "role": role, "id": name, **event}


class Journal:
    """Appends events to a file, each as one whole line.

    Args:
        path: the file; made if absent.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, event: Mapping[str, object]) -> None:
        """Append one event; NaN and infinities, which JSON lacks, become null.

        Raises:
            ValueError: the journal is closed.
            OSError: the file cannot be written.
        """
        self._file.write(json.dumps(_plain(event), allow_nan=False) + "\n")

    def close(self) -> None:
        """Close the file; further writes are errors."""
        self._file.close()


def _plain(fact: object) -> object:
    """Return a fact as JSON can hold it."""
    if isinstance(fact, Mapping):
        return {key: _plain(value) for key, value in fact.items()}
    if isinstance(fact, (list, tuple)):
        return [_plain(value) for value in fact]
    return None if isinstance(fact, float) and not math.isfinite(fact) else fact
