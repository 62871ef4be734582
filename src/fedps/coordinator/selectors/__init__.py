"""Who takes part in a round: the class to subclass, the built-in choices, and the check of what a choice says.

A selector is one object for the whole job, so it may remember what it likes. Before each round it is given the clients'
last reports, their history and the round's number; it answers with what each client shall do. Clients that it does not
name wait.
"""

from fedps.coordinator.choosing import choose
from fedps.coordinator.selectors.base import ClientSelectorBase
from fedps.coordinator.selectors.fedcs import FedCS
from fedps.coordinator.selectors.making import BUILT_IN, make_selector
from fedps.coordinator.selectors.oort import Oort
from fedps.coordinator.selectors.plain import AllClients, BySamples, RandomClients, RoundRobin
from fedps.coordinator.selectors.power_of_choice import PowerOfChoice
from fedps.coordinator.strategy import FLStrategy, State

__all__ = [
    "BUILT_IN", "AllClients", "BySamples", "ClientSelectorBase", "FLStrategy", "FedCS", "Oort", "PowerOfChoice",
    "RandomClients", "RoundRobin", "State", "choose", "make_selector",
]  # fmt: skip
