"""A worker: the process, or thread, in which one client lives."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from fedps.client.life import Connect, FLClient, Handler, Key, network
from fedps.config import Allow, Job
from fedps.data.read.client import read_client
from fedps.events.journal import Report
from fedps.training.parameters import read_parameters
from fedps.training.plan import Plan, make_plan
from fedps.types import ClientId

__all__ = ["Connect", "check", "network", "read_client", "run_worker"]


def run_worker(
    job: Job, client: ClientId, servers: Sequence[str], run_dir: Path, report: Report, *,
    coordinator: str | None = None, connect: Connect | None = None, log: TextIO | None = None,
    allow: Allow = Allow(), handlers: Mapping[Key, Handler] | None = None, number: int = 0,  # noqa: B008
    plan: Plan | None = None,
) -> None:  # fmt: skip
    """Train one client from start to end.

    Args:
        job: the resolved job.
        client: whose data to train on.
        servers: `host:port` of every server, in the order of their numbers.
        run_dir: the run's folder.
        report: where events go.
        coordinator: its `host:port`, None without one.
        connect: how to reach them; by default over the network.
        log: where lines for people go; by default standard output.
        allow: what the person who started this allows.
        number: of the worker; dumps carry it.
        handlers: steps of the client's life to replace.
        plan: the job's network, made ready; by default it is looked up, or made.

    Raises:
        FedpsError: bad data, a wrong name in the job, a server or coordinator that is gone or refuses.
    """
    life = FLClient(
        job, client, servers, run_dir, report, coordinator=coordinator, connect=connect, log=log, allow=allow,
        number=number, plan=plan,
    )  # fmt: skip
    for key, handler in (handlers or {}).items():
        life.register_handlers(key, handler)
    life.run()


def check(job: Job) -> tuple[Plan, dict[str, object]]:
    """Make the job's plan and sort its network's parameters, as every worker will.

    Returns:
        The plan, and what is told of it: names by where they live, and by what steps are taken.

    Raises:
        JobError: the network cannot be made, a table's name matches nothing, or `use_gpu` finds no CUDA device.
    """
    plan = make_plan(job)
    return plan, described(plan, job)


def described(plan: Plan, job: Job) -> dict[str, object]:
    """Say where a plan's parameters live, and by what steps are taken.

    Raises:
        JobError: a table's name matches nothing.
    """
    found = read_parameters(plan.network, job)
    tables = {private: [e.spec.name for e in found.embeddings if e.private is private] for private in (True, False)}
    return {
        "private": [*tables[True], *found.private_dense],
        "shared": [*tables[False], *found.dense],
        "engine": "compiled" if plan.library else "torch",
        "reason": plan.reason,
    }
