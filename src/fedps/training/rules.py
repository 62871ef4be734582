"""Which rule moves which values, as the job has it: of single tables, of dense tensors, of what servers merge."""

from msgspec.structs import replace

from fedps.config import Job, ServerOptimizer, TableOptimizer
from fedps.training.rates import rate_of
from fedps.types import Rule, RuleName

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
    """Return the rule of shared tables that changes, not gradients, are pushed to (geo, round)."""
    if optimizer.name == "none":
        return Rule("add")
    name, rate, beta1 = SERVER_RULES[optimizer.name]
    beta1 = beta1 if optimizer.beta1 is None else optimizer.beta1
    return Rule(name, optimizer.learning_rate or rate, beta1, optimizer.beta2, optimizer.tau)
