"""How long two parties take to find the ids that both have, and how many bytes pass: over the product's own wire."""

import resource
import secrets
import time
from contextlib import closing
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from bench.apart import BenchError
from bench.records import Figure, Options, Result
from fedps.config.vertical import VerticalJob, shared_part
from fedps.crypto import POINT, SecretScalar
from fedps.net.channel import Channel
from fedps.vertical.finding import find, serve
from fedps.vertical.ids import identity
from fedps.vertical.line import Line
from fedps.vertical.matching import Matched, Matching
from fedps.vertical.meeting import Meeting
from fedps.vertical.turns import limits_of
from fedps.wire.messages import Hello

COUNTS = {"full": (100_000, 1_000_209), "quick": (20_000,), "tiny": (400,)}  # ids of each side; half are common
POINTS = 2_000  # that one core multiplies, to see how fast it is
ABOUT = (
    "two processes on this machine, each with so many ids, of which half are common, as `fedps vertical run` has them: from"
    " ids in memory to the rows that are common, in the agreed order. Bytes are those of all messages, both ways."
)
KEY = "a word that both know"


def measure(options: Options) -> Result:
    """Match ids."""
    figures = [_point()]
    for count in COUNTS[options.size]:
        print(f"{count} ids", flush=True)
        figures += _match(count)
    return Result("psi", ABOUT, tuple(figures))


def _point() -> Figure:
    """Measure how long one core takes for what nobody gets around: four multiplications an id, two by each party."""
    scalar, points = SecretScalar(), secrets.token_bytes(POINT * POINTS)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        scalar.times(points)
        times.append((time.perf_counter() - began) / POINTS * 1e6)
    return Figure("multiplication", "one multiplication on Curve25519, one core", min(times), "µs", sorted(times)[2])


def _match(count: int) -> list[Figure]:
    job, context = _job(), get_context("spawn")
    ours, theirs = context.Pipe()
    passive = context.Process(target=_passive, args=(theirs, count), name="passive party")
    passive.start()
    theirs.close()  # so that the other's end is seen
    meeting = Meeting(job, shared_part(job), lambda event: None)
    with Matching(_ids(0, count), KEY) as own, meeting.open("127.0.0.1:0", ours.send, None):
        ours.recv()  # the other has its ids, too
        began, used = time.perf_counter(), _processor()
        matched = serve(meeting, {"train": own}, job.vertical.passive)["train"]
        there: Matched = ours.recv()
        seconds = time.perf_counter() - began
    used = ours.recv() + _processor() - used
    passive.join()
    if matched.digest != there.digest or len(matched.rows) != count - count // 2:
        raise BenchError(f"{len(matched.rows)} of {count} ids are common, or not the same at both sides")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    what = f"{count:,} ids at each side"
    return [
        Figure(f"{count}.seconds", f"{what}: time", seconds, "s"),
        Figure(f"{count}.processor", f"{what}: seconds of the processor, both sides", used, "s"),
        Figure(
            f"{count}.bytes", f"{what}: bytes both ways, by the ids of both sides", meeting.bytes / (2 * count), "B"
        ),
        Figure(f"{count}.memory", f"{what}: most memory of the active party's process", memory, "MiB"),
    ]


def _processor() -> float:
    """Return the seconds that this process and those that it has ended have had of the processor."""
    return sum(
        u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _passive(pipe: Connection, count: int) -> None:
    job = _job()
    hello = Hello(job.name, "guest", secrets.token_hex(8), 0, to="party", shared=shared_part(job))
    with (
        Matching(_ids(count // 2, count), KEY) as own,
        closing(Channel(pipe.recv(), hello, limits_of(job), 60.0, None, "host")) as channel,
    ):
        channel.welcome.result()
        used = _processor()
        pipe.send(True)
        line = Line(channel, job.vertical)
        with line.at_work():
            pipe.send(find(line, {"train": own})["train"])
    pipe.send(_processor() - used)


def _ids(first: int, count: int) -> list[bytes]:
    return [identity([f"customer-{number:09d}"]) for number in range(first, first + count)]


def _job() -> VerticalJob:
    party = {"data": "none.csv", "features": {"number": {"kind": "number"}}}
    vertical = {"active": "host", "passive": ["guest"]}
    return VerticalJob.model_validate(
        {"name": "bench", "folder": Path(), "vertical": vertical, "parties": {"host": party, "guest": party}}
    )
