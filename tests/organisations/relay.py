"""Long wires: what enters one end of a wire leaves the other some time later, packet by packet.

A process of its own, which makes a TUN device for each end and lives until its standard input is closed, taking them with
it. What a kernel without netem lacks is only the delay; bandwidth is `tc`'s work, and losses are nftables'.

    python -m tests.organisations.relay 10 one:other …        delay in milliseconds, then the two devices of each wire
"""

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

TUN, SET, FLAGS = "/dev/net/tun", 0x400454CA, 0x0001 | 0x1000  # TUNSETIFF; IFF_TUN, IFF_NO_PI
PACKET = 65536  # bytes that a read takes at most
WAITING = 4096  # packets of a wire that may be under way in one direction; what comes then is lost


def main(delay: float, wires: list[tuple[str, str]]) -> None:
    """Carry packets until standard input is closed.

    Args:
        delay: seconds that each takes.
        wires: the names of both ends of each.
    """
    other = dict[int, int]()  # the end to which what comes from an end goes
    for names in wires:
        one, two = (_open(name) for name in names)
        other |= {one: two, two: one}
    under_way = deque[
        tuple[float, int, bytes]
    ]()  # when it is due, where, and the packet; all take as long, so in order
    poll = select.poll()
    for end in (*other, sys.stdin.fileno()):
        poll.register(end, select.POLLIN)
    print("ready", flush=True)
    while True:
        due = under_way[0][0] - time.monotonic() if under_way else 3600.0
        for end, _ in poll.poll(max(due * 1e3, 0)):
            if end not in other:
                return
            under_way.extend((time.monotonic() + delay, other[end], packet) for packet in _packets(end))
        while under_way and under_way[0][0] <= time.monotonic():
            _, end, packet = under_way.popleft()
            try:
                os.write(end, packet)
            except OSError:
                continue  # the device is not up: the packet is lost, as others are


def _open(name: str) -> int:
    end = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, SET, struct.pack("16sH", name.encode(), FLAGS))
    return end


def _packets(end: int) -> list[bytes]:
    packets = list[bytes]()
    while len(packets) < WAITING:
        try:
            packets.append(os.read(end, PACKET))
        except OSError:  # there is none left, or the device is down
            break
    return packets


if __name__ == "__main__":
    main(float(sys.argv[1]) / 1e3, [(one, two) for one, _, two in (wire.partition(":") for wire in sys.argv[2:])])
