"""How a client's passes over its data are cut into windows: what is trained between two exchanges with the servers.

The data runs on from round to round, pass after pass; a window may hold the end of one pass and the start of the next.
A client goes through it at one of two paces (`runner.pace`):

*own*: a window is a fixed number of batches, whatever the client has. Who has little is done long before who has much.
*together*: cut each client's epoch into the same number of steps, so that all finish together. Otherwise shared values
are averaged over many clients at first and over one or two at the end, at rates made for many, while the private rows
of those that are done stand still: on ML-1M in ten about equal parts, the last tenth of such a pass takes sync from
0.559 to 0.533 in HR@10. In sync, a step is then the gradient of one batch drawn from all data, each client's part in
proportion to what it has (FedSGD: McMahan et al., AISTATS 2017, section 2).
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fedps.config import Job
from fedps.data.samples import ClientData, Order
from fedps.types import CLAIM_LIMIT, State


class Window(NamedTuple):
    """Samples to train between two exchanges, as pieces: int32[n] positions each, trained in batches of their own.

    Attributes:
        lead: is trained while the last window is merged; empty where no merge is under way.
        rest: is trained once the merged values are here.
        size: samples of a batch; the last one of a piece may be shorter.
    """

    lead: list[Order]
    rest: list[Order]
    size: int

    @property
    def pieces(self) -> list[Order]:
        """All of it, in order."""
        return [*self.lead, *self.rest]

    @property
    def without_lead(self) -> "Window":
        """The same, to be trained once its values are here."""
        return Window([], self.pieces, self.size)

    @property
    def samples(self) -> int:
        """How many samples it has."""
        return sum(map(len, self.pieces))

    @property
    def batches(self) -> int:
        """How many batches it has."""
        return sum(batches_of(len(piece), self.size) for piece in self.pieces)


class Cut(NamedTuple):
    """A round, cut: how many batches and windows it has, and those still to be trained, each made when its turn comes."""

    batches: int
    total: int
    windows: Iterator[Window]


class Part(NamedTuple):
    """One of the equally many parts that each client's pass has: its samples, and how many of them make a batch."""

    samples: int
    batch: int


class Passes:
    """A client's passes over its data.

    Args:
        job: its loss, batch size and mode count.
        data: is held for as many passes as one window can lie in.
        window: batches of a window; None: all that a round has.
        lead: batches of a window that may be trained ahead of the merge.
        mean: returns how many samples the clients have on average, 0 if that is not known; None: each client goes
            at its own pace.
    """

    def __init__(
        self, job: Job, data: ClientData, window: int | None, lead: int, mean: Callable[[], float] | None = None
    ) -> None:
        self._data, self._window, self._lead, self._mean = data, window, lead, mean
        self._size, self._single = job.runner.train_batch_size, job.runner.sync_mode == "sync"
        self._unit = job.group
        self._drawn = 0
        self._left: Order = np.empty(0, np.int32)  # of the pass that was drawn last

    def state(self) -> State:
        """Return where in which pass the client is: the order follows from its number."""
        return {"drawn": self._drawn, "left": len(self._left)}

    def restore(self, state: State) -> None:
        """Go on from what `state` returned, of the same data."""
        self._drawn, left = state["drawn"], state["left"]
        if left:
            order = self._data.order(self._drawn - 1)
            self._left = order[len(order) - left :]

    def cut(self, batches: int = 0, size: int | None = None, window: int | None = None, done: int = 0) -> Cut:
        """Cut the next round.

        Args:
            batches: it is to have; 0: as many as one pass.
            size: samples of a batch, in place of the job's.
            window: batches of a window, in place of the mode's. With any of the three, the client goes at its own pace.
            done: windows of it that are trained already; the others follow.
        """
        parts = [] if batches or size or window else self._parts()
        size, window = size or self._size, window or self._window
        in_pass = batches_of(len(self._data), size)
        due = sum(batches_of(*part) for part in parts) or batches or in_pass
        self._data.hold(1 + math.ceil(min(window or due, due) / in_pass))
        if parts:
            return Cut(due, len(parts), self._windows_of(parts[done:]))
        return Cut(due, math.ceil(due / (window or due)), self._windows(due, size, window or due, done))

    def _windows(self, due: int, size: int, window: int, done: int) -> Iterator[Window]:
        """Cut so many batches into windows of a fixed number, and leave out the first; no batch has samples of two passes."""
        due -= done * window
        while due > 0:
            batches = min(due, window)
            lead = min(batches, self._lead)
            yield Window(self._batches(lead, size), self._batches(batches - lead, size), size)
            due -= batches

    def _windows_of(self, parts: list[Part]) -> Iterator[Window]:
        """Make each part a window; a batch may have samples of two passes."""
        for samples, batch in parts:
            part, lead = self._next(samples), min(samples, self._lead * batch)
            yield Window([part[:lead]] if lead else [], [part[lead:]] if lead < samples else [], batch)

    def _parts(self) -> list[Part]:
        """Return the parts of a pass that is trained together with the other clients; none at one's own pace."""
        mean = self._mean() if self._mean else 0.0
        if not mean:
            return []
        unit = self._unit
        samples, batch = len(self._data) // unit, self._size // unit
        parts = parts_of(samples, mean / unit, batch, self._window or 1, single=self._single)
        return [Part(part.samples * unit, part.batch * unit) for part in parts]

    def _next(self, samples: int) -> Order:
        """Return the next samples, of two passes if one ends among them."""
        pieces = []
        while samples:
            pieces.append(self._piece(samples))
            samples -= len(pieces[-1])
        return np.concatenate(pieces)

    def _batches(self, due: int, size: int) -> list[Order]:
        """Return the next batches, in pieces that do not cross the end of a pass."""
        pieces = []
        while due:
            pieces.append(self._piece(due * size))
            due -= batches_of(len(pieces[-1]), size)
        return pieces

    def _piece(self, most: int) -> Order:
        """Return the next samples of the pass, so many at most; of the next pass if it is at its end."""
        if not len(self._left):
            self._left = self._data.order(self._drawn)
            self._drawn += 1
        piece, self._left = self._left[:most], self._left[most:]
        return piece


def batches_of(samples: int, size: int) -> int:
    """Return how many batches of `size` samples there are, the last of which may be shorter."""
    return -(-samples // size)


def parts_of(samples: int, mean: float, batch: int, window: int, single: bool) -> list[Part]:
    """Cut a client's pass into as many parts as a client of mean size has.

    Args:
        samples: of this client's pass.
        mean: of a pass, over all clients.
        batch: samples of a batch of a client of mean size.
        window: batches of its windows.
        single: each part is one batch, however many samples it has (sync); otherwise batches keep about their size.

    Returns:
        The parts in order, of the same size but for a sample: no sliver is left for a last step, which would move values
        as far as any other. They are `CLAIM_LIMIT` times larger or smaller than a mean client's at most.
    """
    mean = min(max(mean, samples / CLAIM_LIMIT), samples * CLAIM_LIMIT)
    count = min(math.ceil(mean / (batch * window)), samples)
    edges = [samples * k // count for k in range(count + 1)]
    sizes = [b - a for a, b in pairwise(edges)]
    return [Part(n, n if single else math.ceil(n / max(1, round(n / batch)))) for n in sizes]
