"""From a run's events to its summary: times, samples, metrics, bytes, memory, faults."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedps.config import Job
from fedps.models.metrics import Histogram
from fedps.types import ClientId

Event = Mapping[str, Any]
Span = tuple[float, float]  # begin and end, seconds since 1970
HISTOGRAMS = ("positives", "negatives")  # merged here, and kept out of the journal


class Round:
    """Sums over clients of one epoch's training and of the evaluation after it."""

    def __init__(self) -> None:
        self.trained: dict[str, Span] = {}
        self.evaluated: set[str] = set()
        self._samples, self._loss, self._training = 0, 0.0, Histogram()
        self._users, self._hits, self._ndcg, self._held_out = 0, 0.0, 0.0, Histogram()

    def add_training(self, event: Event, span: Span) -> None:
        """Add what one client trained, and when."""
        self.trained[event["id"]] = span
        self._samples += event["samples"]
        self._loss += event["loss"] * event["samples"]
        self._training.merge(Histogram(event["positives"], event["negatives"]))

    def add_evaluation(self, event: Event) -> None:
        """Add one client's sums over its own held-out users."""
        self.evaluated.add(event["id"])
        self._users += event["users"]
        self._hits += event["hits"]
        self._ndcg += event["ndcg"]
        self._held_out.merge(Histogram(event["positives"], event["negatives"]))

    def metrics(self) -> dict[str, float | None]:
        """Return the figures of all clients together; None where nobody had samples."""
        users = self._users
        return {
            "loss": self._loss / self._samples if self._samples else None,
            "auc": self._held_out.auc() if users else None,
            "train_auc": self._training.auc() if self._samples else None,
            "hr@10": self._hits / users if users else None,
            "ndcg@10": self._ndcg / users if users else None,
        }


class Ledger:
    """Keeps what a summary needs of every event.

    Args:
        job: the job.
        clients: its clients, in order.
        began: when the launch began, seconds since 1970.

    Attributes:
        first_batch: when each client trained its first batch, seconds since 1970.
        failed: why each lost worker is lost.
        finished: the workers that said `done`.
    """

    def __init__(self, job: Job, clients: Sequence[ClientId], began: float) -> None:
        self._job, self._clients, self._began = job, clients, began
        self.first_batch: dict[str, float] = {}
        self.failed: dict[str, str] = {}
        self.finished: set[str] = set()
        self._rounds: dict[int, Round] = defaultdict(Round)
        self._begun: dict[tuple[str, str], float] = {}
        self._spans: dict[str, list[Span]] = {"epoch": [], "evaluate": []}
        self._samples = self._rejected = self._retries = 0
        self._bytes = {"sent_by_clients": 0, "received_by_clients": 0}
        self._memory: dict[str, float] = defaultdict(float)

    def take(self, event: Event) -> None:
        """Note one stamped event."""
        kind, who = event["event"], event["id"]
        if kind == "first_batch":
            self.first_batch[who] = event["time"]
        elif kind in ("epoch_begin", "evaluate_begin"):
            self._begun[kind.removesuffix("_begin"), who] = event["time"]
        elif kind == "epoch_end":
            self._samples += event["samples"]
            self._rounds[event["epoch"] + 1].add_training(event, self._end("epoch", event))
        elif kind == "evaluated":
            self._end("evaluate", event)
            self._rounds[event["epoch"]].add_evaluation(event)
        elif kind == "done":
            self.finished.add(who)
            self._bytes["sent_by_clients"] += event["bytes_sent"]
            self._bytes["received_by_clients"] += event["bytes_received"]
            self._retries += event["retries"]
        elif kind == "refused":
            self._rejected += 1
        elif kind == "failed" and event["role"] == "worker":
            self.failed[who] = event["error"]

    def _end(self, what: str, event: Event) -> Span:
        span = (self._begun[what, event["id"]], event["time"])
        self._spans[what].append(span)
        return span

    def weigh(self, sizes: Iterable[tuple[str, float]], pss: float) -> None:
        """Note one look at memory, MiB: the resident set of each role (its kind, its size), the fair sum of all."""
        for kind, size in sizes:
            self._memory[kind] = max(self._memory[kind], size)
        self._memory["pss"] = max(self._memory["pss"], pss)

    def complete_rounds(self, after: int) -> list[dict[str, Any]]:
        """Return the rounds behind `after` that all workers left have evaluated."""
        left = set(self._clients) - set(self.failed)
        return [self._told(n) for n, r in sorted(self._rounds.items()) if n > after and r.evaluated and r.evaluated >= left]

    def summary(self, now: float, error: str | None) -> dict[str, Any]:
        """Return the summary as `summary.json` holds it. `now`: seconds since 1970."""
        runner, train = self._job.runner, union(self._spans["epoch"])
        rounds = [self._told(n) for n, r in sorted(self._rounds.items()) if r.evaluated]
        last = rounds[-1] if rounds else {}
        started = len(self.first_batch) == len(self._clients)
        return {
            "status": "failed" if error else "ok",
            "error": error,
            "mode": runner.sync_mode,
            "workers": len(self._clients),
            "servers": runner.server_num,
            "coordinator": False,
            "start_seconds": max(self.first_batch.values()) - self._began if started else None,
            "train_seconds": train,
            "eval_seconds": union(self._spans["evaluate"]),
            "wall_seconds": now - self._began,
            "samples": self._samples,
            "samples_per_second": self._samples / train if train else 0.0,
            "rounds": rounds,
            "metrics": {k: last.get(k) for k in Round().metrics()},
            "bytes": self._bytes,
            "memory_mib": {f"{k}_max_rss": round(self._memory[k], 1) for k in ("worker", "server", "coordinator")}
            | {"sum_pss": round(self._memory["pss"], 1)},
            "faults": {
                "rejected_messages": self._rejected,
                "retries": self._retries,
                "lost_workers": [c for c in self._clients if c in self.failed],
                "restarts": 0,
            },
        }

    def _told(self, number: int) -> dict[str, Any]:
        spans = self._rounds[number].trained
        return {
            "round": number,
            "selected": [c for c in self._clients if c in spans],
            "seconds": union(spans.values()),
            "coordinator_seconds": 0.0,
            **self._rounds[number].metrics(),
        }


def union(spans: Iterable[Span]) -> float:
    """Return the length of the union of intervals, seconds."""
    length, end = 0.0, float("-inf")
    for begin, finish in sorted(spans):
        length += max(0.0, finish - max(begin, end))
        end = max(end, finish)
    return length
