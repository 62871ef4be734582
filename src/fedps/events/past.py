"""What a run's folder says of it, in whatever state it is: for lists of runs, comparisons, and whoever wants the newest."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from fedps.config.source import read
from fedps.errors import JobError
from fedps.events.journal import JOURNAL, is_written
from fedps.figures import OF_TRAINING, metrics_in

EVALUATED = b'"event": "evaluated"'  # in a line of the journal


class Past(NamedTuple):
    """One run.

    Attributes:
        folder: the run's.
        began: seconds since 1970.
        status: `ok`, `failed`; `running`; `broken off`, where its launcher was killed; `by hand`, where each role was
            started alone, and none tells of all; `damaged`.
        error: why it failed, or what is damaged; empty else.
        job: what `job.yaml` says, resolved; empty if it cannot be read.
        summary: what `summary.json` says; empty where there is none that can be read.
        epochs: the number of the last that is evaluated, or round.
    """

    folder: Path
    began: float
    status: str
    error: str
    job: Mapping[str, Any]
    summary: Mapping[str, Any]
    epochs: int

    def said(self, section: str, key: str) -> Any:
        """Return the value of a key of the job; None where it is not known."""
        part = self.job.get(section)
        return part.get(key) if isinstance(part, dict) else None

    @property
    def model(self) -> str:
        """The network: a built-in one's mode, or the user's own class."""
        known = (
            self.said("vertical", "network") or self.said("runner", "model") or self.said("hyper_parameters", "mode")
        )
        return str(known or "")

    @property
    def mode(self) -> str | None:
        """How it was trained: `vertical`, or a mode; None where it is not known."""
        mode: str | None = "vertical" if "vertical" in self.job else self.said("runner", "sync_mode")
        return mode

    @property
    def due(self) -> int | None:
        """How many epochs the job has, at most; None where it is not known."""
        due: int | None = self.said("vertical", "epochs") or self.said("runner", "epochs")
        return due

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """The figures of each evaluated epoch, or round."""
        return list(self.summary.get("rounds", []))

    @property
    def metrics(self) -> dict[str, float]:
        """The last epoch's figures of held-out samples, by name; those that were measured."""
        figures = self.summary.get("metrics", {})
        names = [metric.name for metric in metrics_in(figures) if metric.name not in OF_TRAINING]
        return {name: figures[name] for name in names if figures[name] is not None}


def look_at(run_dir: Path) -> Past:
    """Return what a folder says of its run. Nothing is raised: what cannot be read is `damaged`, and said."""
    job, summary, faults = dict[str, Any](), dict[str, Any](), list[str]()
    try:
        job = read(run_dir / "job.yaml")
    except JobError as error:
        faults.append(str(error))
    try:
        summary = read_summary(run_dir)
    except (OSError, ValueError, TypeError, KeyError) as error:
        faults.append(f"{run_dir / 'summary.json'}: cannot be read: {type(error).__name__}: {error}")
    status, why = (summary["status"], summary["error"]) if summary else (_state(run_dir), None)
    ended = [int(figures["round"]) for figures in summary.get("rounds", [])]
    epochs = max(ended, default=0) if summary else _evaluated(run_dir / JOURNAL)
    status, why = ("damaged", "; ".join(faults)) if faults else (status, why or "")
    return Past(run_dir, started(run_dir), status, why, job, summary, epochs)


def started(run_dir: Path) -> float:
    """Return when a run started, seconds since 1970: as its journal says, or when its job was written there."""
    with suppress(OSError, ValueError, TypeError, KeyError), (run_dir / JOURNAL).open("rb") as file:
        return float(json.loads(file.readline())["time"])
    with suppress(OSError):
        return (run_dir / "job.yaml").stat().st_mtime
    return 0.0


def read_summary(run_dir: Path) -> dict[str, Any]:
    """Return a run's summary; empty before there is one.

    Raises:
        OSError, ValueError, TypeError, KeyError: it is torn, or none.
    """
    try:
        summary = dict(json.loads((run_dir / "summary.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    _ = (
        summary["status"],
        summary["error"],
        dict(summary["metrics"]),
        [int(figures["round"]) for figures in summary["rounds"]],
    )
    return summary


def _state(run_dir: Path) -> str:
    """Return the state of a run that has no summary."""
    if not (run_dir / JOURNAL).is_file():
        return "by hand"
    return "running" if is_written(run_dir / JOURNAL) else "broken off"


def _evaluated(journal: Path) -> int:
    """Return the number of the last epoch that a journal tells of as evaluated, by any client."""
    ended = 0
    with suppress(OSError), journal.open("rb") as file:
        for line in file:
            if EVALUATED in line and line.endswith(b"\n"):
                with suppress(ValueError, KeyError, TypeError):
                    ended = max(ended, int(json.loads(line)["epoch"]))
    return ended
