"""A small internet on one machine: each organisation has a network namespace of its own, and a slow wire to a router.

    north ──wire── ┐                                ┌ ──wire── south
    home ── gateway ──wire──  router (loses some)  ─┤ ──wire── …
                   (NAT)

A wire has a delay (`relay`), and a rate in each direction (`tc tbf`); the router drops some packets (nftables). One that
is behind a gateway has a private address, and the others see the gateway's. Nobody sees the machine's own network. It
takes root, iproute2 and nftables.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
QUEUE = "100ms"  # of a wire's end: what would wait longer is lost
LEAST_BURST = 16  # KiB that may leave at once


class NoNetworkError(Exception):
    """This machine, or this user, cannot make network namespaces."""


@dataclass(frozen=True)
class Wire:
    """How organisations are connected to the router.

    Args:
        delay: milliseconds in one direction, of one wire; a packet to another organisation takes two.
        rate: Mbit/s in each direction.
        loss: share of packets that the router drops.
    """

    delay: float
    rate: float
    loss: float


class Network:
    """Namespaces by the names of those who live there.

    Args:
        prefix: of the names of namespaces, so that two networks may stand beside each other.
        wire: what connects each with the router.
    """

    def __init__(self, prefix: str, wire: Wire) -> None:
        self._prefix, self._wire = prefix, wire
        self._numbers = dict[str, int]()

    def address(self, name: str) -> str:
        """Return where an organisation is reached, if it is not behind a gateway."""
        return f"10.77.{self._numbers[name]}.2"

    def inside(self, name: str, command: Sequence[str]) -> list[str]:
        """Return a command that runs in an organisation's namespace."""
        return ["ip", "netns", "exec", self._space(name), *command]

    def dropped(self) -> int:
        """Return how many packets the router has dropped."""
        words = _do(*self.inside("router", ["nft", "list", "chain", "ip", "internet", "lossy"])).split()
        return int(words[words.index("packets") + 1])

    @contextmanager
    def up(self, names: Sequence[str], behind: Sequence[str] = ()) -> Iterator[None]:
        """Build it, and take it down at the end.

        Args:
            names: organisations.
            behind: those of them that are behind a gateway.

        Raises:
            NoNetworkError: it cannot be built.
        """
        check_possible()
        self._numbers = {name: number for number, name in enumerate(names, 1)}
        ends = {name: (f"{self._prefix}{k}a", f"{self._prefix}{k}b") for name, k in self._numbers.items()}
        with ExitStack() as stack:
            stack.enter_context(_relay(self._wire.delay, list(ends.values())))
            self._add("router", stack)
            for name in names:
                self._add(name, stack)
                self._connect(name, *ends[name], name in behind, stack)
            _in(self._space("router"), "sysctl", "-qw", "net.ipv4.ip_forward=1")
            share = round(self._wire.loss * 10_000)
            self._rule(
                "router",
                "chain lossy { type filter hook forward priority 0;"
                + (f" numgen random mod 10000 < {share} counter drop;" if share else " counter;")
                + " }",
            )
            yield

    def _connect(self, name: str, own: str, routers: str, gateway: bool, stack: ExitStack) -> None:
        """Lay the wire of an organisation, or of its gateway."""
        space, net = self._space(name), f"10.77.{self._numbers[name]}"
        if gateway:
            self._add(f"{name}-gateway", stack)
            space = self._space(f"{name}-gateway")
        for device, there, address in ((own, space, f"{net}.2/24"), (routers, self._space("router"), f"{net}.1/24")):
            _do("ip", "link", "set", device, "netns", there)
            _do("ip", "-n", there, "address", "add", address, "dev", device)
            _do("ip", "-n", there, "link", "set", device, "up")
            burst = f"{max(LEAST_BURST, int(self._wire.rate))}kb"
            rate = f"{self._wire.rate:g}mbit"
            _in(
                there,
                "tc",
                "qdisc",
                "add",
                "dev",
                device,
                "root",
                "tbf",
                "rate",
                rate,
                "burst",
                burst,
                "latency",
                QUEUE,
            )
        _do("ip", "-n", space, "route", "add", "default", "via", f"{net}.1")
        if gateway:
            self._hide(name, space, own)

    def _hide(self, name: str, gateway: str, wire: str) -> None:
        """Put an organisation behind its gateway, by which alone it reaches others."""
        inner, outer = f"{wire}i", f"{wire}o"
        _do(
            "ip",
            "link",
            "add",
            inner,
            "netns",
            self._space(name),
            "type",
            "veth",
            "peer",
            "name",
            outer,
            "netns",
            gateway,
        )
        for space, device, address in (
            (self._space(name), inner, "192.168.7.2/24"),
            (gateway, outer, "192.168.7.1/24"),
        ):
            _do("ip", "-n", space, "address", "add", address, "dev", device)
            _do("ip", "-n", space, "link", "set", device, "up")
        _do("ip", "-n", self._space(name), "route", "add", "default", "via", "192.168.7.1")
        _in(gateway, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self._rule(
            f"{name}-gateway", f'chain hide {{ type nat hook postrouting priority 100; oifname "{wire}" masquerade; }}'
        )

    def _add(self, name: str, stack: ExitStack) -> None:
        space = self._space(name)
        _do("ip", "netns", "add", space)
        stack.callback(subprocess.run, ["ip", "netns", "delete", space], check=False)
        _do("ip", "-n", space, "link", "set", "lo", "up")

    def _rule(self, name: str, chain: str) -> None:
        _do(*self.inside(name, ["nft", f"table ip internet {{ {chain}\n}}"]))

    def _space(self, name: str) -> str:
        return f"{self._prefix}-{name}"


def check_possible() -> None:
    """Raise NoNetworkError, with the remedy, where namespaces cannot be made."""
    if os.geteuid():
        raise NoNetworkError("network namespaces take root: sudo make organisations")
    if missing := [tool for tool in ("ip", "tc", "nft", "sysctl") if shutil.which(tool) is None]:
        raise NoNetworkError(f"{', '.join(missing)}: not installed; apt-get install iproute2 nftables procps")
    if not Path("/dev/net/tun").exists():
        raise NoNetworkError("/dev/net/tun: this kernel, or this container, has none")


@contextmanager
def _relay(delay: float, wires: Sequence[tuple[str, str]]) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.organisations.relay", f"{delay:g}", *(f"{a}:{b}" for a, b in wires)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as relay:
        assert relay.stdout is not None
        if relay.stdout.readline() != "ready\n":
            raise NoNetworkError("the relay did not start; its error stands above")
        try:
            yield
        finally:
            relay.communicate()  # closes its standard input, so it ends


def _in(space: str, *command: str) -> str:
    return _do("ip", "netns", "exec", space, *command)


def _do(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise NoNetworkError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
