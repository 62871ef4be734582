"""Who is connected under which name, and who takes part.

A `Roster` knows connections: strangers that have not said Hello, guests that have and take no part yet, and members. It
never lets the first two grow over a bound, and never hangs up on a member to make room for them. A `Membership` knows
clients, whether they are connected just now or not. Times are seconds of a monotonic clock that the caller passes in.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, TypeVar

from fedps.access.conversation import MAX_NAME, Conversation
from fedps.config.shared import first_difference
from fedps.errors import RefusedError
from fedps.events import events
from fedps.events.events import Report
from fedps.types import ClientId, Identity
from fedps.wire.messages import PROTOCOL, Hello

GREETING_TIMEOUT = 10.0  # seconds a connection may stay without saying who it is
SPARE_GUESTS = 64  # greeted connections beyond one for each expected client
MAX_MEMBERS = 4096  # clients at once, and names remembered of those that went
MOST_SKIPPED = 1 << 20  # numbers of processes at once: so nobody can take the last that there is


class Process(NamedTuple):
    """A process of a client: the larger one is the newer, whoever compares them. See `Hello`."""

    number: int
    instance: str


RoleName = Literal["server", "coordinator", "party"]
DIALS: dict[RoleName, tuple[str, ...]] = {  # whose certificates may greet whom
    "server": ("client", "observer"),
    "coordinator": ("client", "observer"),
    "party": ("party",),
}


class Roster:
    """The connections of one server or coordinator.

    A client is spoken for by one process at a time, the newest that has greeted: an older one that comes again is refused
    for good, so that two processes of one name do not take turns in ending each other. Which is newer they say themselves, by
    a number: so all servers and the coordinator agree, in whatever order processes come, and whatever one of them forgets.

    Args:
        job: its name, which a Hello must carry.
        shared: what the job says where all roles must agree, as `config.shared` has it.
        role: whose roster this is.
        expected: clients that are to come.
        connections: how many may be open; strangers may fill half of them.
        patience: seconds in which a guest must take part.
        clients: who may come, by name; None: any.
    """

    def __init__(
        self, job: str, shared: Mapping[str, str], role: RoleName, expected: int,
        connections: int, patience: float, clients: Collection[str] | None = None,
    ) -> None:  # fmt: skip
        self._clients = clients
        self._job, self._shared, self._role, self._patience = job, shared, role, patience
        self._most_strangers, self._most_guests = connections // 2, expected + SPARE_GUESTS
        # Dictionaries keep the order of arrival: where there are too many, the oldest is the first to go.
        self._strangers: dict[Conversation, None] = {}
        self._guests: dict[Conversation, float] = {}  # when each has greeted
        self._named: dict[ClientId, Conversation] = {}  # guests and members
        self._processes: dict[ClientId, Process] = {}  # the newest that greeted, also of clients that are away

    def open(self, conversation: Conversation) -> Conversation:
        """Take in a connection that has not said who it is."""
        self._strangers[conversation] = None
        if len(self._strangers) > self._most_strangers:
            next(iter(self._strangers)).hang_up()
        return conversation

    def greet(self, conversation: Conversation, hello: Hello, now: float) -> ClientId:
        """Give a connection its name; an older one of this name is over.

        Raises:
            RefusedError: it is of another job or protocol, its name cannot be one or is not that of its certificate,
                or is none of the job's clients, or a newer process speaks for it.
        """
        check_hello(hello, self._job, self._shared, self._role)
        check_name(hello.client, conversation.identity, self._role)
        if conversation.identity is None or conversation.identity.role != "observer":
            check_expected(hello.client, self._clients, self._role)
        client = ClientId(hello.client)
        process = Process(hello.number, hello.instance)
        self._check_newest(client, process)
        self.know(client, process)
        older = self._named.get(client)
        # From here on the name is the newer connection's: what `forget` does for the older does not make the client absent.
        self._strangers.pop(conversation, None)
        self._named[client], self._guests[conversation] = conversation, now
        if older is not None:
            self._end(older, hello.instance)
        if len(self._guests) > self._most_guests:
            next(iter(self._guests)).hang_up()
        return client

    def enter(self, conversation: Conversation) -> None:
        """Count a guest as a member from now on."""
        self._guests.pop(conversation, None)

    def forget(self, conversation: Conversation) -> ClientId | None:
        """Drop a connection; return the client that is not connected any more, None if none spoke or a newer one does."""
        self._strangers.pop(conversation, None)
        self._guests.pop(conversation, None)
        client = conversation.client
        if client is None or self._named.get(client) is not conversation:
            return None
        del self._named[client]
        return client

    def connection(self, client: ClientId) -> Conversation | None:
        """Return the connection that speaks for a client, None while there is none."""
        return self._named.get(client)

    def know(self, client: ClientId, process: Process) -> None:
        """Note a process that spoke for a client, which is the newest unless a newer one is known."""
        newest = max(process, self._processes.pop(client, process))
        self._processes[client] = newest  # behind all others: the oldest is forgotten first
        _forget_oldest(self._processes)

    @property
    def processes(self) -> dict[ClientId, Process]:
        """The newest process that spoke for each client."""
        return dict(self._processes)

    @property
    def connected(self) -> list[ClientId]:
        """The clients that are connected, whether they take part or not."""
        return list(self._named)

    def tick(self, now: float) -> None:
        """Hang up on strangers and guests whose time is up."""
        for conversation in [c for c in self._strangers if now - c.opened_at > GREETING_TIMEOUT]:
            conversation.hang_up()
        for conversation in [c for c, since in self._guests.items() if now - since > self._patience]:
            conversation.hang_up()

    def hang_up(self) -> None:
        """End all connections."""
        for conversation in [*self._strangers, *self._named.values()]:
            conversation.hang_up()

    @property
    def _remedy(self) -> str:
        return "start each party once" if self._role == "party" else "give each worker its own client"

    def _check_newest(self, client: ClientId, process: Process) -> None:
        """Check that no newer process speaks for a client, and that this one leaves numbers to those that come after it."""
        newest, who = self._processes.get(client, Process(0, "")), f"{_who(self._role)} {client!r}"
        if process < newest:
            raise RefusedError(
                "superseded",
                f"a newer process speaks for {who}, and this one must end: {self._remedy}",
                newest.number,
            )
        if process.number > newest.number + MOST_SKIPPED:
            raise RefusedError(
                "malformed", f"process {process.number} of {who} comes after {newest.number}: count them"
            )

    def _end(self, older: Conversation, instance: str) -> None:
        """Hang up on an older connection; if another process has it, it is told to end."""
        if older.instance != instance:
            reason = f"a newer process speaks for {_who(self._role)} {older.client!r} now: {self._remedy}"
            older.refuse(0, RefusedError("superseded", reason))
        older.hang_up()


@dataclass
class Participant:
    """What a membership knows of a client that takes part.

    Attributes:
        instance: the process that speaks for it.
        lost_at: when its connection broke; None while it is connected.
    """

    instance: str
    lost_at: float | None = field(default=None, kw_only=True)


M = TypeVar("M", bound=Participant)
K = TypeVar("K")
V = TypeVar("V")


class Membership(Generic[M]):
    """The clients that take part: here, left (they said so), or lost (given up, and welcome back).

    Args:
        expected: how many are to come; nothing begins before.

    Attributes:
        report: is told who comes and goes; nobody is, while what happened in an earlier process is taken up.
    """

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.report: Report = lambda event: None
        self.here: dict[ClientId, M] = {}
        self.left: dict[ClientId, M] = {}
        self.lost: dict[ClientId, M] = {}

    def get(self, client: ClientId) -> M | None:
        """Return a member that is here, None if this client is not."""
        return self.here.get(client)

    def admit(self, client: ClientId, instance: str, new: Callable[[], M]) -> M:
        """Let a client take part: a process that did before goes on where it was, another begins anew.

        Raises:
            RefusedError: too many take part.
        """
        member = self.here.get(client)
        if member is None and len(self.here) >= max(MAX_MEMBERS, self.expected):
            raise RefusedError("too_large", f"{len(self.here)} clients take part, which is the limit here")
        gone = (self.left.pop(client, None), self.lost.pop(client, None))
        known = next((m for m in (member, *gone) if m is not None and m.instance == instance), None)
        self.here[client] = member = known or new()
        member.lost_at = None
        if known is None or gone != (None, None):
            self.report(events.Joined(client, instance))
        return member

    def leave(self, client: ClientId) -> None:
        """Let a client go that is done."""
        if self._go(client, self.left):
            self.report(events.Left(client))

    def lose(self, client: ClientId) -> None:
        """Wait no longer for a client whose connection did not come back; it still may."""
        self._go(client, self.lost)

    def expel(self, client: ClientId) -> None:
        """Forget a client as if it had never come."""
        if self.here.pop(client, None) is not None:
            self.report(events.Expelled(client))

    def disconnect(self, client: ClientId, instance: str, now: float) -> None:
        """Note that a process is not connected any more; to come and break again gains it no time."""
        member = self.here.get(client)
        if member is not None and member.instance == instance and member.lost_at is None:
            member.lost_at = now

    def overdue(self, now: float, patience: float) -> list[ClientId]:
        """Return the clients whose connection has been broken for longer than `patience` seconds."""
        return [c for c, m in self.here.items() if m.lost_at is not None and now - m.lost_at > patience]

    def expect(self, count: int) -> None:
        """Wait for no more than `count` clients to come."""
        self.expected = min(self.expected, count)

    @property
    def known(self) -> set[ClientId]:
        """All that have come, whether they are here or not."""
        return self.here.keys() | self.left.keys() | self.lost.keys()

    def known_as(self, client: ClientId) -> M | None:
        """Return what is known of a client that has come, whether it is here or not; None if it never did."""
        return next((there[client] for there in (self.here, self.left, self.lost) if client in there), None)

    @property
    def processes(self) -> list[str]:
        """The names of the processes that spoke for them."""
        return [member.instance for there in (self.here, self.left, self.lost) for member in there.values()]

    @property
    def came(self) -> int:
        """How many clients have come, whether they are here or not."""
        return len(self.here) + len(self.left) + len(self.lost)  # each is in one of them

    @property
    def complete(self) -> bool:
        """Whether all expected clients have come (those that went again are counted)."""
        return self.came >= self.expected

    def over(self, now: float, patience: float) -> bool:
        """Whether there is nobody to wait for: all have come, and left or been away for longer than `patience` seconds.

        Who has left, but may not have heard that we know, is away too: it says so again, and needs somebody to hear it.
        """
        gone = (*self.lost.values(), *self.left.values())
        away = [m.lost_at for m in gone if m.lost_at is not None]
        return self.complete and not self.here and all(now - since > patience for since in away)

    @property
    def done(self) -> bool:
        """Whether all that came have taken leave: the job has come to its end."""
        return self.complete and not self.here and not self.lost

    @property
    def abandoned(self) -> bool:
        """Whether all that came were lost, and none took leave: the job cannot have come to its end."""
        return bool(self.lost) and not self.here and not self.left

    def __len__(self) -> int:
        """Return how many are here."""
        return len(self.here)

    def _go(self, client: ClientId, where: dict[ClientId, M]) -> bool:
        member = self.here.pop(client, None)
        if member is not None:
            where[client] = member
            _forget_oldest(where, max(MAX_MEMBERS, self.expected))
        return member is not None


def check_hello(hello: Hello, job: str, shared: Mapping[str, str], role: RoleName) -> None:
    """Check that a Hello is meant for this role, that both read the same job, and that its names can stand in a log.

    A stranger is not told what would have been right: the job's name is all that keeps it out. Who knows the name is told
    the first key in which the jobs differ, and both values.

    Raises:
        RefusedError: it is not, or does not.
    """
    if hello.protocol != PROTOCOL or hello.job != job or hello.to != role:
        raise RefusedError(
            "other_job",
            f"this is {_whom(role)} of another job, or of another version of fedps (protocol {PROTOCOL}): you asked for"
            f" {_whom(hello.to)} of {hello.job[:99]!r} with protocol {hello.protocol}; check the address and the versions",
        )
    if difference := first_difference(shared, hello.shared):
        raise RefusedError(
            "other_job",
            f"the jobs differ in {difference} (here is the {_whom(role).partition(' ')[2]}, there {_who(role)} {hello.client[:99]!r}): give all roles of a"
            " run the same job file, counts and overrides, and the same version of fedps",
        )
    for name in (hello.client, hello.instance):
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise RefusedError(
                "malformed", f"{_who(role)} and instance are names of 1 to {MAX_NAME} characters, all printable"
            )


def check_name(client: str, identity: Identity | None, role: RoleName = "server") -> None:
    """Make sure that who has a certificate may greet a role, and speaks in its own name; an observer as `observer/<name>`.

    Raises:
        RefusedError: it may not, or speaks in another's.
    """
    if identity is None:
        return
    if identity.role not in DIALS[role]:
        raise RefusedError(
            "identity",
            f"this is the certificate of {identity}, and a {role} is dialled by a {' or '.join(DIALS[role])} alone: show its"
            " certificate",
        )
    own = f"{identity.role}/{identity.name}" if identity.role == "observer" else identity.name
    if client != own:
        raise RefusedError(
            "identity",
            f"this is the certificate of {identity}, who speaks as {own!r} alone, and not for {_who(role)} {client[:99]!r}: give"
            f" each {_who(role)} its own folder of certificates",
        )


def check_expected(client: str, clients: Collection[str] | None, role: RoleName = "server") -> None:
    """Make sure that a client is one that the job has, whoever has signed its certificate; `clients`: None lets any in.

    Raises:
        RefusedError: it is none.
    """
    if clients is None or client in clients:
        return
    named = "vertical.passive" if role == "party" else "security.clients, or by its data under `fedps run`"
    raise RefusedError(
        "identity", f"this job has no {_who(role)} {client[:99]!r}: who runs it names its {_who(role, True)} in {named}"
    )


def _whom(role: RoleName) -> str:
    """Return what a role is called that is greeted, with its article."""
    return "an active party" if role == "party" else f"a {role}"


def _who(role: RoleName, several: bool = False) -> str:
    """Return what those are called who greet a role."""
    if role == "party":
        return "passive parties" if several else "passive party"
    return "clients" if several else "client"


def _forget_oldest(names: dict[K, V], most: int = MAX_MEMBERS) -> None:
    """Bound what is remembered of names that others choose."""
    if len(names) > most:
        del names[next(iter(names))]
