"""What became of each client's turns: the rounds it was picked for, and what it reported of them."""

from collections.abc import Mapping
from typing import NamedTuple

from fedps.types import ClientId, ClientInfo

KEPT = 32  # turns of a client; older ones are forgotten


class Turn(NamedTuple):
    """One round that a client was picked for.

    `round` counts from 1; those of a run that this one goes on from are 0 and below. `late`: it did not report in time.
    `dropped`: it says that it dropped out. `loss` is None where nothing was trained.
    """

    round: int
    trained: int = 0
    seconds: float = 0.0
    loss: float | None = None
    auc: float | None = None
    dropped: bool = False
    late: bool = False


Turns = tuple[Turn, ...]


class History:
    """The turns of all clients, oldest first."""

    def __init__(self, turns: Mapping[ClientId, Turns] | None = None) -> None:
        self._turns = dict(turns or {})

    @property
    def turns(self) -> dict[ClientId, Turns]:
        """A copy of what is kept, by client; turns do not change."""
        return dict(self._turns)

    def reported(self, client: ClientId, round_: int, info: ClientInfo) -> None:
        """Note what a client reports of a round it was picked for; of a late one, that it came after all."""
        late = any(t.round == round_ and t.late for t in self._turns.get(client, ())[-1:])
        self._note(client, Turn(round_, info.trained, info.seconds, info.loss, info.auc, info.dropped, late))

    def left_behind(self, client: ClientId, round_: int) -> None:
        """Note that a client has not reported a round it was picked for."""
        self._note(client, Turn(round_, late=True))

    def shifted(self, rounds: int) -> "History":
        """Return the same with all rounds counted `rounds` less, for a run that goes on from another."""
        return History({c: tuple(t._replace(round=t.round - rounds) for t in ts) for c, ts in self._turns.items()})

    def _note(self, client: ClientId, turn: Turn) -> None:
        others = [t for t in self._turns.get(client, ()) if t.round != turn.round]
        self._turns[client] = (*others, turn)[-KEPT:]


def last_loss(turns: Turns) -> float | None:
    """Return the loss of the last training among some turns, None if there is none."""
    return next((t.loss for t in reversed(turns) if t.loss is not None), None)
