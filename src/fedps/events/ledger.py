"""From a run's events to its summary: times, samples, metrics, bytes, memory, faults."""

from collections import defaultdict
from collections.abc import Mapping
from math import fsum
from typing import Any

from fedps.config import Job
from fedps.metrics import Histogram

Event = Mapping[str, Any]
HISTOGRAMS = ("positives", "negatives")  # merged here, and kept out of the journal


class Evaluated:
    """Sums over clients of one epoch's evaluation."""

    def __init__(self) -> None:
        self.clients, self.users, self.hits, self.histogram = 0, 0, 0.0, Histogram()
        self._gains: list[float] = []

    def add(self, event: Event) -> None:
        """Add one client's sums."""
        self.clients += 1
        self.users += event["users"]
        self.hits += event["hits"]
        self._gains.append(event["ndcg"])
        self.histogram.merge(Histogram(event["positives"], event["negatives"]))

    @property
    def ndcg(self) -> float:
        """The sum over clients, the same in whatever order they came."""
        return fsum(self._gains)


class Ledger:
    """Keeps what a summary needs of every event.

    Args:
        job: the job.
        began: when the launch began, seconds since 1970.
    """

    def __init__(self, job: Job, began: float) -> None:
        self._job, self._began = job, began
        self.first_batch: dict[str, float] = {}
        self.failed: dict[str, str] = {}
        self._lost: set[str] = set()  # their connection broke, and nothing was heard of them since
        self._spans: dict[str, list[tuple[float, float]]] = {"epoch": [], "evaluate": []}
        self._open: dict[tuple[str, str], float] = {}
        self._trained: dict[int, list[Event]] = defaultdict(list)
        self._tested: dict[int, Evaluated] = defaultdict(Evaluated)
        self._assigned: dict[int, list[Event]] = defaultdict(list)  # by round, where there is a coordinator
        self._clocks: dict[int, Event] = {}  # by round, where devices are simulated
        self._dropped: dict[int, list[str]] = defaultdict(list)
        self._clients: dict[str, dict[str, Any]] = {}
        self._bytes = {"sent_by_clients": 0, "received_by_clients": 0}
        self._rejected = self._retries = 0
        self._memory: dict[str, float] = defaultdict(float)

    def take(self, event: Event) -> None:
        """Note one stamped event."""
        kind, who, time = event["event"], event["id"], event["time"]
        if event.get("role") == "worker":
            self._lost.discard(who)
        if kind == "data":
            self._clients[who] = {"samples": event["samples"], "test_users": event["test_users"], "first_epoch_auc": {}}
        elif kind == "progress" and event["epoch"] == 0:
            self._clients[who]["first_epoch_auc"][str(event["batch"])] = event["auc"]
        elif kind == "first_batch":
            self.first_batch[who] = time
        elif kind in ("epoch_begin", "evaluate_begin"):
            self._open[kind.partition("_")[0], who] = time
        elif kind == "epoch_end":
            self._spans["epoch"].append((self._open["epoch", who], time))
            self._trained[event["epoch"] + 1].append({**event, "begun": self._open["epoch", who]})
        elif kind == "evaluated":
            self._spans["evaluate"].append((self._open["evaluate", who], time))
            self._tested[event["epoch"]].add(event)
        elif kind == "assigned":
            self._assigned[event["round"]].append(event)
        elif kind == "clock":
            self._clocks[event["round"]] = event
        elif kind == "simulated" and event["fate"]:
            self._dropped[event["round"]].append(who)
        elif kind == "done":
            self._bytes["sent_by_clients"] += event["bytes_sent"]
            self._bytes["received_by_clients"] += event["bytes_received"]
            self._retries += event["retries"]
        elif kind == "lost":
            self._lost.add(event["client"])
        elif kind == "refused":
            self._rejected += event.get("count", 1)
        elif kind == "failed" and event["role"] == "worker":
            self.failed[who] = event["error"]

    def weigh(self, rss: Mapping[tuple[str, str], float], pss: float) -> None:
        """Note one look at memory, MiB: each role's resident set, and the proportional sum of all."""
        for (kind, _), size in rss.items():
            self._memory[kind] = max(self._memory[kind], size)
        self._memory["pss"] = max(self._memory["pss"], pss)

    def complete_rounds(self, clients: int) -> list[dict[str, Any]]:
        """Return the merged figures of every epoch that all clients have been evaluated for.

        Args:
            clients: how many those are, where no coordinator says who is.
        """
        timed = self._clocks.keys() if self._job.traces else self._tested.keys()
        whole = [e for e in sorted(self._tested) if self._tested[e].clients >= self._due(e, clients) and e in timed]
        return [self._round(e) for e in whole]

    def _due(self, round_: int, clients: int) -> int:
        if not self._job.runner.with_coordinator:
            return clients
        return sum(
            e["evaluate"] and e["state"] != "FINISH" and e["id"] not in self.failed for e in self._assigned[round_]
        )

    def summary(self, now: float, error: str | None) -> dict[str, Any]:
        """Return the summary as `summary.json` holds it."""
        runner, train = self._job.runner, union(self._spans["epoch"])
        samples = sum(e["samples"] for events in self._trained.values() for e in events)
        rounds = [self._round(epoch) for epoch in sorted(self._tested)]
        last = rounds[-1] if rounds else {}
        started = self.started()
        return {
            "status": "failed" if error else "ok",
            "error": error,
            "mode": runner.sync_mode,
            "workers": runner.worker_num,
            "servers": runner.server_num,
            "coordinator": runner.with_coordinator,
            "start_seconds": max(started.values()) - self._began if started else None,
            "train_seconds": train,
            "eval_seconds": union(self._spans["evaluate"]),
            "wall_seconds": now - self._began,
            "samples": samples,
            "samples_per_second": samples / train if train else 0.0,
            "rounds": rounds,
            "metrics": {k: last.get(k) for k in ("loss", "auc", "train_auc", "hr@10", "ndcg@10")},
            "clients": dict(sorted(self._clients.items())),
            "bytes": self._bytes,
            "memory_mib": {f"{k}_max_rss": round(self._memory[k], 1) for k in ("worker", "server", "coordinator")}
            | {"sum_pss": round(self._memory["pss"], 1)},
            "faults": {
                "rejected_messages": self._rejected,
                "retries": self._retries,
                "lost_workers": sorted(self._lost | self.failed.keys()),
                "restarts": 0,
            },
        }

    def started(self) -> dict[str, float]:
        """Return the times of the first batches, of all or of those picked for round 1; nothing while one is missing."""
        runner, times = self._job.runner, self.first_batch
        if not runner.with_coordinator:
            return times if len(times) == runner.worker_num else {}
        first = [e["id"] for e in self._assigned[1] if e["state"] == "JOIN" and e["id"] not in self._dropped[1]]
        return {who: times[who] for who in first} if set(first) <= times.keys() else {}

    def _round(self, epoch: int) -> dict[str, Any]:
        trained, tested = self._trained[epoch], self._tested[epoch]
        samples = sum(e["samples"] for e in trained)
        histogram = Histogram()
        for e in trained:
            histogram.merge(Histogram(e["positives"], e["negatives"]))
        return {
            "round": epoch,
            "selected": sorted(e["id"] for e in trained),
            "seconds": union([(e["begun"], e["time"]) for e in trained]),
            # the last to report waits for the coordinator alone, all others for each other too
            "coordinator_seconds": min((e["seconds"] for e in self._assigned[epoch]), default=0.0),
            "loss": fsum(e["loss"] * e["samples"] for e in trained) / samples if samples else None,
            "auc": tested.histogram.auc() if tested.users else None,
            "train_auc": histogram.auc(),
            "hr@10": tested.hits / tested.users if tested.users else None,
            "ndcg@10": tested.ndcg / tested.users if tested.users else None,
            **self._simulated(epoch),
        }

    def _simulated(self, epoch: int) -> dict[str, Any]:
        """Return what a round took simulated devices; nothing where they are real."""
        if self._job.traces is None:
            return {}
        clock = self._clocks.get(epoch, {})  # empty if the run broke off before its end
        return {
            "simulated_seconds": clock.get("seconds"),
            "simulated_clock": clock.get("clock"),
            "dropped": sorted(self._dropped[epoch]),
        }


def union(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of intervals, seconds."""
    length, end = 0.0, float("-inf")
    for begin, finish in sorted(spans):
        length += max(0.0, finish - max(begin, end))
        end = max(end, finish)
    return length
