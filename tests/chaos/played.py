"""A role as it is built in, with a witness in its process: of what clients are told, and of what servers write."""

import os
from collections.abc import Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fedps.launch.local import entry
from fedps.launch.local.role import RoleSpec
from fedps.net.channel import Channel
from fedps.storage.disk import Folder
from fedps.wire.frame import Frame
from fedps.wire.messages import Done, PartyRequest, Push, Request


def beside(run_dir: Path) -> Path:
    """Return the folder of what is noted of a run."""
    return run_dir.with_name(f"{run_dir.name}.chaos")


def play(pipe: Connection, log: str, job_json: str, spec: RoleSpec) -> None:
    """Live a built-in role's whole life, under a witness."""
    folder = beside(spec.run_dir)
    if spec.role == "worker":
        _note_answers(folder / f"answered-{spec.client}", spec.servers)
    elif spec.role == "server":
        _keep_logs(folder / f"log-{spec.number}")
    entry.play(pipe, log, job_json, spec)


def _note_answers(path: Path, servers: Sequence[str]) -> None:
    """Note each push that is answered: the server's number, and the push's. What is written outlives a kill."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    request = Channel.request

    def noted(self: Channel, message: Request | PartyRequest, arrays: Sequence[NDArray[Any]] = ()) -> "Future[Frame]":
        future = request(self, message, arrays)
        if isinstance(message, Push) and message.part + 1 == message.parts:
            server, sequence = servers.index(self.address), message.sequence
            future.add_done_callback(lambda done: _note(file, done, f"{server} {sequence}\n"))
        return future

    Channel.request = noted  # type: ignore[method-assign]


def _note(file: int, done: "Future[Frame]", line: str) -> None:
    if done.exception() is None and isinstance(done.result().message, Done):
        os.write(file, line.encode())


def keep_logs(run_dir: Path) -> None:
    """Let the logs of all servers of a run stay elsewhere, too."""
    for log in run_dir.glob("state/server-*/log-*"):
        _keep(log, beside(run_dir) / f"log-{log.parent.name.removeprefix('server-')}")


def _keep(log: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    if log.exists() and not (folder / log.name).exists():
        os.link(log, folder / log.name)


def _keep_logs(folder: Path) -> None:
    """Let logs that a server removes stay elsewhere."""
    remove = Folder.remove

    def kept(self: Folder, name: str) -> None:
        if name.startswith("log-"):
            _keep(self._path / name, folder)
        remove(self, name)

    Folder.remove = kept  # type: ignore[method-assign]
