"""A whole run in one process: servers and workers as threads' calls over the same bytes, for debuggers and tests."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from fedps.client.worker import run_worker
from fedps.config import Job
from fedps.data.reader import client_files
from fedps.net.inprocess import LocalChannel, LocalServer
from fedps.server.server import ParameterServer
from fedps.tracking import stamp
from fedps.types import ClientId
from fedps.wire.messages import Hello

Listen = Callable[[Mapping[str, object]], None]


def run_in_process(job: Job, run_dir: Path, listen: Listen) -> None:
    """Run servers and workers of a job in this process.

    Args:
        job: the resolved job.
        run_dir: the run's folder.
        listen: takes every event, stamped with time, role and id; may be called from several threads.

    Raises:
        Exception: what the first failing worker raised.
    """
    servers = [
        LocalServer(ParameterServer(job, k, run_dir, lambda event, k=k: listen(stamp("server", str(k), event))))  # type: ignore[misc]
        for k in range(job.runner.server_num)
    ]
    failures: list[Exception] = []

    def work(client: ClientId) -> None:
        def connect(shard: int, hello: Hello) -> LocalChannel:
            return LocalChannel(servers[shard], hello, servers[shard].service.limits)  # type: ignore[attr-defined]

        try:
            run_worker(job, client, [], run_dir, lambda event: listen(stamp("worker", client, event)), connect)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=[c], name=f"worker {c}") for c in client_files(job.runner.train_data_dir)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for server in servers:
        server.close()
    if failures:
        raise failures[0]
