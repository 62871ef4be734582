"""A worker's life of a user's own, `runner.fl_client`: its class, and how an object of it is made."""

from collections.abc import Callable
from typing import cast

from fedps.client.life import FLClient
from fedps.config import Job
from fedps.config.classes import load_class
from fedps.errors import JobError


def client_class(job: Job) -> type[FLClient]:
    """Return the class whose objects live the job's clients' lives: `runner.fl_client`, or the one that is built in.

    Raises:
        JobError: there is no such class, or it is none of clients.
    """
    path = job.runner.fl_client
    if path is None:
        return FLClient
    kind: type[FLClient] = load_class(path, job.folder, "runner.fl_client")
    if not issubclass(kind, FLClient):
        raise JobError(f"runner.fl_client: {path!r}: is no client; derive it from fedps.FLClient")
    return kind


def make_client(kind: type[FLClient], begin: Callable[[FLClient], None]) -> FLClient:
    """Make a client of a class of one's own, whose `__init__`, if it has one, takes nothing, as in the original.

    Args:
        kind: its class.
        begin: calls `FLClient.__init__` of what it is given, with its part of the run.

    Raises:
        JobError: the class's own `__init__` fails, or takes something.
    """
    client = kind.__new__(kind)
    begin(client)
    if kind.__init__ is not FLClient.__init__:
        try:
            cast(Callable[[FLClient], None], kind.__init__)(client)
        except Exception as error:  # whatever the user's own code raises
            raise JobError(
                f"{kind.__name__} cannot be made: {type(error).__name__}: {error}; its __init__ takes nothing and calls no"
                " other: when it begins, the client has its job and data already"
            ) from error
    return client
