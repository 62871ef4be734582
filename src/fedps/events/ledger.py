"""From a run's events to its summary: times, samples, metrics, bytes, memory, faults.

What an event says is added to its round's sums when it comes, and is not kept. A round is complete once nothing more of it
can come from anybody: each client's events come in order, so it has been evaluated, has gone on, or is not waited for. Then
its figures are final and its sums go, so the ledger holds a few open rounds however long a run is. No order in which
events come, and none that is missing, brings it down: a user's script may leave steps out. A worker that is started again
says some of it a second time; the first time counts.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import asdict

from fedps.config import Job
from fedps.events import events
from fedps.events.events import Entry, Event
from fedps.events.forms import facts
from fedps.events.tally import ALWAYS, Spans, Tally
from fedps.figures import CANDIDATES, Metric, Totals, metrics_in, read_metric
from fedps.metrics import Evaluations
from fedps.types import ClientId, Counts, TableName

MOST_SECONDS = 1e10  # of a part of a run: a journal that tells of more tells of no time
MOST_OPEN = 64  # rounds; who lies further behind is not waited for
UNTRAINED = math.log(2)  # loss of a model that gives every sample, or order of a pair, a probability of one half
BEYOND_REASON, DIVERGED = 2, 1000  # times that: a loss to warn of, and one that no trained model has
SLACK = 0.005  # by which a figure has to be better than chance


class Ledger:
    """Keeps what a summary needs of every event.

    Args:
        job: the job.
        began: when the launch began, seconds since 1970.

    Attributes:
        rounds: figures of the evaluated rounds that are complete.
        failed: why a worker failed, by client.
    """

    def __init__(self, job: Job, began: float) -> None:
        self._job, self._began = job, began
        measured = Evaluations().figures(job.metrics)
        self._names = list(dict.fromkeys(("loss", "auc", "train_auc", *ALWAYS, *measured)))
        self.rounds: list[dict[str, Any]] = []
        self.failed: dict[str, str] = {}
        self._open: dict[int, Tally] = {}
        self._complete = 0.0  # rounds up to this one are
        self._trained: dict[str, int] = {}  # the last round that a client has trained,
        self._evaluated: dict[str, int] = {}  # and in which it was evaluated
        self._at_work: set[str] = set()  # clients that train
        self._again: set[str] = set()  # clients whose workers were started again
        self._past: dict[str, float] = {}  # the last round of which nothing more comes, by client
        self._silent: set[str] = set()  # clients that a server goes on without, and of which nothing was heard since
        self._lost: set[str] = set()  # those of them whose connection broke
        self._selected: dict[int, list[str]] = {}  # what a coordinator says of each round: who trained,
        self._merged: dict[int, events.Round] = {}  # and the merged figures
        self._left_behind: set[str] = set()  # clients that others went on without at least once
        self._begun: dict[str, float] = {}  # when a client began to train or evaluate
        self._training, self._evaluation = Spans(), Spans()
        self._first_batch: dict[str, float] = {}
        self._first: set[str] = set()  # clients that the coordinator picked for round 1
        self._clients: dict[str, dict[str, Any]] = {}
        self._popular: dict[str, Mapping[str, int | float]] = {}  # what popularity comes to, by client
        self._samples = self._sent = self._received = self._retries = self._rejected = self._late = 0
        self._restarts = 0
        self._unsaved: dict[tuple[str, str], str] = {}  # what was not saved last, by whom and what it is
        self._missing = 0  # saves that failed
        self._earlier = 0.0  # seconds that the run's earlier parts took
        self._done: set[str] = set()  # clients that have said what they sent
        self._not_finite: str | None = None  # whose loss was no number, and when
        self._memory: dict[str, float] = {}  # the largest weight seen, MiB
        self._tables: dict[str, dict[TableName, Counts]] = {}  # rows of the servers' tables, by server
        self._audits: dict[str, dict[str, int | str]] = {}  # how the logs of those that answer end
        self._engine: dict[str, str | None] = {"steps": None, "reason": None}  # compiled or torch, and why torch

    def take(self, entry: Entry) -> None:
        """Add one event to the sums; where a run goes on that was broken off, those before, from its journal, come first."""
        if isinstance(entry.event, events.Resumed):
            self._resume(entry.time, entry.event)
        if entry.role == "worker":
            self._past.setdefault(entry.id, 0.0)
            self._silent.discard(entry.id)
            self._lost.discard(entry.id)
            self._take_worker(entry.id, self._at(entry.time), entry.event)
        match entry.event:
            case events.Checked(mistakes=[], engine=engine, reason=reason):
                self._engine = {"steps": engine, "reason": reason or None}
            case events.Clock(round=round_, seconds=seconds, clock=clock):
                self._tally(round_).clock = (seconds, clock)
            case events.LeftBehind(client=client):
                self._past[client] = math.inf
                self._left_behind.add(client)
            case events.Suspended(client=client):
                self._silent.add(client)
                self._left_behind.add(client)
            case events.Lost(client=client):
                self._silent.add(client)
                self._lost.add(client)
            case events.Restarted():
                self._restarts += 1
            case events.Unsaved(what=what):
                who = f"{entry.role} {entry.id}"
                self._unsaved[who, what] = f"{who}: {unsaved(entry.event)}"
                self._missing += 1
            case events.Completed(round=round_, figures=figures):
                self._open.pop(round_, None)
                self._complete = max(self._complete, round_)
                others = [
                    known for known in self.rounds if known["round"] != round_
                ]  # figures of a journal's events lack AUC
                self.rounds = [*others, Tally().figures(round_, self._job.metrics) | figures | {"round": round_}]
            case events.Refused(count=count):
                self._rejected += count
            case events.Audited(entries=entries, digest=digest):
                self._audits[f"{entry.role}-{entry.id}"] = {"entries": entries, "digest": digest}
            case events.Tables(tables=tables):
                self._tables[entry.id] = tables
            case events.Selected(round=round_, selected=selected):
                self._selected[round_] = sorted(selected)
            case events.Round() as merged:
                self._merged[merged.round] = merged
        self._complete_rounds()

    def weigh(self, rss: Mapping[tuple[str, str], float], pss: float | None) -> None:
        """Note one look at memory, MiB: each role's resident set, and the proportional sum of all if it was read."""
        for (kind, _), size in rss.items():
            self._memory[kind] = max(self._memory.get(kind, 0.0), size)
        if pss is not None:
            self._memory["pss"] = max(self._memory.get("pss", 0.0), pss)

    def started(self) -> dict[str, float]:
        """Return when each had its first batch, seconds of the run, of all or of those picked for round 1; nothing while one is missing."""
        runner, times = self._job.runner, self._first_batch
        if not runner.with_coordinator:
            return dict(times) if len(times) == runner.worker_num else {}
        return {who: times[who] for who in self._first} if self._first <= times.keys() else {}

    def summary(self, now: float, error: str | None) -> dict[str, Any]:
        """Return the summary as `summary.json` holds it; a figure that is not known is None.

        A job whose loss has left all reason has failed, whatever its roles say.
        """
        runner, train = self._job.runner, self._training.length
        evaluated = [r for r, tally in self._open.items() if tally.evaluations]
        rounds = sorted([*self.rounds, *map(self._figures, evaluated)], key=lambda figures: figures["round"])
        rounds = rounds or [self._told(round_) for round_ in sorted(self._merged)]  # where no worker is heard
        last, popular = rounds[-1] if rounds else {}, self._popularity()
        started, told = self.started(), bool(self._done) and self._begun.keys() <= self._done - self._again
        error = error or self._diverged(rounds)
        return {
            "status": "failed" if error else "ok",
            "error": error,
            "warnings": [*doubts(last, self._job), *beaten(last, popular), *self._unsaved.values()],
            "mode": runner.sync_mode,
            "workers": runner.worker_num,
            "servers": runner.server_num,
            "coordinator": runner.with_coordinator,
            "durability": runner.durability,
            "engine": self._engine,
            "start_seconds": max(started.values()) if started else None,
            "train_seconds": train,
            "eval_seconds": self._evaluation.length,
            "wall_seconds": self._at(now),
            "samples": self._samples,
            "samples_per_second": self._samples / train if train else None,
            "rounds": rounds,
            "metrics": {k: last.get(k) for k in self._names},
            "popularity": popular,
            "clients": dict(sorted(self._clients.items())),
            "bytes": {
                "sent_by_clients": self._sent if told else None,
                "received_by_clients": self._received if told else None,
            },
            "memory_mib": {f"{k}_max_rss": self._weight(k) for k in ("worker", "server", "coordinator")}
            | {"sum_pss": self._weight("pss")},
            "tables": self._summed_tables(),
            "audit": dict(sorted(self._audits.items())),
            "faults": {
                "rejected_messages": self._rejected,
                "late_pushes": self._late,
                "left_behind": sorted(self._left_behind),
                "retries": self._retries,
                "lost_workers": sorted(self._lost | self.failed.keys()),
                "restarts": self._restarts,
                "unsaved": self._missing,
            },
        }

    def _popularity(self) -> dict[str, float]:
        """Return what a ranking by popularity comes to over all clients, by metric; what was not measured is left out."""
        totals = Totals()
        for sums in self._popular.values():
            totals.add(sums)
        found = totals.figures(name for name in self._job.metrics if read_metric(name).k)
        return {name: value for name, value in found.items() if isinstance(value, float)}

    def _summed_tables(self) -> dict[TableName, dict[str, int]]:
        """Return what the servers said last of the rows of each table, added up."""
        names = sorted({name for tables in self._tables.values() for name in tables})
        parts = {name: [asdict(t[name]) for t in self._tables.values() if name in t] for name in names}
        return {name: {key: sum(part[key] for part in said) for key in said[0]} for name, said in parts.items()}

    def _take_worker(self, who: str, now: float, event: Event) -> None:
        match event:
            case events.Data(samples=samples, test_users=users, popularity=popular):
                self._client(who).update(samples=samples, test_users=users)
                self._popular[who] = popular
            case events.Progress(epoch=0, batch=batch, auc=auc):
                self._client(who)["first_epoch_auc"][str(batch)] = auc
            case events.FirstBatch():
                self._first_batch.setdefault(who, now)
            case events.Assigned():
                self._assign(who, event)
            case events.Simulated(round=round_, fate=fate) if fate:
                self._tally(round_).dropped.append(who)
                self._first -= {who} if round_ == 1 else set()
            case events.EpochBegin(epoch=epoch):
                self._begun[who], self._past[who] = now, epoch
                self._at_work.add(who)
            case events.EpochEnd():
                self._train(who, event, now)
            case events.EvaluateBegin():
                self._begun[who] = now
            case events.Evaluated(epoch=epoch):
                self._evaluate(who, event, now)
                self._past[who] = epoch
            case events.Done(bytes_sent=sent, bytes_received=received, retries=retries):
                self._sent, self._received = self._sent + sent, self._received + received
                self._retries += retries
                self._done.add(who)
                self._past[who] = math.inf
            case events.Failed(error=error):
                self.failed[who] = error
                self._past[who] = math.inf
            case events.Restarted():
                self._again.add(who)
                self.failed.pop(who, None)
                if who in self._at_work:
                    self._training.add(self._begun[who], now)
                self._begun[who] = now

    def _resume(self, now: float, resumed: events.Resumed) -> None:
        """Begin another part of a run: nobody has failed in it yet, or is done, and each client has its epochs behind it."""
        end = self._at(resumed.broken_off)
        for who in self._at_work:
            self._training.add(self._begun[who], end)
        self._earlier, self._began = end, now
        for noted in (self._at_work, self._done, self._silent, self._lost, self.failed, self._begun):
            noted.clear()
        self._not_finite = None
        self._again |= self._clients.keys()
        known = max((figures["round"] for figures in self.rounds), default=0)
        self._past = {who: float(last_told(resumed, who, known)) for who in resumed.epochs}
        self._complete = min([self._complete, *self._past.values()])

    def _at(self, time: float) -> float:
        """Return when that was, in seconds of the run: none pass between its parts, and none pass back."""
        return self._earlier + min(max(0.0, time - self._began), MOST_SECONDS)

    def _train(self, who: str, event: events.EpochEnd, now: float) -> None:
        begun = self._begun.get(who, now)
        self._training.add(begun, now)
        self._at_work.discard(who)
        if event.epoch < self._trained.get(who, 0):
            return  # its worker was started again, and has trained it again
        self._trained[who] = event.epoch + 1
        if not math.isfinite(event.loss):
            self._not_finite = f"client {who}: the loss of epoch {event.epoch + 1} is {event.loss}"
        self._late += event.late
        self._samples += event.samples
        self._tally(event.epoch + 1).train(who, event, begun, now)

    def _evaluate(self, who: str, event: events.Evaluated, now: float) -> None:
        begun = self._begun.get(who, now)
        self._evaluation.add(begun, now)
        if event.epoch > self._evaluated.get(who, 0):
            self._evaluated[who] = event.epoch
            self._tally(event.epoch).evaluate(event, begun, now)
            self._client(who)["metrics"] = self._alone(event)

    def _alone(self, event: events.Evaluated) -> dict[str, Any]:
        """Return what one client's held-out samples come to by themselves."""
        alone = Evaluations()
        alone.add(event.sums, event.histograms)
        return alone.figures(self._job.metrics)

    def _diverged(self, rounds: Sequence[Mapping[str, Any]]) -> str | None:
        """Say why what was trained is no model, or None."""
        loss = next((figures["loss"] for figures in reversed(rounds) if figures["loss"] is not None), 0.0)
        what = self._not_finite
        if what is None and loss > DIVERGED * UNTRAINED:
            what = f"the loss is {loss:.4g}, over {DIVERGED:,} times that of a model that has learned nothing"
        return what and f"the training has diverged: {what}; lower hyper_parameters.optimizer.learning_rate"

    def _told(self, round_: int) -> dict[str, Any]:
        """Return a round's figures as a coordinator merged them."""
        merged = facts(self._merged[round_])
        known = {key: merged.get(key) for key in ("round", *self._names)}
        nothing = dict.fromkeys(("seconds", "wait_seconds", "eval_seconds", "coordinator_seconds"))
        return {"selected": self._selected.get(round_, []), **nothing, **known}

    def _weight(self, kind: str) -> float | None:
        return round(self._memory[kind], 1) if kind in self._memory else None

    def _assign(self, who: str, assignment: events.Assigned) -> None:
        tally = self._tally(assignment.round)
        tally.wait = min(tally.wait, assignment.seconds)
        if assignment.round == 1 and assignment.state == "JOIN":
            self._first.add(who)
        takes_part = assignment.state == "JOIN" or (assignment.state == "WAIT" and assignment.evaluate)
        self._past[who] = assignment.round - 1 if takes_part else assignment.round

    def _client(self, who: str) -> dict[str, Any]:
        return self._clients.setdefault(who, {"samples": None, "test_users": None, "first_epoch_auc": {}})

    def _tally(self, round_: int) -> Tally:
        """Return a round's sums; of one that is complete, sums that nobody reads: its figures are final."""
        if round_ <= self._complete and round_ not in self._open:
            return Tally()
        return self._open.setdefault(round_, Tally())

    def _complete_rounds(self) -> None:
        """Close the rounds of which nothing more comes; those that nobody was evaluated for have no figures."""
        if len(self._past) >= (self._job.runner.worker_num or 1):
            awaited = [past for who, past in self._past.items() if who not in self._silent]
            self._complete = max(self._complete, min(awaited, default=0.0))
        rounds = sorted(self._open)
        if len(rounds) > MOST_OPEN:
            self._complete = max(self._complete, rounds[-MOST_OPEN - 1])
        for round_ in rounds:
            tally = self._open[round_]
            if round_ > self._complete or (self._job.traces and tally.evaluations and not tally.clock):
                break  # a round of simulated devices ends with their clock
            if tally.evaluations:
                self.rounds.append(self._figures(round_))
            del self._open[round_]

    def _figures(self, round_: int) -> dict[str, Any]:
        tally = self._open[round_]
        return tally.figures(round_, self._job.metrics) | (tally.simulated() if self._job.traces else {})


def last_told(resumed: events.Resumed, client: ClientId, complete: float) -> int:
    """Return the last round of which a client says nothing more; `complete`: the last whose figures are known.

    One that goes on from a round's end says once more what came of it.
    """
    epoch = resumed.epochs.get(client, 0)
    return epoch - (epoch > complete and not resumed.batches.get(client, 0))


def unsaved(event: events.Unsaved) -> str:
    """Say what is not saved, and why."""
    what, epoch = event.what, event.epoch
    lacking = f"epoch {epoch} is not saved" if what == "epoch" else f"a checkpoint of epoch {epoch} is missing"
    return f"{lacking}: {event.reason}"


def doubts(figures: Mapping[str, Any], job: Job) -> list[str]:
    """Say what in the last round's figures makes one doubt that the model has learned anything, a sentence each."""
    said, loss = [], figures.get("loss") if job.hyper_parameters.loss in ("bce", "bpr") else None
    if loss is not None and loss > BEYOND_REASON * UNTRAINED * len(job.tasks):
        said.append(
            f"loss {loss:.4g}: a model that has learned nothing has about {UNTRAINED:.2f};"
            " lower hyper_parameters.optimizer.learning_rate"
        )
    known = {m: chance for m in metrics_in(figures) if figures[m.name] is not None and (chance := _chance(m))}
    poor = [f"{m.title} {figures[m.name]:.4f} ({c:.4g})" for m, c in known.items() if figures[m.name] < c + SLACK]
    if poor:
        said.append(
            f"{', '.join(poor)}: no better than chance, which is in brackets; look at the labels, at what the network"
            " returns (logits), and at the learning rate"
        )
    return said


def beaten(figures: Mapping[str, Any], popular: Mapping[str, float]) -> list[str]:
    """Say where the last round's figures are no better than those of a ranking by popularity, in one sentence."""
    poor = [m for m in metrics_in(popular) if figures.get(m.name) is not None and figures[m.name] <= popular[m.name]]
    if not poor:
        return []
    said = ", ".join(f"{m.title} {figures[m.name]:.4f} ({popular[m.name]:.4f})" for m in poor)
    return [
        f"{said}: no better than to rank items by how often the client's own samples took them, which is in brackets;"
        " train for more epochs, or look at the learning rate"
    ]


def _chance(metric: Metric) -> float | None:
    """Return what a metric is of a model that ranks at random; None where that is not known."""
    if not metric.k or metric.full:
        return 0.5 if metric.kind in ("auc", "train_auc", "gauc") else None
    places = range(1, metric.k + 1)
    gains = {"ndcg": [1 / math.log2(place + 1) for place in places], "mrr": [1 / place for place in places]}
    return sum(gains.get(metric.kind, [1.0 for _ in places])) / CANDIDATES
