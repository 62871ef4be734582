"""The simulated clock: a round takes as long as the slowest of those that it waits for."""

from collections.abc import Iterable

from fedps.simulation.traces import Traces
from fedps.types import ClientId


class SimulatedClock:
    """Tells the simulated time of a run, and who is there at that time.

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
