"""Made-up populations of clients, and what a selector picks of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedps.config import Job
from fedps.coordinator.selectors import ClientSelectorBase, Turn, Turns, choose
from fedps.types import ClientId, ClientInfo

MakeSelectorJob = Callable[..., Job]


def make_job(folder: Path, name: str = "all", per_round: int | None = None, seed: int = 0, **settings: Any) -> Job:
    """Return a job whose selector has these settings; clients and data are made up."""
    runner = {
        "train_data_dir": str(folder), "with_coordinator": True, "client_selector": name, "clients_per_round": per_round,
        "seed": seed, "epochs": 1000,
    }  # fmt: skip
    return Job.model_validate({"name": "job", "folder": str(folder), "runner": runner, "selector": settings})


def named(**clients: Any) -> dict[ClientId, Any]:
    return {ClientId(name): what for name, what in clients.items()}


def picks(
    selector: ClientSelectorBase,
    clients: Mapping[ClientId, ClientInfo],
    round_: int = 1,
    history: Mapping[ClientId, Turns] | None = None,
) -> list[str]:
    """Return who joins, in the order of names."""
    chosen = choose(selector, round_, clients, history=history)
    return [c for c, s in chosen.items() if s.next_state == "JOIN"]


def trained(round_: int, samples: int = 100, loss: float = 1.0, seconds: float = 1.0) -> Turns:
    """Return the history of a client that trained once."""
    return (Turn(round_, samples, seconds, loss),)
