"""A pull on its way: checked, and answered once the window it asks for is merged."""

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from fedps.access.conversation import Conversation
from fedps.errors import TableError
from fedps.server import requests
from fedps.server.members import Member
from fedps.server.shard import Shard
from fedps.types import Keys
from fedps.wire.frame import Limits
from fedps.wire.messages import Pull


class Pulls:
    """The pulls that come to one shard.

    Args:
        shard: what they ask for.
        limits: what a pull may be.
        edition: tells the word that answers carry, see `Values`.
    """

    def __init__(self, shard: Shard, limits: Limits, edition: Callable[[], str] = str) -> None:
        self._shard, self._limits, self._edition = shard, limits, edition

    def take(self, conversation: Conversation, ticket: int, member: Member, pull: Pull, arrays: Sequence[Keys]) -> bool:
        """Check a pull, and answer it, now or later; return whether it waits.

        Raises:
            RefusedError: it is not acceptable, or too many wait already.
        """
        shard = self._shard
        size = requests.check_pull(pull, arrays, shard, self._limits)
        if shard.is_merged(pull.after):
            self._answer(conversation, ticket, member, pull, arrays)
            return False
        if not member.put_off:
            # What it pushed up to there is here, or never comes: another process of it said that to other servers alone.
            member.waits_from = max(member.waits_from, pull.after + 1)
        size += sum(a.nbytes for a in arrays) + requests.OVERHEAD // 64
        shard.wait(conversation, pull.after, size, lambda: self._answer(conversation, ticket, member, pull, arrays))
        return True

    def _answer(
        self, conversation: Conversation, ticket: int, member: Member, pull: Pull, arrays: Sequence[Keys]
    ) -> None:
        """Send the rows; called from another client's turn too, so that what goes wrong is this client's alone."""
        try:
            rows, values = self._shard.pull(member, pull, arrays)
        except TableError as error:
            conversation.refuse(ticket, error)
        else:
            member.fetch(self._limits.seconds(sum(v.nbytes for v in values)))
            conversation.reply(ticket, replace(rows, edition=self._edition()), values)
