"""What befalls a run: kills, freezes and cuts, each at a moment that one seed draws.

A moment is so many bytes that passed between clients and servers, so a storm falls on the same part of a run however fast
the machine is. Whoever is killed may be killed again while it starts, and some are once all workers have left.
"""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil

from tests.chaos.wires import Wire

LOOK = 0.005  # seconds between two looks at what has passed
AT_END = 1.0
KINDS, WEIGHTS = ("kill", "freeze", "cut", "cut off"), (6, 2, 2, 1)


class Fault(msgspec.Struct, frozen=True):
    """One blow.

    Attributes:
        at: share of a calm run's bytes after which it falls; `AT_END`: when all workers have left.
        kind: of `KINDS`.
        role, number: whom it hits; of cuts, to whom the connection leads.
        seconds: how long a freeze or an outage lasts, or until a kill at the end.
        again: seconds after which who was killed and has been started again is killed again; None: it is not.
        which: of the connections.
    """

    at: float
    kind: str
    role: str
    number: int
    seconds: float = 0.0
    again: float | None = None
    which: int = 0


def draw(seed: int, faults: int, workers: int, servers: int, coordinator: bool, longest: float = 3.0) -> list[Fault]:
    """Draw the schedule of a seed, in the order of its moments.

    Args:
        seed: its number.
        faults: how many blows; those that fall again on who starts come on top.
        workers, servers, coordinator: who is there.
        longest: seconds of a freeze or an outage.
    """
    draws, drawn = random.Random(f"storm {seed}"), list[Fault]()
    numbers = {"worker": workers, "server": servers, "coordinator": int(coordinator)}
    for _ in range(faults):
        (kind,) = draws.choices(KINDS, WEIGHTS)
        roles = [r for r in numbers if numbers[r] and (r != "worker" or not kind.startswith("cut"))]
        (role,) = draws.choices(roles, [{"worker": 3, "server": 2, "coordinator": 1}[r] for r in roles])
        at, seconds = draws.uniform(0, 0.95), draws.uniform(0.05, longest)
        again = draws.uniform(0, 2.5) if kind == "kill" and draws.random() < 0.25 else None
        drawn.append(
            Fault(
                at,
                kind,
                role,
                draws.randrange(numbers[role]),
                seconds * (kind in KINDS[1::2]),
                again,
                draws.randrange(99),
            )
        )
    if draws.random() < 0.5:
        role = draws.choice([r for r in ("server", "coordinator") if numbers[r]])
        drawn.append(Fault(AT_END, "kill", role, 0, draws.uniform(0, 0.3)))
    return sorted(drawn, key=lambda fault: fault.at)


class Storm:
    """Hits a run, from a thread beside the launcher.

    Args:
        faults: in order.
        total: bytes of a calm run.
        told: file to which each blow is written as it falls.
    """

    def __init__(self, faults: Sequence[Fault], total: int, told: Path) -> None:
        self._faults, self._total, self._told = faults, total, told
        self._over, self._left = threading.Event(), threading.Event()
        self._frozen: set[int] = set()
        self._thread: threading.Thread | None = None
        self._others: list[threading.Thread] = []
        self.wires: dict[tuple[str, int], Wire] = {}

    def begin(
        self, roles: Mapping[tuple[str, str], Any], names: Mapping[int, str], wires: Mapping[tuple[str, int], Wire]
    ) -> None:
        """Let it begin: `roles` are the processes there are at any time, `names` those of the workers by number."""
        self._roles, self._names, self.wires = roles, names, dict(wires)
        self._thread = threading.Thread(target=self._blow, name="storm")
        self._thread.start()

    def workers_have_left(self) -> None:
        """Let what is due at the end fall."""
        self._left.set()

    def end(self) -> None:
        """End it: nobody stays frozen."""
        self._over.set()
        for thread in [t for t in (self._thread, *self._others) if t]:
            thread.join()
        for wire in self.wires.values():
            wire.close()

    @property
    def carried(self) -> int:
        """Bytes that have passed."""
        return sum(wire.bytes for wire in self.wires.values())

    def _blow(self) -> None:
        for fault in self._faults:
            while not self._due(fault):
                if self._over.wait(LOOK):
                    return
            if fault.at == AT_END:
                self._over.wait(fault.seconds)
            self._strike(fault)

    def _due(self, fault: Fault) -> bool:
        return self._left.is_set() if fault.at == AT_END else self.carried >= fault.at * self._total

    def _strike(self, fault: Fault) -> None:
        match fault.kind:
            case "kill":
                pid = self._kill(fault)
                if pid and fault.again is not None:
                    self._beside(self._kill_again, fault, pid)
            case "freeze":
                pid = self._pid(fault)
                if pid and self._signal(pid, signal.SIGSTOP):
                    self._frozen.add(pid)
                    self._tell(fault, pid)
                    self._beside(self._thaw, pid, fault.seconds)
            case _:
                wire = self.wires[fault.role, fault.number]
                self._tell(fault, wire.cut(fault.which, fault.seconds))

    def _kill(self, fault: Fault) -> int | None:
        """Kill a role once it is there; return its number, None if the run has ended."""
        while (pid := self._pid(fault)) is None:
            if self._over.wait(LOOK) or self._left.is_set():
                return None
        if not self._signal(pid, signal.SIGKILL):
            return None
        self._tell(fault, pid)
        return pid

    def _kill_again(self, fault: Fault, before: int) -> None:
        while self._pid(fault) in (None, before):
            if self._over.wait(LOOK):
                return
        if not self._over.wait(fault.again):
            self._kill(fault)

    def _thaw(self, pid: int, seconds: float) -> None:
        self._over.wait(seconds)
        self._signal(pid, signal.SIGCONT)

    def _pid(self, fault: Fault) -> int | None:
        name = self._names[fault.number] if fault.role == "worker" else str(fault.number)
        child = self._roles.get((fault.role, name)) or self._roles.get((fault.role, str(fault.number)))
        # Not by its `exitcode`: that is the launcher's to ask for, from its own thread.
        return None if child is None or not _lives(child.process.pid) else int(child.process.pid)

    def _signal(self, pid: int, number: int) -> bool:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            return True
        return False

    def _beside(self, what: Any, *args: Any) -> None:
        thread = threading.Thread(target=what, args=args)
        thread.start()
        self._others.append(thread)

    def _tell(self, fault: Fault, hit: int) -> None:
        facts = {**msgspec.to_builtins(fault), "hit": hit, "time": time.time(), "carried": self.carried}
        with self._told.open("a") as file:
            file.write(json.dumps(facts) + "\n")


def _lives(pid: int | None) -> bool:
    try:
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
