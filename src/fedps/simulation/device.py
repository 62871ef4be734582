"""One client's simulated device: how long its real training would have taken there, and whether it stayed to its end."""

import math
from typing import Literal

import msgspec
import numpy as np

from fedps.simulation.traces import Trace
from fedps.types import ClientId, ClientInfo

Fate = Literal["", "dropped out", "too late"]  # "": it trains to its end


class Device:
    """Applies a trace to one client, round by round.

    Args:
        trace: the client's.
        client: its name.
        seed: the job's; with client and round it draws who drops out.

    Attributes:
        seconds: of the simulated clock that the last round took this client; 0 if it sat out.
        fate: what became of it in that round.
    """

    def __init__(self, trace: Trace, client: ClientId, seed: int) -> None:
        self._trace, self._client, self._seed = trace, client, seed
        self.seconds = 0.0
        self.fate: Fate = ""

    def begin(self, round_: int, samples: int, moved: int, deadline: float) -> Fate:
        """Say whether this client gets to the end of a round, before it trains.

        One that does not trains nothing: what it did would be lost. Its seconds count up to the deadline, or, where
        there is none, up to when it would have been done: only then is it missed.

        Args:
            round_: counted from 1.
            samples: it is to train.
            moved: bytes it is to send and receive, a forecast.
            deadline: seconds after which the round goes on without it; infinite if it does not.
        """
        due = self._takes(samples, moved)
        self.fate = "dropped out" if self._drops(round_) else "too late" if due > deadline else ""
        if self.fate:
            self.seconds = due if math.isinf(deadline) else deadline
        return self.fate

    def done(self, samples: int, moved: int, deadline: float) -> None:
        """Note what a round came to, by what was really trained, sent and received."""
        self.seconds = min(self._takes(samples, moved), deadline)

    def rest(self) -> None:
        """Note that this client sits a round out."""
        self.seconds, self.fate = 0.0, ""

    def disguise(self, info: ClientInfo) -> ClientInfo:
        """Return a report as it would come from this device: its speed, its bandwidth, its seconds, whether it dropped."""
        trace = self._trace
        return msgspec.structs.replace(
            info, compute_capacity=trace.speed, bandwidth=trace.bandwidth, seconds=self.seconds, dropped=bool(self.fate)
        )

    def _takes(self, samples: int, moved: int) -> float:
        return samples / self._trace.speed + moved / self._trace.bandwidth

    def _drops(self, round_: int) -> bool:
        stream = np.random.default_rng((self._seed, round_, *self._client.encode()))
        return bool(stream.random() < self._trace.dropout)
