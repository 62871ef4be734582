"""Three organisations train one model: `make organisations`, as docs/guides/three-organisations.md tells it.

Three clients, two servers and a coordinator live in network namespaces of their own, with slow wires that lose packets
between them; one client is behind a gateway. All talk by mutual TLS. On the way a client's and a server's certificates
are renewed, and a server is killed and started again. Beside it the same job runs on this machine's loopback.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.organisations.network import Network, NoNetworkError, Wire

ROOT = Path(__file__).parents[2]
JOB = ROOT / "examples" / "three_organisations.yaml"
FEDPS = (sys.executable, "-m", "fedps")
CLIENTS = {"north": "0", "south": "1", "home": "2"}  # and whose samples of the prepared data each has
HUB = ("server-0", "server-1", "coordinator-0")
WIRE = Wire(delay=10, rate=20, loss=0.01)  # 40 ms from one organisation to another and back
PORT = 10_000
LONGEST = 1800.0  # seconds


class Federation:
    """The organisations' processes, each with a folder of its own below `home`.

    Args:
        network: in which they live.
        home: a folder.
        data: prepared data of three clients.
    """

    def __init__(self, network: Network, home: Path, data: Path) -> None:
        self._network, self._home, self._authority = network, home, home / "authority"
        self.running = dict[str, subprocess.Popen[bytes]]()
        servers = ",".join(f"{network.address(name)}:{PORT}" for name in HUB[:2])
        everybody = ["--servers", servers, "--worker_num", "3", "--certs", "certs", "--run_dir", "run"]
        coordinator = ["--coordinators", f"{network.address(HUB[2])}:{PORT}"]
        self._commands = {
            "server-0": ["server", "job.yaml", "--shard", "0", *everybody],
            "server-1": ["server", "job.yaml", "--shard", "1", *everybody],
            "coordinator-0": ["coordinator", "job.yaml", *coordinator, *everybody[2:]],
            **{name: ["worker", "job.yaml", "--client", name, *everybody, *coordinator] for name in CLIENTS},
        }
        self._certify()
        for name in (*HUB, *CLIENTS):
            write_job(home / name)
            self.bring(name)
        for name in CLIENTS:
            share(data, home / name / "data", name)

    def bring(self, name: str) -> None:
        """Copy what the authority issued to a role's own folder, file by file, the certificate last."""
        issued = self._authority / "issued" / (name if name in HUB else f"client-{name}")
        (self._home / name / "certs").mkdir(exist_ok=True)
        for file in ("ca.pem", "revoked.pem", "key.pem", "cert.pem"):
            part = self._home / name / "certs" / f".{file}"
            shutil.copy(issued / file, part)
            part.replace(part.with_name(file))

    def renew(self, name: str) -> None:
        """Renew a role's certificate while it runs."""
        role, _, number = name.partition("-")
        who = (role, number) if number else ("client", name)
        self._certs("renew", *who)
        self.bring(name)

    def start(self, name: str) -> None:
        """Start a role, as its organisation would."""
        log = (self._home / name / "log").open("ab")
        command = self._network.inside(name, [*FEDPS, *self._commands[name]])
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "FEDPS_CACHE": str(self._home / name / "cache")}
        with log:
            self.running[name] = subprocess.Popen(
                command, cwd=self._home / name, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, name: str) -> None:
        """Kill a role, as the worst moment would."""
        os.killpg(self.running[name].pid, signal.SIGKILL)
        self.running.pop(name).wait()

    def end(self) -> None:
        """Kill whoever is left."""
        for name in list(self.running):
            if self.running[name].poll() is None:
                self.kill(name)

    def events(self, name: str, kind: str) -> int:
        """Return how many events of a kind a role has written."""
        files = (self._home / name / "run").glob("events-*.jsonl")
        return sum(f'"event":"{kind}"' in line.replace(" ", "") for f in files for line in f.read_text().splitlines())

    def summary(self) -> dict[str, Any]:
        """Return the run's `summary.json`, which the coordinator wrote."""
        found: dict[str, Any] = json.loads((self._home / "coordinator-0" / "run" / "summary.json").read_text())
        return found

    def _certify(self) -> None:
        subprocess.run([*FEDPS, "certs", "init", str(self._authority)], check=True, stdout=subprocess.DEVNULL)
        self._certs("issue", "server", "0", "1")
        self._certs("issue", "coordinator", "0")
        self._certs("issue", "client", *CLIENTS)

    def _certs(self, verb: str, *words: str) -> None:
        command = [*FEDPS, "certs", verb, *words, "--dir", str(self._authority)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def write_job(folder: Path) -> Path:
    """Write the job file to a folder, where its data lies below `data`."""
    folder.mkdir(exist_ok=True)
    job = folder / "job.yaml"
    job.write_text(JOB.read_text(encoding="utf-8").replace("../.data/ml-1m-3", "data"), encoding="utf-8")
    return job


def share(data: Path, to: Path, *names: str) -> None:
    """Copy the samples of some clients out of prepared data, each under the name that it has here."""
    for part in ("train", "test"):
        (to / part).mkdir(parents=True)
        for name in names:
            for file in (data / part).glob(f"{CLIENTS[name]}.*"):
                shutil.copy(file, to / part / f"{name}{file.suffix}")


def train(federation: Federation, say: Callable[[str], None]) -> float:
    """Let all train to the end; return seconds from the workers' start to their end."""
    for name in HUB:
        federation.start(name)
    began = time.monotonic()
    for name in CLIENTS:
        federation.start(name)
    wait(federation, lambda: federation.events("north", "epoch_end") >= 1)
    for name in ("north", "server-0"):
        federation.renew(name)
        say(f"{time.monotonic() - began:5.1f} s: the certificate of {name} was renewed")
    wait(federation, lambda: federation.events("north", "epoch_end") >= 2)
    federation.kill("server-1")
    federation.start("server-1")
    say(f"{time.monotonic() - began:5.1f} s: server 1 was killed, and started again")
    wait(federation, lambda: all(federation.running[name].poll() is not None for name in CLIENTS))
    taken = time.monotonic() - began
    wait(federation, lambda: all(process.poll() is not None for process in federation.running.values()))
    return taken


def wait(federation: Federation, until: Callable[[], bool]) -> None:
    """Wait; whoever fails ends it all."""
    limit = time.monotonic() + LONGEST
    while not until():
        failed = [name for name, process in federation.running.items() if process.poll()]
        if failed or time.monotonic() > limit:
            raise SystemExit(f"failed: {', '.join(failed) or 'it takes too long'}; see its log")
        time.sleep(0.1)


def calm(job: Path, out: Path) -> tuple[float, dict[str, Any]]:
    """Run the same job on the loopback, in the clear; return its seconds and its summary."""
    began = time.monotonic()
    command = [*FEDPS, "run", str(job), "--run_dir", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    taken = time.monotonic() - began
    return taken, json.loads((out / "summary.json").read_text())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both, and print how they compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="prepared data of three clients, named 0, 1 and 2")
    parser.add_argument("--out", type=Path, required=True, help="a folder to make")
    given = parser.parse_args(arguments)
    out: Path = given.out.resolve()
    out.mkdir(parents=True)
    share(given.data, out / "data", *CLIENTS)
    job = write_job(out)
    network = Network("fedps", WIRE)
    with ExitStack() as stack:
        try:
            stack.enter_context(network.up([*HUB, *CLIENTS], behind=["home"]))
        except NoNetworkError as error:
            raise SystemExit(f"no network can be made: {error}") from None
        print("on the loopback, in the clear …", flush=True)
        loopback, at_home = calm(job, out / "loopback")
        print(f"{loopback:5.1f} s\nthree organisations …", flush=True)
        federation = Federation(network, out, given.data)
        stack.callback(federation.end)
        taken = train(federation, lambda line: print(line, flush=True))
        dropped = network.dropped()
    apart = federation.summary()
    print(
        f"\n| | loopback, in the clear | three organisations |\n| --- | ---: | ---: |\n"
        f"| seconds | {loopback:.1f} | {taken:.1f} ({taken / loopback:.2f} times) |\n"
        f"| HR@10 | {at_home['metrics']['hr@10']:.4f} | {apart['metrics']['hr@10']:.4f} |\n"
        f"| packets lost | 0 | {dropped:,} |"
    )
    if apart["status"] != "ok":
        raise SystemExit(f"the run's status is {apart['status']!r}")


if __name__ == "__main__":
    main()
