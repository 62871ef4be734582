"""Events kept in a list, as the lines of a journal hold them."""

from collections.abc import Callable
from typing import Any

from fedps.events.events import Entry, Event
from fedps.events.forms import facts


def into(kept: list[dict[str, Any]]) -> Callable[[Event | Entry], None]:
    """Return what appends each event that it is given to a list."""

    def take(told: Event | Entry) -> None:
        if isinstance(told, Entry):
            kept.append({"time": told.time, "role": told.role, "id": told.id, **facts(told.event)})
        else:
            kept.append(facts(told))

    return take
