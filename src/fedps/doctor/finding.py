"""A finding: what was looked at, how it is, and what to do about it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

State = Literal["ok", "warning", "fault"]


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        what: its name, a word or two.
        state: `ok`; `warning`, where something goes, but not as well as it could; `fault`, where something does not go.
        said: how it is.
        remedy: what to do; empty where nothing is to be done.
    """

    what: str
    state: State
    said: str
    remedy: str = ""


Look = Callable[[], Iterable[Finding]]


def look(looks: Iterable[tuple[str, Look]]) -> Iterator[Finding]:
    """Yield what each look finds; one that fails is a fault of its own, and keeps no other from being taken."""
    for what, each in looks:
        try:
            yield from each()
        except Exception as error:  # whatever a broken machine raises
            yield Finding(what, "fault", f"cannot be looked at: {type(error).__name__}: {error}")
