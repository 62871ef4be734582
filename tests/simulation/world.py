"""Virtual time: what happens when, in one thread, and the one stream of chance that a history is drawn from."""

import heapq
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

Act = Callable[[], None]
LONGEST = 3000.0  # seconds within which every history ends


class World:
    """Lets things happen in the order of their times; of two at one time, in the order in which they were told.

    Args:
        seed: of all chance.
        trace: takes a line for each thing that happens; None: nobody reads it.

    Attributes:
        now: seconds.
        steps: how many things have happened.
        chance: where everything that is left to chance is drawn.
        outages: seconds that all outages so far take, added up: so much more patience has who finds nobody there.
    """

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.now, self.steps, self.chance = 0.0, 0, Random(seed)
        self._trace, self.outages = trace, 0.0
        self._next = 0
        self._coming: list[tuple[float, int, Act, Process | None]] = []

    def at(self, time: float, act: Act, process: "Process | None" = None) -> None:
        """Let something happen at a time, or let a process do it then: once it goes on, if it is frozen."""
        self._next += 1
        heapq.heappush(self._coming, (time if time > self.now else self.now, self._next, act, process))

    def after(self, seconds: float, act: Act, process: "Process | None" = None) -> None:
        """Let something happen so many seconds from now."""
        self.at(self.now + seconds, act, process)

    def run(self, over: Callable[[], bool], longest: float = LONGEST) -> bool:
        """Let things happen until it is over; return False if it is not by that time, or nothing happens any more."""
        coming, pop = self._coming, heapq.heappop
        while not over():
            if not coming or coming[0][0] > longest:
                return False
            self.now, _, act, process = pop(coming)
            self.steps += 1
            if process is None:
                act()
            else:
                process.act(act)
        return True

    def happens(self, share: float) -> bool:
        """Draw whether something happens that does in this share of all cases."""
        return self.chance.random() < share

    def say(self, line: str) -> None:
        """Note what happens."""
        if self._trace is not None:
            self._trace(f"{self.now:9.3f} {self.steps:5d} {line}")


class Process:
    """What can be frozen: what reaches it meanwhile waits, in its order.

    Args:
        world: where it is.
        name: its name, for the trace.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self._frozen_until = 0.0
        self._waiting: list[Act] = []

    def freeze(self, seconds: float) -> None:
        """Let the process do nothing for a while."""
        self.world.say(f"{self.name} freezes for {seconds:.1f} s")
        self.world.outages += seconds
        self._frozen_until = max(self._frozen_until, self.world.now + seconds)
        self.world.at(self._frozen_until, self._thaw)

    def thaw(self) -> None:
        """End the freeze, with the process or without: what waits reaches whoever is there."""
        self._frozen_until = self.world.now
        self._thaw()

    def act(self, act: Callable[..., None], *arguments: Any) -> None:
        """Do something at once, or once the process goes on if it is frozen."""
        if self._frozen_until > self.world.now:
            self._waiting.append(partial(act, *arguments))
        else:
            act(*arguments)

    def _thaw(self) -> None:
        while self._waiting and self._frozen_until <= self.world.now:
            self._waiting.pop(0)()
