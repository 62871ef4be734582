"""What a server keeps of requests that it cannot answer yet."""

from collections.abc import Callable
from typing import NamedTuple

from fedps.server.ballot import Declaration
from fedps.server.requests import Connection
from fedps.wire.messages import Join

Answer = Callable[[], None]


class Waiting(NamedTuple):
    """A pull that waits until clock `after` is merged."""

    after: int
    connection: Connection
    answer: Answer


class Standing(NamedTuple):
    """A request at a barrier."""

    connection: Connection
    answer: Answer


class Contested(NamedTuple):
    """A Join with other tables than those chosen, held until most clients have said theirs."""

    connection: Connection
    ticket: int
    join: Join
    declared: Declaration
