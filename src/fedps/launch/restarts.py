"""Which roles of a run are started again after they have died: a few times each, later each time, and never for a mistake.

A mistake is what the job or the data has wrong, and whatever code raises twice in a row with the same words: to start it a
third time would change nothing. Who is killed, from outside or for want of memory, may be started as often as the job says.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from fedps.config import Runner
from fedps.config.sections.vertical import Vertical
from fedps.events.events import Failed, Restarted
from fedps.launch.local.processes import UNKNOWN, Child, Who
from fedps.launch.local.role import NEWEST, RoleSpec

FIRST, LONGEST = 0.1, 5.0  # seconds until a role is started again: doubled each time, up to the longest


class Due(NamedTuple):
    """A role to start again now: the process that has failed, what the next one is to do, and what to tell of it."""

    role: Child
    spec: RoleSpec
    event: Restarted


class Restarts:
    """The restarts of one run.

    Args:
        limits: the job's section that says how often, and whether a server keeps what another could go on from.
    """

    def __init__(self, limits: Runner | Vertical) -> None:
        self._most = limits.restarts
        self._forgets = isinstance(limits, Runner) and limits.durability == "none"
        self._attempts = Counter[Who]()
        self._said: dict[Who, str] = {}  # of which error each failed last
        self._planned: dict[Who, tuple[float, Due]] = {}  # when, s, monotonic

    @property
    def waiting(self) -> bool:
        """Whether a role will be started again that is not yet."""
        return bool(self._planned)

    def plan(self, role: Child, failed: Failed, under_way: bool = True) -> bool:
        """Plan to start a role again that has failed; return whether it will be.

        Args:
            role: the process that has.
            failed: how.
            under_way: whether it had taken up what it was to go on from; else the next one does.
        """
        who, code = (role.kind, role.name), role.process.exitcode
        if who in self._planned:
            return True
        again = self._said.get(who) == failed.error and (code is None or 0 <= code != UNKNOWN)
        self._said[who] = failed.error
        attempt, spec = self._attempts[who] + 1, role.spec
        mistake = again or failed.in_job or failed.in_data
        if mistake or spec is None or attempt > self._most:
            return False
        if spec.role == "server" and self._forgets:  # another would know of nothing
            return False
        self._attempts[who] = attempt
        if under_way or not spec.resume:
            spec = replace(spec, resume=NEWEST if role.kind == "worker" else "")
        at = time.monotonic() + min(FIRST * 2 ** (attempt - 1), LONGEST)
        self._planned[who] = at, Due(role, spec, Restarted(failed.error, attempt))
        return True

    def due(self) -> Iterator[Due]:
        """Yield what is to be started now; it is planned no longer."""
        now = time.monotonic()
        for who in [who for who, (at, _) in self._planned.items() if at <= now]:
            yield self._planned.pop(who)[1]
