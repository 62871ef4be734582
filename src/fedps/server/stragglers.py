"""Whom a round does not wait for: those that still train past its deadline, or when enough others are done."""

from fedps.config import Job
from fedps.server.members import Members
from fedps.types import ClientId


def stragglers(job: Job, members: Members, since: float, now: float) -> list[ClientId]:
    """Return who is to be left behind.

    Where clients wait for each other at every step or window (sync, geo with `heat` or `adaptive`), all are as slow as the
    slowest one, and only `step_timeout` tells who that is. Simulated devices have a clock of their own.

    Args:
        job: the job; `selector.deadline` and `over_selection`.
        members: who takes part.
        since: when the round began, seconds like `now`.
        now: the time.
    """
    runner, settings = job.runner, job.selector
    free = runner.with_coordinator and not runner.lockstep and job.traces is None
    training = members.training
    if not free or not training or not members.standing:
        return []
    picked = runner.clients_per_round or 0
    spare = settings.picks(picked) - picked
    late = settings.deadline is not None and now - since > settings.deadline
    return training if late or len(training) <= spare else []
