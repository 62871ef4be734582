"""Who takes part in a round: the class to subclass, and the built-in choices by the job's word for them.

A selector is one object for the whole job, so it may remember what it likes. Before each round it is given the clients'
last reports, their history and the round's number; it answers with what each client shall do. Clients that it does not
name wait.
"""

import inspect
from collections.abc import Mapping

from fedps.config import Job
from fedps.config.classes import load_class
from fedps.coordinator.selectors.fedcs import FedCS
from fedps.coordinator.selectors.oort import Oort
from fedps.coordinator.selectors.plain import AllClients, BySamples, RandomClients, RoundRobin
from fedps.coordinator.selectors.power_of_choice import PowerOfChoice
from fedps.coordinator.selectors.selector import ClientSelectorBase, Turn, Turns, choose, state_of
from fedps.coordinator.selectors.strategy import STATES, FLStrategy, State
from fedps.errors import JobError

__all__ = [
    "BUILT_IN", "STATES", "AllClients", "BySamples", "ClientSelectorBase", "FLStrategy", "FedCS", "Oort", "PowerOfChoice",
    "RandomClients", "RoundRobin", "State", "Turn", "Turns", "choose", "make_selector", "state_of",
]  # fmt: skip

BUILT_IN: Mapping[str, type[ClientSelectorBase]] = {
    "all": AllClients,
    "random": RandomClients,
    "round_robin": RoundRobin,
    "by_samples": BySamples,
    "power_of_choice": PowerOfChoice,
    "oort": Oort,
    "fedcs": FedCS,
}


def make_selector(job: Job) -> ClientSelectorBase:
    """Return the job's selector; one of the user's own is looked up beside the job file.

    Raises:
        JobError: there is no such class, or it is no selector or cannot be made.
    """
    name = job.runner.client_selector
    key = f"runner.client_selector: {name!r}"
    if name in BUILT_IN:
        return BUILT_IN[name](job)
    if "." not in name:
        raise JobError(f"{key}: write {', '.join(BUILT_IN)}, or module.Class for a class of your own")
    found = load_class(name, job.folder, "runner.client_selector")
    if not (isinstance(found, type) and issubclass(found, ClientSelectorBase)):
        raise JobError(f"{key}: must be a subclass of fedps.ClientSelectorBase")
    if inspect.isabstract(found):
        raise JobError(f"{key}: has no method select")
    try:
        return found(job)
    except Exception as error:  # whatever the user's own code raises
        raise JobError(f"{key}: cannot be made: {type(error).__name__}: {error}") from error
