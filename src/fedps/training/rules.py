"""Which rule moves which values, how far one step moves them, and how that changes over a job.

Adam makes moves of about `lr`, however small a gradient is, so what a pass over the data comes to depends on how many
moves are made of it. One stream of all N clients' batches is the yardstick; side by side, both kinds make too few.

*Shared values*, where the changes or gradients of N clients are averaged: N batches make one move instead of N. The mean
has 1/√N of the noise, which allows moves √N as large (the square-root rule of large batches: Krizhevsky, arXiv:1404.5997,
section 5; for Adam: Malladi et al., NeurIPS 2022, definition 4). Not without end: of a hundred clients on ML-1M, moves √100
as large train worse than plain ones, √10 as large better. So `ENOUGH` clients count, and no more.

*Private values* get a gradient in N times the share of steps, and Adam moves a row by lr / √p for each, p being that
share: √N less for the same samples.

*Over a job* rates follow a schedule. Its time is the job's, not a client's: a client that sits a round out goes on at the
rate of the round it is back in.
"""

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from fedps.config import Job, Optimizer, ServerOptimizer, TableOptimizer
from fedps.config.sections.runner import AVERAGED
from fedps.config.sections.training import ADAMS
from fedps.types import Rule, RuleName

Rates = NDArray[np.float64]  # for each of some batches, the share of the rules' learning rates to take

ENOUGH = 10  # clients; what more of them average does not make moves larger
WHOLE_TENSOR: dict[RuleName, RuleName] = {"row_adagrad": "adagrad", "shared_adam": "lazy_adam"}
SERVER_RULES: dict[str, tuple[RuleName, float, float]] = {  # of tables; rate and β1 where the job names none
    "momentum": ("fed_momentum", 0.1, 0.9),
    "adagrad": ("fed_adagrad", 0.1, 0.0),
    "adam": ("fed_adam", 0.01, 0.9),
    "yogi": ("fed_yogi", 0.01, 0.9),
}


def job_rule(job: Job, private: bool) -> Rule:
    """Return the job's optimizer as the rule of private, or of shared, values."""
    o = job.hyper_parameters.optimizer
    rate = rate_of(job, o.name, private)
    return Rule(o.name, rate, o.beta1, o.beta2, o.epsilon, o.initial_g2, o.weight_decay)


def table_rule(job: Job, own: TableOptimizer, private: bool) -> Rule:
    """Return the rule of one table's rows: what it has of its own, the job's optimizer for the rest.

    Args:
        job: the job.
        own: what `table_parameters` says of the table.
        private: whether its rows never leave the client.
    """
    given = {k: v for k in type(own).model_fields if (v := getattr(own, k)) is not None}
    rate = rate_of(job, own.name or job.hyper_parameters.optimizer.name, private)
    return replace(job_rule(job, private), **({"learning_rate": rate} | given))


def dense_rule(rule: Rule) -> Rule:
    """Return the rule for dense tensors: rules with one scalar a row fall back on their per-component kin."""
    return replace(rule, name=WHOLE_TENSOR.get(rule.name, rule.name))


def server_rule(optimizer: ServerOptimizer) -> Rule:
    """Return the rule of shared tables that changes, not gradients, are pushed to (geo, round).

    All but `none`, which adds the mean change, take that change for a gradient with its sign turned (FedOpt: Reddi et
    al., ICLR 2021, algorithm 2; momentum: Hsu et al., arXiv:1909.06335).
    """
    if optimizer.name == "none":
        return Rule("add")
    name, rate, beta1 = SERVER_RULES[optimizer.name]
    beta1 = beta1 if optimizer.beta1 is None else optimizer.beta1
    return Rule(name, optimizer.learning_rate or rate, beta1, optimizer.beta2, optimizer.tau)


def rate_of(job: Job, name: str, private: bool) -> float:
    """Return the learning rate of values that have no other of their own.

    Args:
        job: the job.
        name: of the rule that moves them.
        private: whether they never leave the client.
    """
    optimizer = job.hyper_parameters.optimizer
    given = optimizer.private_learning_rate if private else optimizer.shared_learning_rate
    if given is not None:
        return given
    return optimizer.learning_rate * (_private_factor(job, name) if private else _shared_factor(job, name))


def _private_factor(job: Job, name: str) -> float:
    return (job.runner.worker_num or 1) ** 0.5 if name == "adam" else 1.0


def _shared_factor(job: Job, name: str) -> float:
    mode = job.runner.sync_mode
    averaged = job.runner.geo_merge in AVERAGED if mode == "geo" else mode in ("sync", "round")
    return min(clients_at_once(job), ENOUGH) ** 0.5 if name in ADAMS and averaged else 1.0


def clients_at_once(job: Job) -> int:
    """Return how many clients' changes are merged at a time.

    `buffered` counts as all of them: it averages K, and weakens each by its staleness, of about N/K versions. On ML-1M
    with K = 5 the factor √10 is worth 0.496 in HR@10 after 2 passes, √5 0.470.
    """
    runner = job.runner
    workers = runner.worker_num or 1
    if not runner.with_coordinator or runner.client_selector == "all":
        return workers
    return runner.picked(workers)


def rates_at(optimizer: Optimizer, epochs: int, at: Rates, given: float | None = None) -> Rates:
    """Return the share of the learning rates to take at each moment, float64[K].

    Warm-up multiplies what the schedule says: it rises from 0 to 1 over the first `warmup` of the job. A batch takes the
    rate of its middle, so that the first is not lost.

    Args:
        optimizer: its `schedule`, `warmup`, `final`, `step_epochs` and `step_factor` count.
        epochs: of the job.
        at: float64[K], epochs since the job began.
        given: the learning rate of a round, in place of the job's with its schedule.
    """
    if given is not None:
        return np.full(len(at), given / optimizer.learning_rate)
    done = np.clip(at / epochs, 0, 1)
    match optimizer.schedule:
        case "linear":
            share = 1 - (1 - optimizer.final) * done
        case "cosine":
            share = optimizer.final + (1 - optimizer.final) * (1 + np.cos(np.pi * done)) / 2
        case "step":
            share = optimizer.step_factor ** np.floor(at / optimizer.step_epochs)
        case _:
            share = np.ones(len(at))
    return share * np.minimum(1, done / optimizer.warmup) if optimizer.warmup else share
