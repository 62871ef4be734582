"""Floods of connections and of names, beside a client that is served all the while: `-s` shows how long it waits."""

import asyncio
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from fedps.net.listener import METHOD
from fedps.wire.frame import decode, encode
from fedps.wire.messages import Refused, Welcome
from tests.greeting import hello
from tests.net.crowd import LIMITS, WAIT, Active, Place

NAMES, RATE, SECONDS = 4096, 5000, 10
# Connections at a rate, each reset at once, or after some bytes that are neither HTTP/2 nor TLS; it prints how many it made.
FLOOD = """
import random, socket, struct, sys, time
host, port, rate, seconds = sys.argv[1], *map(int, sys.argv[2:])
rng, began, due, made = random.Random(1), time.monotonic(), 0, 0
while (passed := time.monotonic() - began) < seconds:
    while due < passed * rate and time.monotonic() - began < seconds:
        due += 1
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.settimeout(5)
            try:
                peer.connect((host, port))
                peer.sendall(rng.randbytes(rng.choice((0, 0, 0, 9, 99))))
                made += 1
            except OSError:
                pass
    time.sleep(0.001)
print(made)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_an_honest_client_is_served_beside_a_flood_of_connections_and_one_of_invented_names(
    tls: bool, tmp_path: Path
) -> None:
    with closing(Place(tmp_path, tls, clients=2)) as place, closing(place.client("honest")) as honest:
        said = {"alone": [honest.turn(0) for _ in range(200)]}
        with working(honest) as said["flood"]:
            host, _, port = place.address.partition(":")
            command = [sys.executable, "-c", FLOOD, host, port, str(RATE), str(SECONDS)]
            made = int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=WAIT).stdout)
        with working(honest) as said["names"]:
            answers = asyncio.run(invent(place))
        honest.turn(0)
    assert made > RATE, "seconds of it, on however slow a machine"
    # A certificate speaks in its own name alone; in the clear names are free, and those that take no part make room.
    assert answers == {Refused if tls else Welcome: NAMES}
    refused = [event for line in place.told if (event := json.loads(line))["event"] == "refused"]
    assert sum(event["count"] for event in refused if event["client"] == "client mallory") == NAMES * tls
    joined = [event["client"] for line in place.told if (event := json.loads(line))["event"] == "joined"]
    assert joined == ["honest"]
    for what, seconds in said.items():
        p50, p99 = 1000 * np.percentile(seconds, [50, 99])
        print(f"{'tls' if tls else 'clear'}, {what}: p50 {p50:.1f} ms, p99 {p99:.1f} ms of {len(seconds)}")
    print(f"{made / SECONDS:,.0f} connections a second")


@contextmanager
def working(client: Active) -> Iterator[list[float]]:
    """Let a client push and pull all the while; yield the seconds that each turn takes. It must be answered right."""
    stop, failed, took = threading.Event(), list[BaseException](), list[float]()

    def work() -> None:
        try:
            while not stop.is_set() or len(took) < 10:
                took.append(client.turn(0))
        except BaseException as error:
            failed.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield took
    finally:
        stop.set()
        worker.join()
        if failed:
            raise failed[0]


async def invent(place: Place) -> Counter[type]:
    """Greet in so many names, each on a stream of its own that stays; return how many were answered what."""
    found, calls = Counter[type](), []
    async with place.dial("mallory") as channel:
        for number in range(NAMES):
            calls.append(call := channel.stream_stream(METHOD)())
            await call.write(encode(1, hello(place.job, f"invented {number}")))
            found[type(decode(await call.read(), LIMITS).message)] += 1
        for call in calls:
            call.cancel()
    return found
