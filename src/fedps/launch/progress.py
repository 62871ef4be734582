"""What people see of a run: a live table where there is a terminal, plain lines where there is none."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from fedps.config import Job
from fedps.types import ClientId

Event = Mapping[str, Any]
LINE_EVERY = 2.0  # seconds between plain lines


class Progress:
    """Shows a run while it goes and a closing table.

    Args:
        job: the job.
        clients: its clients, in order.
        quiet: show nothing (machines read the summary).
    """

    def __init__(self, job: Job, clients: list[ClientId], quiet: bool) -> None:
        self._job, self._clients, self._quiet = job, clients, quiet
        self._console = Console(stderr=True, quiet=quiet)
        self._last: dict[str, Event] = {}
        self._speed: dict[str, tuple[float, int, float]] = {}  # time, samples, samples a second
        self._said = 0.0
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Progress":
        runner = self._job.runner
        self._console.print(
            f"[bold]{self._job.name}[/]: {runner.worker_num} workers, {runner.server_num} server(s), mode {runner.sync_mode},"
            f" {runner.epochs} epoch(s); private: {', '.join((*runner.local_sparse, *runner.local_dense)) or 'nothing'}"
        )
        if runner.model:
            self._console.print(f"runs code: {runner.model} from {self._job.folder}")
        if self._console.is_terminal and not self._quiet:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live.is_started:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line above the table."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def take(self, event: Event) -> None:
        """Show one stamped event."""
        kind, who = event["event"], event["id"]
        if kind == "progress":
            done = event["samples"] + event["epoch"] * 10**12  # any order of epochs gives a growing count
            before = self._speed.get(who)
            rate = (event["samples"] - before[1]) / (event["time"] - before[0]) if before and done > before[1] else 0.0
            self._speed[who] = (event["time"], event["samples"], max(rate, 0.0))
            self._last[who] = event
            self._show()
        elif kind in ("refused", "lost", "suspended"):
            self.say(
                f"server {who}: client {event['client']} {kind}: {event.get('reason', 'silent past the deadline')}"
            )

    def evaluated(self, result: Event) -> None:
        """Print one epoch's merged figures."""
        hits = f", HR@10 {result['hr@10']:.4f}, NDCG@10 {result['ndcg@10']:.4f}" if result["hr@10"] is not None else ""
        auc = f", AUC {result['auc']:.4f}" if result["auc"] is not None else ""
        self.say(f"epoch {result['round']}: loss {result['loss']:.4f}{auc}{hits}")

    def close(self, summary: Event, folder: str) -> None:
        """Print the closing table; its last line is the run folder."""
        table = Table(title=f"{self._job.name}: {summary['status']}", show_header=False)
        rows = {
            "samples/s": f"{summary['samples_per_second']:,.0f}",
            "seconds": f"{summary['wall_seconds']:.1f} in all: start {summary['start_seconds'] or 0:.1f},"
            f" training {summary['train_seconds']:.1f}, evaluation {summary['eval_seconds']:.1f}",
            **{k: f"{v:.4f}" for k, v in summary["metrics"].items() if v is not None},
            "MiB sent / received": " / ".join(
                f"{summary['bytes'][f'{d}_by_clients'] / 2**20:.1f}" for d in ("sent", "received")
            ),
            "memory (sum PSS)": f"{summary['memory_mib']['sum_pss']:.0f} MiB",
        }
        for name, value in rows.items():
            table.add_row(name, value)
        self._console.print(table)
        if summary["error"]:
            self.say(f"failed: {summary['error']}")
        self._console.print(f"run folder: {folder}", markup=False, highlight=False, soft_wrap=True)

    def _show(self) -> None:
        if self._live.is_started:
            self._live.update(self._table())
        elif time.monotonic() - self._said > LINE_EVERY:
            self._said = time.monotonic()
            events = self._last.values()
            loss, auc = (sum(e[k] for e in events) / len(self._last) for k in ("loss", "auc"))
            rate = sum(s[2] for s in self._speed.values())
            self.say(
                f"epoch {max(e['epoch'] for e in events)}: {rate:,.0f} samples/s, mean loss {loss:.4f}, mean AUC {auc:.4f}"
            )

    def _table(self) -> Table:
        table = Table("worker", "epoch", "batch", "samples/s", "loss", "AUC")
        for client in self._clients:
            e = self._last.get(client)
            if e is not None:
                rate = f"{self._speed[client][2]:,.0f}"
                table.add_row(
                    client,
                    str(e["epoch"]),
                    f"{e['batch']}/{e['batches']}",
                    rate,
                    f"{e['loss']:.4f}",
                    f"{e['auc']:.4f}",
                )
        return table
