"""A whole run in one process: servers and workers as threads' calls over the same bytes, for debuggers and tests."""

import threading
from collections.abc import Callable
from pathlib import Path

from fedps.client.worker import check, prepare_thread, run_worker
from fedps.config import Job
from fedps.data.reader import client_files
from fedps.net.inprocess import LocalChannel, LocalServer
from fedps.server.server import ParameterServer
from fedps.tracking import stamp
from fedps.types import ClientId
from fedps.wire.frame import Limits
from fedps.wire.messages import Hello

Listen = Callable[[dict[str, object]], None]

__all__ = ["check", "run_in_process"]


def run_in_process(job: Job, run_dir: Path, listen: Listen) -> None:
    """Run servers and workers of a job in this process.

    Args:
        job: the resolved job.
        run_dir: the run's folder.
        listen: takes every event, stamped with time, role and id; may be called from several threads.

    Raises:
        Exception: what the first failing worker raised.
    """
    servers = [_server(job, shard, run_dir, listen) for shard in range(job.runner.server_num)]
    failures: list[Exception] = []
    clients = list(client_files(job.runner.train_data_dir))
    (run_dir / "log").mkdir(parents=True, exist_ok=True)

    def work(client: ClientId) -> None:
        def connect(shard: int, hello: Hello) -> LocalChannel:
            return LocalChannel(servers[shard], hello, Limits(job.limits.message_mib << 20))

        prepare_thread()
        try:
            with (run_dir / "log" / f"workerlog.{clients.index(client)}").open("a", encoding="utf-8") as log:
                run_worker(job, client, [], run_dir, lambda e: listen(stamp("worker", client, e)), connect, log)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=[c], name=f"worker {c}") for c in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for server in servers:
        server.close()
    if failures:
        raise failures[0]


def _server(job: Job, shard: int, run_dir: Path, listen: Listen) -> LocalServer:
    def report(event: dict[str, object]) -> None:
        listen(stamp("server", str(shard), event))

    return LocalServer(ParameterServer(job, shard, run_dir, report))
