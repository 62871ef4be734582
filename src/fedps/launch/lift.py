"""What came of vertical training: a run's events as its summary, and as what people see of it; at the end the lift.

The lift is what each party's data is worth: what the active party alone comes to, what passive parties' features tell alone,
all together, and all joined in one place.
"""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from fedps.config.job import VerticalJob
from fedps.events import events, parties
from fedps.events.events import Entry
from fedps.launch.progress import LINE_EVERY, Speed, trouble
from fedps.pages.lift import FIGURES, STAGES, facts, rows, said, whose

BETTER = {"auc": 1.0, "rmse": -1.0}  # what a stage is judged by, and whether more of it is better


class Tally:
    """Keeps what a summary needs of the events of a vertical run.

    Args:
        job: the job.
        began: when it began, seconds since 1970.

    Attributes:
        measured: whether an epoch was; before, nothing has come of the run.
    """

    def __init__(self, job: VerticalJob, began: float) -> None:
        self._job, self._began, self.measured = job, began, False
        self._outcome: parties.Outcome | None = None
        self._stages: dict[str, parties.Staged] = {}
        self._epochs: dict[int, Mapping[str, Any]] = {}  # of all together
        self._matching: dict[str, float] = {}  # seconds, by party
        self._first: float | None = None
        self._restarts = self._refused = 0

    def take(self, entry: Entry) -> None:
        """Take in one event; what a party that was started again says a second time counts then."""
        match entry.event:
            case parties.Matched(seconds=seconds):
                self._matching[entry.id] = seconds
            case parties.Measured(stage=stage, epoch=epoch, figures=figures):
                self.measured = True
                if stage == "federated":
                    self._epochs[epoch] = figures
            case parties.Staged(stage=stage) as staged:
                self._stages[stage] = staged
            case parties.Outcome() as outcome:
                self._outcome = outcome
            case events.EpochBegin() if self._first is None:
                self._first = entry.time
            case events.Restarted():
                self._restarts += 1
            case events.Refused(count=count):
                self._refused += count

    def summary(self, at: float, error: str | None) -> dict[str, Any]:
        """Return the summary as `summary.json` holds it; a figure that is not known is None."""
        outcome, together = self._outcome, self._stages.get("federated")
        rounds = [{"round": epoch, **figures} for epoch, figures in sorted(self._epochs.items())]
        return {
            "status": "failed" if error else "ok",
            "error": error,
            "warnings": self._doubts(),
            "mode": "vertical",
            "parties": list(self._job.order),
            "start_seconds": None if self._first is None else self._first - self._began,
            "wall_seconds": max(0.0, at - self._began),
            "samples": outcome.samples if outcome else None,
            "held_out": outcome.held_out if outcome else None,
            "samples_per_second": together.samples_per_second if together else None,
            "rounds": rounds,
            "metrics": dict(together.figures) if together else {},
            "vertical": {
                stage: {**of.figures, "epoch": of.epoch, "samples_per_second": of.samples_per_second, "bytes": of.bytes}
                for stage in STAGES
                if (of := self._stages.get(stage))
            },
            "matching": {
                "seconds": max(self._matching.values(), default=None),
                "bytes": outcome.match_bytes if outcome else None,
            },
            "faults": {"restarts": self._restarts, "rejected_messages": self._refused},
        }

    def _doubts(self) -> list[str]:
        """Say that other parties' features were worth nothing, or that nobody can tell."""
        alone, together = self._stages.get("active"), self._stages.get("federated")
        if together and together.figures.get("logloss") is not None and together.figures.get("auc") is None:
            return [
                "all held-out samples have one label, so there is no AUC, and the last epoch is kept: hold out more"
                " (vertical.holdout), or see that common ids are of both kinds"
            ]
        for name, sign in BETTER.items():
            ours, all_ = (of.figures.get(name) if of else None for of in (alone, together))
            if ours is not None and all_ is not None and sign * all_ <= sign * ours:
                return [
                    f"{FIGURES[name]} {all_:.4f} of all together is no better than {ours:.4f} of {self._job.vertical.active}"
                    " alone: what the others know tells nothing more of the label, or training was too short"
                ]
        return []


class Shown:
    """Shows a run while it goes, and a closing table; on standard error.

    Args:
        job: the job.
        quiet: show nothing.
    """

    def __init__(self, job: VerticalJob, quiet: bool) -> None:
        self._job, self._console = job, Console(stderr=True, quiet=quiet, markup=False)
        self._speed, self._said, self._epoch = Speed(), 0.0, -1  # samples of an epoch; when a line was

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def take(self, entry: Entry) -> None:
        """Show one event."""
        who = f"{entry.role} {entry.id}".strip()
        match entry.event:
            case parties.Matched(ids=ids, common=common, seconds=seconds):
                self.say(f"{who}: {common:,} of {ids:,} samples are common to all; found in {seconds:.1f} s")
            case events.Progress() as event:
                self._advance(entry.time, event)
            case parties.Measured(stage=stage, epoch=epoch, epochs=epochs, figures=figures):
                self.say(f"{whose(self._job.order)[stage]}: epoch {epoch} of {epochs}: {said(figures)}")
            case parties.Scored(federated=federated, alone=alone, none=none):
                self.say(f"scores: {federated:,} by all parties, {alone:,} by {entry.id} alone, {none:,} by nobody")
            case events.Note(note=note):
                self.say(f"{who}: {note}")
            case events.Restarted(reason=reason, attempt=attempt):
                self.say(f"{who}: started again, time {attempt} of {self._job.vertical.restarts} at most: {reason}")
            case event if sentence := trouble(event):
                self.say(f"{who}: {sentence}")

    def close(self, summary: Mapping[str, Any], folder: str) -> None:
        """Print the lift; the last line is the run folder."""
        for what, fact in facts(summary).items():
            self.say(f"{what}: {fact}")
        if summary["vertical"]:
            head, *lines = rows(summary)
            table = Table(*head, title=f"{self._job.name}: {summary['status']}")
            for line in lines:
                table.add_row(*line)
            self._console.print(table)
        for warning in summary["warnings"]:
            self.say(f"warning: {warning}")
        if summary["error"]:
            self.say(f"failed: {summary['error']}")
        self.say(f"run folder: {folder}")

    def _advance(self, at: float, event: events.Progress) -> None:
        if event.epoch != self._epoch:
            self._epoch, self._speed = event.epoch, Speed()
        self._speed.add(at, event.samples)
        if time.monotonic() - self._said > LINE_EVERY:
            self._said = time.monotonic()
            share, rate = event.batch / max(1, event.batches), self._speed.rate
            speed = f" {rate:,.0f} samples/s," if rate else ""
            self.say(f"epoch {event.epoch + 1}: {share:4.0%}{speed} loss {event.loss:.4f}")


def introduction(job: VerticalJob, address: str) -> str:
    """Say who takes part, and where the active party listens."""
    active, passive = job.vertical.active, job.vertical.passive
    return (
        f"{job.name}: {active} has the label and listens on {address}; {' and '.join(passive)} dial{'s' * (len(passive) == 1)};"
        f" network {job.vertical.network}, {job.vertical.epochs} epoch(s)"
    )
