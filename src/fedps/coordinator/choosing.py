"""One question to a selector, and its answer: within its time, on copies of the reports, and checked."""

import threading
from collections.abc import Collection, Mapping
from typing import Any

from fedps.coordinator.history import Turns
from fedps.coordinator.selectors.base import ClientSelectorBase
from fedps.coordinator.strategy import FLStrategy, read_strategy
from fedps.errors import FedpsError
from fedps.types import ClientId, ClientInfo


def choose(
    selector: ClientSelectorBase,
    round_: int,
    clients: Mapping[ClientId, ClientInfo],
    known: Collection[ClientId] = (),
    history: Mapping[ClientId, Turns] | None = None,
) -> dict[ClientId, FLStrategy]:
    """Ask a selector, and return what every client shall do.

    Args:
        selector: whom to ask; what it does to its copy of the reports stays with it.
        round_: the round, counted from 1.
        clients: the reports of all. Those that are not available, or that the job's tags keep out, are not offered to
            the selector and wait; if all that the tags let in are away, all wait.
        known: those that took part before; one of them that is named although it is away is passed over.
        history: what became of each client's turns.

    Raises:
        FedpsError: the answer does not come in time or cannot be followed; says why. What the selector itself raises is
            passed on.
    """
    let_in = [c for c in clients if _may_join(selector, c)]
    offered = {c: clients[c] for c in let_in if clients[c].available}
    if let_in and not offered:
        return dict.fromkeys(clients, FLStrategy("WAIT"))
    if not let_in:
        settings = selector.job.selector
        raise FedpsError(
            f"selector.only {list(settings.only)}, selector.never {list(settings.never)}: no client that is here may"
            f" train in round {round_}; there are {', '.join(map(repr, clients))}"
        )
    selector.clients_info, selector.history, selector.round = dict(offered), dict(history or {}), round_
    told: Any = _within(selector.job.selector.timeout, selector)
    name = type(selector).__name__
    if not isinstance(told, Mapping):
        raise FedpsError(f"{name}.select() returned {type(told).__name__} in round {round_}; return client: state")
    unknown = [client for client in told if client not in clients and client not in known]
    if unknown:
        raise FedpsError(
            f"{name}.select() named client {unknown[0]!r} in round {round_}; there are {', '.join(map(repr, clients))}"
        )
    said = {client: told.get(client, "WAIT") if client in offered else "WAIT" for client in clients}
    chosen = {client: read_strategy(what, _who(name, client), selector.job) for client, what in said.items()}
    states = {c.next_state for c in chosen.values()}
    if "WAIT" in states and "JOIN" not in states:
        raise FedpsError(
            f"{name}.select() selected nobody in round {round_}: let one client JOIN at least, or all FINISH to end the job"
        )
    return chosen


def _who(name: str, client: ClientId) -> str:
    return f"{name}.select() for client {client!r}"


def _may_join(selector: ClientSelectorBase, client: ClientId) -> bool:
    """Whether the job's tags let a client train."""
    settings = selector.job.selector
    carried = {tag for tag, clients in settings.tags.items() if client in clients}
    return (not settings.only or bool(carried & set(settings.only))) and not carried & set(settings.never)


def _within(limit: float, selector: ClientSelectorBase) -> Any:
    """Return what the selector answers within `limit` seconds; 0 waits for ever, in this very thread."""
    if not limit:
        return selector.select()
    answers: list[Any] = []
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            answers.append(selector.select())
        except BaseException as error:  # to be raised where it was asked
            failures.append(error)

    thread = threading.Thread(target=ask, name="fedps selector", daemon=True)  # one that hangs cannot be stopped
    thread.start()
    thread.join(limit)
    name = type(selector).__name__
    if failures:
        if isinstance(failures[0], Exception):
            raise failures[0]
        raise FedpsError(f"{name}.select() raised {failures[0]!r} in round {selector.round}") from failures[0]
    if not answers:
        raise FedpsError(
            f"{name}.select() has not answered within {limit:g} s in round {selector.round}: make it faster, or raise"
            " selector.timeout (0: no limit)"
        )
    return answers[0]
