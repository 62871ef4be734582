"""A whole run in one process: servers, coordinator and workers over the same bytes, for debuggers and tests."""

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from fedps.client.life import FLClient
from fedps.client.own_client import client_class, make_client
from fedps.client.steps import Handler, Key
from fedps.config import Allow, Job
from fedps.config.files import client_files_of
from fedps.coordinator.coordinator import Coordinator
from fedps.coordinator.selectors import ClientSelectorBase
from fedps.errors import LostError
from fedps.events import events
from fedps.events.events import Entry, Event, Report, stamp
from fedps.models.network import Plan
from fedps.net.inprocess import LocalChannel, LocalServer
from fedps.server.server import ParameterServer
from fedps.training.plan import make_plan
from fedps.types import ClientId
from fedps.wire.frame import Limits
from fedps.wire.messages import Hello

Listen = Callable[[Entry], None]
Reports = Callable[[str, str], Report]  # of a role, by its kind and name


def run_in_process(
    job: Job,
    run_dir: Path,
    listen: Listen,
    allow: Allow = Allow(),  # noqa: B008  (a constant)
    handlers: Mapping[Key, Handler] | None = None,
    selector: ClientSelectorBase | None = None,
    plan: Plan | None = None,
) -> None:
    """Run servers, workers and, where the job has one, the coordinator in this process.

    Args:
        job: the resolved job.
        run_dir: the run's folder.
        listen: takes every event, stamped with time, role and id; called from several threads, never by two at a time.
        allow: what the person who started this allows.
        handlers: steps of every client's life to replace.
        selector: who is picked; by default the job's `client_selector`.
        plan: the job's network, made ready; by default it is looked up, or made.

    Raises:
        Exception: what the selector, or else the first failing worker raised.
    """
    job = job.keeping_nothing()
    (run_dir / "log").mkdir(parents=True, exist_ok=True)
    failures: list[Exception] = []
    reports = _reports(listen)
    clients = list(client_files_of(job))
    with ExitStack() as stack:
        servers, stores = [], list[ParameterServer]()
        for shard in range(job.runner.server_num):
            stores.append(ParameterServer(job, shard, run_dir, reports("server", str(shard))))
            server = LocalServer(stores[-1])
            servers.append(stack.enter_context(closing(server)))
        if job.runner.with_coordinator:
            log = stack.enter_context((run_dir / "log" / "coordinatorlog.0").open("a", encoding="utf-8"))
            coordinator = Coordinator(job, reports("coordinator", "0"), log, selector, run_dir)
            coordinator.say_ready()
            stack.callback(coordinator.close)
            servers.append(stack.enter_context(closing(LocalServer(coordinator))))
        _work(job, plan or make_plan(job), clients, servers, run_dir, reports, allow, handlers, failures)
    for server in servers:
        if server.failure is not None:
            raise server.failure
    if failures:
        raise failures[0]
    for store in stores:
        store.close()


def _work(
    job: Job, plan: Plan, clients: list[ClientId], servers: list[LocalServer], run_dir: Path, reports: Reports, allow: Allow,
    handlers: Mapping[Key, Handler] | None, failures: list[Exception],
) -> None:  # fmt: skip
    """Let every client live in a thread of its own, and wait for all."""
    begun: set[ClientId] = set()

    def connect(shard: int, hello: Hello) -> LocalChannel:
        server = servers[shard]  # -1 is the last one
        with server.lock:
            if server.failure is not None:
                raise LostError(f"the run has stopped: {server.failure}")
            return LocalChannel(server, hello, Limits(job.limits.message_mib << 20))

    def work(client: ClientId) -> None:
        report = reports("worker", client)

        def note(event: Event) -> None:
            if isinstance(event, events.Assigned | events.FirstBatch):
                begun.add(client)
            report(event)

        try:
            number = clients.index(client)
            with (run_dir / "log" / f"workerlog.{number}").open("a", encoding="utf-8") as log:
                begin = partial(
                    FLClient.__init__, job=job, client=client, servers=[], run_dir=run_dir, report=note, connect=connect,
                    log=log, allow=allow, handlers=handlers, number=number, plan=plan,
                )  # fmt: skip
                make_client(client_class(job), begin).run()
        except Exception as error:
            failures.append(error)
            if client not in begun:
                _stop(servers, error)

    threads = [threading.Thread(target=work, args=[c], name=f"worker {c}") for c in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _reports(listen: Listen) -> Reports:
    """Return what makes each role's `Report`; whoever listens is called by one thread at a time."""
    lock = threading.Lock()

    def report(role: str, name: str, event: Event) -> None:
        with lock:
            listen(stamp(role, name, event))

    return lambda role, name: partial(report, role, name)


def _stop(servers: list[LocalServer], error: Exception) -> None:
    """End the run: the others would wait for this worker until their patience ends."""
    for server in servers:
        with server.lock:
            server.fail(error)
