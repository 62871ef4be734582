"""Pulls through the product's own client from a real server on loopback, beside a bare socket that moves the same bytes."""

import multiprocessing
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import msgspec

from bench.apart import BenchError
from bench.clock import quantile
from bench.echo import serve_echo
from bench.pulling import PATIENCE, Case, Kind, Pulls, pull_apart
from bench.records import Curve, Figure, Options, Result
from bench.served import CERTS, make_certificates, rows_job, serve_rows

DIM, ROWS = 32, 1_000_000
IDS = {"full": (500, 5_000, 50_000), "quick": (500, 5_000, 50_000), "tiny": (50, 100)}
CLIENTS = {"full": (1, 10), "quick": (1, 10), "tiny": (1, 2)}
SECONDS = {"full": 3.0, "quick": 0.6, "tiny": 0.1}  # of pulling, for each case
NAMES: dict[Kind, str] = {"fedps": "fedps", "tls": "fedps with TLS", "socket": "bare socket"}
ABOUT = (
    f"Loopback, one server process with one table of {ROWS:,} rows, clients in processes of their own that pull rows of"
    f" {DIM} floats by sorted ids drawn at random, one request after another. A bare socket answers with as many zeros and"
    " looks nothing up."
)
MEASURES = ("p50", "p99", "rate")
context = multiprocessing.get_context("spawn")


def measure(options: Options) -> Result:
    """Pull with one client and with ten, by ids a request, plain, with TLS, and over a bare socket."""
    size, figures, points = options.size, list[Figure](), dict[str, list[tuple[float, float]]]()
    kinds: tuple[Kind, ...] = ("fedps", "tls", "socket")
    with tempfile.TemporaryDirectory(prefix="fedps-bench-") as folder:
        make_certificates(Path(folder) / CERTS, map(str, range(max(CLIENTS[size]))))
        for clients in CLIENTS[size]:
            for kind in kinds:
                who = f"{clients} client{'s' * (clients > 1)}"
                print(f"{who}, {NAMES[kind]}", flush=True)
                with _server(kind, clients, folder) as address:
                    certs = str(Path(folder) / CERTS)
                    case = Case(kind, address, rows_job(clients, folder), certs, ROWS, DIM, IDS[size], SECONDS[size])
                    found = _pull(case, clients)
                for ids, pulls in zip(IDS[size], found, strict=True):
                    figures += _figures(kind, f"{clients}.{ids}", f"{who}, {ids:,} ids", ids, pulls)
                    points.setdefault(f"{NAMES[kind]}, {who}", []).append((ids, figures[-1].value))
    figures.sort(key=_order)
    lines = tuple((name, tuple(line)) for name, line in points.items())
    curve = Curve("ids", "Pulls by ids of a request", "ids of a request", "rows/s", lines)
    return Result("wire", ABOUT, tuple(figures), (curve,))


def _order(figure: Figure) -> tuple[int, int, int]:
    """Sort by clients, ids and measure, so that ours and the other's stand together."""
    clients, ids, _, what = figure.key.split(".")
    return int(clients), int(ids), MEASURES.index(what)


def _figures(kind: Kind, case: str, who: str, ids: int, clients: list[Pulls]) -> list[Figure]:
    """Return p50, p99 and rows a second of one case; TLS and sockets stand beside plain pulls."""
    taken = [seconds for pulls in clients for seconds in pulls.taken]
    span = max(pulls.ended for pulls in clients) - min(pulls.began for pulls in clients)
    found = {
        "p50": ("p50", median(taken) * 1e3, "ms"),
        "p99": ("p99", quantile(taken, 0.99) * 1e3, "ms"),
        "rate": ("throughput", len(taken) * ids / span, "rows/s"),
    }
    return [
        Figure(
            f"{case}.{kind}.{key}", f"{who}: {what}, {NAMES[kind]}", value, unit,
            ours="" if kind == "fedps" else f"{case}.fedps.{key}",
        )
        for key, (what, value, unit) in found.items()
    ]  # fmt: skip


def _pull(case: Case, clients: int) -> list[list[Pulls]]:
    """Let clients pull; return for each size of request what each client did."""
    barrier, pipes = context.Barrier(clients), [context.Pipe() for _ in range(clients)]
    processes = [
        context.Process(target=pull_apart, args=(case, number, barrier, theirs))
        for number, (_, theirs) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    try:
        found = [_answer(ours, len(case.ids) * (PATIENCE + case.seconds)) for ours, _ in pipes]
    finally:
        for process in processes:
            process.join(1)
            process.kill()
            process.join()
    return [list(size) for size in zip(*found, strict=True)]


def _answer(pipe: Connection, limit: float) -> list[Pulls]:
    if not pipe.poll(limit):
        raise BenchError(f"a client that pulls gave no answer within {limit:g} s")
    return msgspec.json.decode(pipe.recv_bytes(), type=list[Pulls])


@contextmanager
def _server(kind: Kind, clients: int, folder: str) -> Iterator[str]:
    """Run a server in a process of its own; yield its address."""
    ours, theirs = context.Pipe()
    if kind == "socket":
        process = context.Process(target=serve_echo, args=(4 * DIM, theirs))
    else:
        process = context.Process(target=serve_rows, args=(clients, folder, kind == "tls", theirs))
    process.start()
    try:
        if not ours.poll(PATIENCE):
            raise BenchError(f"the server for {NAMES[kind]} did not come up within {PATIENCE:g} s")
        yield ours.recv_bytes().decode()
    finally:
        process.terminate()
        process.join(PATIENCE)
