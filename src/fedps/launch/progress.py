"""What people see of a run: a live table where there is a terminal, plain lines where there is none."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedps.config import Job
from fedps.events import events
from fedps.events.events import Entry, Event
from fedps.events.ledger import beaten, unsaved
from fedps.figures import sums_of
from fedps.launch.folder import can_go_on, go_on
from fedps.pages.words import facts, hours, in_words
from fedps.types import ClientId

NOT_HERE = ("auc", "loss", "train_auc")  # figures that a line of an epoch has in another place, or not at all
LINE_EVERY = 2.0  # seconds between plain lines
WINDOW = 5.0  # seconds over which a rate is taken
NAME, CELL = 12, 26  # columns of a worker's name, and of all that is said of it, where there are many


class Speed:
    """Samples a second over the last `WINDOW` seconds, from a growing count."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()

    def add(self, at: float, samples: int) -> None:
        """Note that `samples` were done in all at the time `at`, seconds."""
        self._points.append((at, samples))
        while len(self._points) > 2 and at - self._points[1][0] > WINDOW:
            self._points.popleft()

    @property
    def rate(self) -> float:
        """Samples a second, 0.0 before there is a span to take it over."""
        (begin, first), (end, last) = self._points[0], self._points[-1]
        return max(last - first, 0) / (end - begin) if end > begin else 0.0


class Progress:
    """Shows a run while it goes and a closing table.

    Args:
        job: the job.
        clients: its clients, in order.
        quiet: show nothing (machines read the summary).
    """

    def __init__(self, job: Job, clients: list[ClientId], quiet: bool) -> None:
        self._job, self._clients, self._quiet = job, clients, quiet
        self._console = Console(stderr=True, quiet=quiet, markup=False)  # names may hold brackets
        self._last: dict[str, events.Progress] = {}  # each worker's latest progress
        self._before: dict[str, int] = {}  # samples of each worker in its earlier epochs
        self._done: dict[str, int] = {}  # and in all
        self._speed: dict[str, Speed] = {}
        self._all = Speed()
        self._said, self._began = 0.0, time.monotonic()  # when a line was, and when training began
        self._epoch = ""  # what came of the last one
        self._cell: Any = None  # of a notebook, to be shown anew
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Progress":
        runner = self._job.runner
        self.say(
            f"{self._job.name}: {len(self._clients)} workers, {runner.server_num} server(s),"
            f"{' a coordinator,' * runner.with_coordinator} mode {runner.sync_mode}, {runner.epochs} epoch(s)"
        )
        own = [runner.model, runner.fl_client, runner.client_selector if "." in runner.client_selector else None]
        for path in filter(None, own):
            self.say(f"runs code: {path} from {self._job.folder}")
        if self._console.is_jupyter and not self._quiet:
            show = import_module("IPython.display").display  # which there is in a notebook
            self._cell = show(self._view(), display_id=True)
        elif self._console.is_terminal and not self._quiet:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live.is_started:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line above the table."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def introduce(self, servers: Sequence[str], coordinator: str | None) -> None:
        """Print who takes part, and where each can be reached."""
        table = Table("role", "id", "address")
        for number, address in enumerate(servers):
            table.add_row("server", str(number), address)
        if coordinator is not None:
            table.add_row("coordinator", "0", coordinator)
        ends = [self._clients[0], self._clients[-1]][: len(self._clients)]
        table.add_row("worker", " … ".join(ends), f"{len(self._clients)} in all; they dial out and never listen")
        self._console.print(table)

    def take(self, entry: Entry) -> None:
        """Show one event."""
        match entry.event:
            case events.Checked(mistakes=[], reason=reason, notes=notes) as checked:
                self.say(places(checked, self._job))
                if reason:
                    self.say(f"training steps by torch, not compiled: {reason}")
                for note in notes:
                    self.say(note)
            case events.Progress() as event:
                self._advance(entry.id, entry.time, event)
            case events.Selected(round=round_, selected=selected, waiting=waiting, finished=finished):
                if out := len(waiting) + len(finished):
                    self.say(f"round {round_}: {len(selected)} clients train, {out} sit out")
            case events.Note(note=note, seen=False):
                self.say(note)
            case events.Unsaved() as event:
                self.say(f"{entry.role} {entry.id}: {unsaved(event)}")
            case events.Scripted(script=script, args=args):
                self.say(f"runs code: {' '.join([script, *args])}")
            case events.Resumed() as resumed:
                self.say(f"{self._job.name} goes on {resumed_at(resumed)}")
            case events.Restarted(reason=reason, attempt=attempt):
                most = self._job.runner.restarts
                self.say(f"{entry.role} {entry.id}: started again, time {attempt} of {most} at most: {reason}")
            case events.Dropped(count=count):
                self.say(
                    f"{entry.role} {entry.id}: {count} events of its progress were left out, as they were not read in time"
                )
            case event if sentence := trouble(event):
                self.say(f"{entry.role} {entry.id}: {sentence}")

    def _advance(self, who: str, at: float, event: events.Progress) -> None:
        if not self._last:
            self._began = time.monotonic()
        last = self._last.get(who)
        if last is not None and last.epoch != event.epoch:
            self._before[who] = self._before.get(who, 0) + last.samples
        self._last[who], self._done[who] = event, self._before.get(who, 0) + event.samples
        self._speed.setdefault(who, Speed()).add(at, self._done[who])
        self._all.add(at, sum(self._done.values()))
        self._show()

    def evaluated(self, result: Mapping[str, Any]) -> None:
        """Print one epoch's merged figures."""
        others = "".join(f", {name} {value}" for name, value in in_words(result, NOT_HERE).items())
        auc = f", AUC {result['auc']:.4f}" if result["auc"] is not None else ""
        loss = f"loss {result['loss']:.4f}" if result["loss"] is not None else "nobody trained"
        clock = result.get("simulated_clock")
        auc += f", simulated clock {hours(clock)}" if clock is not None else ""
        word = "round" if self._job.runner.with_coordinator else "epoch"
        self._epoch = f"{word} {result['round']} of {self._job.runner.epochs}: {loss}{auc}{others}"
        self.say(self._epoch)

    def close(self, summary: Mapping[str, Any], folder: str) -> None:
        """Print the closing table; the last line is the run folder."""
        table = Table(title=f"{self._job.name}: {summary['status']}", show_header=False)
        for name, value in facts(summary).items():
            if name != "warnings":  # these are sentences: each has a line of its own
                table.add_row(name, value)
        self._console.print(table)
        for warning in summary["warnings"]:
            self.say(f"warning: {warning}")
        if summary["error"]:
            self.say(f"failed: {summary['error']}")
        popular = beaten(summary["metrics"], summary["popularity"])
        if summary["status"] != "ok" and can_go_on(Path(folder)):
            self.say(go_on(Path(folder)))
        self.say(f"run folder: {folder}{' (no better than popularity: see the warning)' * bool(popular)}")

    def _show(self) -> None:
        if self._live.is_started:
            self._live.update(self._view())
        elif self._cell is not None:
            self._cell.update(self._view())
        elif time.monotonic() - self._said > LINE_EVERY:
            self._said = time.monotonic()
            self.say(f"{self._share():4.0%} {self._all.rate:,.0f} samples/s, mean over workers: {self._means()}")

    def _share(self) -> float:
        """Return how much of the run's training is done, from 0 to 1."""
        epoch = max(e.epoch for e in self._last.values())
        now = [e for e in self._last.values() if e.epoch == epoch]  # who sits out stays behind
        return (epoch + sum(e.batch for e in now) / sum(e.batches for e in now)) / self._job.runner.epochs

    def _means(self) -> str:
        last = self._last.values()
        aucs = [e.auc for e in last if e.auc is not None]
        return f"loss {mean(e.loss for e in last):.4f}" + (f", AUC {mean(aucs):.4f}" if aucs else "")

    def _view(self) -> Table:
        """Return what is seen while a run goes: how far it is, always in sight, what came of the last epoch, the workers."""
        view = Table.grid()
        if not self._last:
            view.add_row("starting")
            return view
        share, spent = self._share(), time.monotonic() - self._began
        left = f"{clock(spent / share - spent)} left" if share > 0 else ""
        bar = Table.grid(padding=(0, 1))
        rate = f"{self._all.rate:,.0f} samples/s"
        bar.add_row(f"{share:4.0%}", ProgressBar(1.0, share, width=30), clock(spent), left, rate, self._means())
        view.add_row(bar)
        if self._epoch:
            view.add_row(Text(self._epoch, overflow="ellipsis", no_wrap=True))
        room = self._console.height - view.row_count - 4  # a table's own lines, and the prompt's
        view.add_row(self._table() if len(self._last) <= room else self._cells(max(room, 1)))
        return view

    def _table(self) -> Table:
        """Return a line a worker."""
        told = any(e.auc is not None for e in self._last.values())  # of one class alone, AUC says nothing
        table = Table("worker", "epoch", "batch", "samples/s", "loss", *["AUC"] * told)
        for client in self._clients:
            e = self._last.get(client)
            if e is not None:
                table.add_row(
                    client, f"{e.epoch + 1}/{self._job.runner.epochs}", f"{e.batch}/{e.batches}",
                    f"{self._speed[client].rate:,.0f}", f"{e.loss:.4f}",
                    *["" if e.auc is None else f"{e.auc:.4f}"] * told,
                )  # fmt: skip
        return table

    def _cells(self, room: int) -> Table:
        """Return many workers in so many lines of several each; those that are furthest behind, where not all have room."""
        done = {client: e.epoch + e.batch / e.batches for client, e in self._last.items()}
        across = max(1, self._console.width // CELL)
        last = set(sorted(done, key=lambda client: done[client])[: room * across])
        shown = [client for client in self._clients if client in last]
        grid = Table.grid(padding=(0, 2))
        for at in range(0, len(shown), across):
            line = [(client, self._last[client]) for client in shown[at : at + across]]
            grid.add_row(*(f"{_end(c):{NAME}} {done[c] / self._job.runner.epochs:4.0%} {e.loss:.4f}" for c, e in line))
        if hidden := len(done) - len(shown):
            grid.add_row(f"and {hidden} that are further")
        return grid


def _end(name: str) -> str:
    """Return the end of a long name, by which names of a kind differ."""
    return name if len(name) <= NAME else f"…{name[1 - NAME :]}"


def clock(seconds: float) -> str:
    """Return a time as a bar shows it: 1:05, or 2:01:05."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


def places(checked: events.Checked, job: Job) -> str:
    """Say which parameters leave the clients and which stay, in this order, and who is told what of each client."""
    sums = f"sums over its own samples alone, no score: samples, loss, {', '.join(sums_of(job.metrics))}"
    told = (
        f"the coordinator is told of each client, each round: {sums}; what else fedps.ClientInfo names; score histograms"
        if job.runner.with_coordinator
        else f"server 0 is told of each client, each epoch: {sums}"
    )
    return (
        f"leaves the clients: {', '.join(checked.shared) or 'nothing'}; stays with each client:"
        f" {', '.join(checked.private) or 'nothing'}\n{told}"
    )


def resumed_at(resumed: events.Resumed) -> str:
    """Say from where a run goes on."""
    places = sorted({(epoch, resumed.batches[client]) for client, epoch in resumed.epochs.items()})
    named = [f"epoch {epoch}" + f", batch {batch} of the next" * bool(batch) for epoch, batch in places]
    if resumed.exact:
        return f"after {named[-1]}, as if it had not been broken off" if any(places[-1]) else "from its beginning"
    return f"where each client was: after {' to '.join(dict.fromkeys([named[0], named[-1]]))}"


def trouble(event: Event) -> str | None:
    """Return what befell a client, for the events that people should see wherever they come from."""
    match event:
        case events.Refused(client=client, reason=reason):
            return f"client {client} refused: {reason}"
        case events.Lost(client=client, reason=reason):
            return f"client {client} lost: {reason}"
        case events.Suspended(client=client, reason=reason):
            return f"client {client} suspended: {reason}"
        case events.LeftBehind(client=client, reason=reason):
            return f"client {client} left behind: {reason}"
    return None
