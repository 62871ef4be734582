"""What simulated devices are like: one trace a client, in a JSON file that this module reads, checks and writes.

    {"format": "fedps.traces/1",
     "clients": {"0": {"speed": 5200.0, "bandwidth": 640000.0, "dropout": 0.05,
                       "period": 86400.0, "online": [[0.0, 30000.0], [61000.0, 80000.0]]}}}

Further keys beside `clients` are free: a generator says there how it drew them.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedps.errors import JobError
from fedps.storage.whole import PUBLIC, write_whole
from fedps.types import ClientId

FORMAT = "fedps.traces/1"
FASTEST = {"speed": 1e9, "bandwidth": 1e15}  # no machine and no line comes near
LONGEST = 1e15  # seconds of a period
SHOWN = 10  # mistakes that are named; a wrong script makes the same one for every client


@dataclass(frozen=True)
class Trace:
    """One client's simulated device.

    Args:
        speed: samples it trains a second.
        bandwidth: bytes it sends or receives a second.
        dropout: probability that it drops out of a round, from 0 to 1, exclusive.
        period: seconds after which `online` begins anew.
        online: (from, to) seconds of the period in which it can be picked, in order, apart; empty: always.
    """

    speed: float
    bandwidth: float
    dropout: float = 0.0
    period: float = 0.0
    online: tuple[tuple[float, float], ...] = ()

    def comes_at(self, now: float) -> float:
        """Return when it can next be picked, seconds of the simulated clock: `now` itself if it can be now."""
        if not self.online:
            return now
        begun = math.floor(now / self.period) * self.period
        since = now - begun
        for begin, end in self.online:
            if since < end:
                return now if since >= begin else begun + begin
        return begun + self.period + self.online[0][0]


Traces = Mapping[ClientId, Trace]


class SimulatedClock:
    """Tells the simulated time of a run, and who is there at that time: a round takes as long as the slowest that it waits for.

    Args:
        traces: of clients; one without a trace is always there.

    Attributes:
        now: seconds since the first round began.
    """

    simulated = True

    def __init__(self, traces: Traces) -> None:
        self._traces, self.now = traces, 0.0

    def advance(self, seconds: Iterable[float]) -> float:
        """Let a round pass, and return how long it took.

        Args:
            seconds: of each client that it waited for, cut at the deadline.
        """
        took = max(seconds, default=0.0)
        self.now += took
        return took

    def present(self, clients: Iterable[ClientId]) -> list[ClientId]:
        """Return those of some clients that are online now; if none is, the clock goes on to when the first comes."""
        traces = {client: self._traces.get(client) for client in clients}
        comes = {client: trace.comes_at(self.now) if trace else self.now for client, trace in traces.items()}
        self.now = max(self.now, min(comes.values(), default=self.now))
        return [client for client, at in comes.items() if at <= self.now]


def read_traces(path: Path) -> dict[ClientId, Trace]:
    """Read a file of traces.

    Raises:
        JobError: the file cannot be read or is not of this form; names each client and field.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except OSError as error:
        raise JobError(f"{path}: cannot be read: {error.strerror or error}; `fedps data traces` makes one") from error
    except (ValueError, RecursionError) as error:
        raise JobError(f"{path}: is no JSON: {error}; `fedps data traces` makes such a file") from error
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise JobError(f'{path}: must begin {{"format": "{FORMAT}", "clients": {{…}}}}; `fedps data traces` makes one')
    clients = tree.get("clients")
    if not isinstance(clients, dict) or not clients:
        raise JobError(f"{path}: clients: must hold a trace for each client, {{name: {{speed: …, bandwidth: …}}}}")
    mistakes = [
        f"{path}: client {name!r}: {mistake}" for name, fields in clients.items() for mistake in _mistakes(fields)
    ]
    if mistakes:
        more = len(mistakes) - SHOWN
        raise JobError(mistakes[:SHOWN] + ([f"{path}: and {more} more mistakes"] if more > 0 else []))
    return {ClientId(name): _trace(fields) for name, fields in clients.items()}


def write_traces(path: Path, traces: Traces, about: Mapping[str, Any]) -> None:
    """Write a file that `read_traces` reads, a line a client.

    Args:
        path: where; a file that is there is replaced.
        traces: by client.
        about: how they were made, for people.

    Raises:
        JobError: the file cannot be written.
    """
    head = json.dumps({"format": FORMAT, "about": dict(about)})[:-1]
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(_fields(trace))}" for name, trace in traces.items())
    try:
        write_whole(path, f'{head}, "clients": {{\n{lines}\n}}}}\n'.encode(), PUBLIC)
    except OSError as error:
        raise JobError(f"{path}: cannot be written: {error.strerror or error}") from error


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs; JSON itself lets the last of two like keys win."""
    tree = dict(pairs)
    if len(tree) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} stands there twice")
    return tree


def _mistakes(fields: Any) -> Iterator[str]:
    if not isinstance(fields, dict):
        yield f"{fields!r}: must be {{speed: samples a second, bandwidth: bytes a second, …}}"
        return
    known = Trace.__dataclass_fields__
    for name in fields.keys() - known.keys():
        yield f"{name}: there is no such field; there are {', '.join(known)}"
    for name, limit in FASTEST.items():
        if name not in fields:
            yield f"{name}: is missing; add it, a number above 0"
        elif not _is_number(fields[name]) or not 0 < fields[name] <= limit:
            yield f"{name}: {fields[name]!r}: must be a number above 0 and at most {limit:g}"
    dropout = fields.get("dropout", 0.0)
    if not _is_number(dropout) or not 0 <= dropout < 1:
        yield f"dropout: {dropout!r}: must be a probability of at least 0, below 1"
    yield from _periods(fields.get("period", 0.0), fields.get("online", []))


def _periods(period: Any, online: Any) -> Iterator[str]:
    """Tell what is wrong with the times a client is online."""
    if not _is_number(period) or not 0 <= period <= LONGEST:
        yield f"period: {period!r}: must be a number of seconds from 0 to {LONGEST:g}"
        return
    if not isinstance(online, list) or not all(isinstance(p, list) and len(p) == 2 for p in online):
        yield f"online: {online!r}: must be a list of [from, to], seconds; leave it out for always"
        return
    if online and not period:
        yield "period: is missing; online needs it: the seconds after which it begins anew"
        return
    last = 0.0
    for begin, end in online:
        if not _is_number(begin) or not _is_number(end) or not last <= begin < end <= period:
            yield f"online: [{begin!r}, {end!r}]: must lie after what is before it and within [0, {period:g}], from below to"
            return
        last = end


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _trace(fields: Mapping[str, Any]) -> Trace:
    online = tuple((float(begin), float(end)) for begin, end in fields.get("online", []))
    numbers = {name: float(fields[name]) for name in ("speed", "bandwidth", "dropout", "period") if name in fields}
    return Trace(**numbers, online=online)


def _fields(trace: Trace) -> dict[str, Any]:
    fields: dict[str, Any] = {"speed": trace.speed, "bandwidth": trace.bandwidth, "dropout": trace.dropout}
    return fields | ({"period": trace.period, "online": trace.online} if trace.online else {})
