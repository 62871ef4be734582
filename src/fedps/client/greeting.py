"""A client's process says who it is: to all servers and the coordinator as the newest of its client, or to none."""

import secrets
from collections.abc import Callable

from msgspec.structs import replace

from fedps.client.checkpoint import Checkpoints
from fedps.config import Job
from fedps.config.shared import shared_part
from fedps.errors import FedpsError, RefusedError
from fedps.net.shards import Transport
from fedps.types import ClientId
from fedps.wire.messages import Hello

Connect = Callable[[int, Hello], Transport]  # reaches a server by its number
COORDINATOR = -1  # the number under which it reaches the coordinator


def greet(job: Job, client: ClientId, connect: Connect, checkpoints: Checkpoints) -> list[Transport]:
    """Connect to the servers, in the order of their numbers, and then to the coordinator, if there is one.

    Processes of one client are counted in its own folder. Where that folder is another than before, as on another machine,
    they know of larger numbers: this process counts on from there, once, as it begins. Later it does no more: who is told
    then that a newer process speaks ends. So of two processes one ends, and never both.

    Raises:
        RefusedError: a newer process has begun in this folder, or one refuses for another reason.
        LostError: one is not there in time.
        DataError: the folder cannot be written.
    """
    runner = job.runner
    instance, shared = secrets.token_hex(8), shared_part(job)
    while True:
        hello = Hello(job.name, client, instance, checkpoints.number, shared=shared)
        channels = [connect(k, hello) for k in range(runner.server_num)]
        if runner.with_coordinator:
            channels.append(connect(COORDINATOR, replace(hello, to="coordinator")))
        try:
            for channel in channels:
                channel.welcome.result()  # one that is not up yet is waited for
            return channels
        except FedpsError as error:
            for channel in channels:
                channel.close()
            if not isinstance(error, RefusedError) or not error.newest:
                raise
            checkpoints.count_on(error.newest)
