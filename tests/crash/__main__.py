"""`python -m tests.crash`: a small job, its roles killed at each durable call of the system, and each call failed.

What is expected of each: the run comes to the same model and private tables, to the bit, by itself, after the role that
died was started again as before, or after one that said in words what is wrong was.
"""

import argparse
import collections
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from fedps.events.journal import JOURNAL, read_journal
from tests.crash.roles import KILL, Call, Fault, fork_all, why_not
from tests.crash.runs import Apart, Launched, Outcome, Run, judge, write_job

TWIN = "worker-1"  # plays the part of another


def main() -> None:
    """Run what the command line asks for; exit with 1 if a fault did what it may not."""
    fork_all()
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--every", type=int, default=1, metavar="K", help="every K-th fault alone")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="from the N-th on")
    parser.add_argument("--role", default="", help="only of roles whose name begins so")
    parser.add_argument("--only", nargs="+", default=[], metavar="FAULT", help="these, as the table names them")
    parser.add_argument("--beside", type=int, default=2, metavar="N", help="so many faults at a time")
    parser.add_argument(
        "--slow", type=float, default=1.0, metavar="K", help="all limits of time K-fold, on a busy machine"
    )
    parser.add_argument("--list", action="store_true", help="list the calls, and end")
    parser.add_argument("--keep", type=Path, help="folder for the runs, which stay")
    args = parser.parse_args()
    if why := why_not():
        sys.exit(f"skipped: {why}")
    with tempfile.TemporaryDirectory(prefix="fedps-crash-") as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder, args.slow)
        faults = [Fault.named(name) for name in args.only] or faults_of(bench.calls)[args.first :: args.every]
        faults = [fault for fault in faults if fault.call.role.startswith(args.role)]
        if args.list:
            print(*bench.calls, sep="\n")
        else:
            with ProcessPoolExecutor(args.beside, multiprocessing.get_context("fork")) as pool:
                outcomes = list(pool.map(bench.play, faults))
            print(table(bench.calls, outcomes))
            sys.exit(not all(outcome.good for outcome in outcomes))


class Bench:
    """A job that was run once in calm, each way: with roles started apart, by a launcher, and resumed.

    Args:
        folder: for all.
        slow: by what all limits of time are multiplied.

    Attributes:
        calls: all durable calls that were made.
    """

    def __init__(self, folder: Path, slow: float) -> None:
        self._folder, self._job = folder, write_job(folder, slow)
        Run.patience *= slow
        self._broken = folder / "broken"
        apart, launched = (way(self._job, folder / f"calm-{way.__name__.lower()}") for way in (Apart, Launched))
        self.calls = [call for call in apart.calm() if call.role != TWIN] + launched.calm()
        self._calm = {Apart: apart.folder, Launched: launched.folder}
        self._break_off()
        resumed = Launched(self._job, folder / "calm-resumed", self._broken)
        self.calls += resumed.calm()

    def play(self, fault: Fault) -> Outcome:
        """Run the job under a fault, and say what came of it."""
        began, folder = time.monotonic(), self._folder / f"case-{os.getpid()}"
        role = fault.call.role
        broken = self._broken if role == "resumed" else None
        run = Launched(self._job, folder, broken) if broken or role == "launcher" else Apart(self._job, folder)
        outcome = judge(run, fault, run.disturbed(fault), self._calm[type(run)])
        print(f"{fault}: {outcome.kind} ({time.monotonic() - began:.1f} s)", flush=True)
        if not outcome.good:
            print(outcome.said, flush=True)
            run.folder.rename(self._folder / f"bad-{str(fault).replace('/', '_')}")  # to look at
        return outcome

    def _break_off(self) -> None:
        """Make a run whose launcher has died after training began."""
        entries = read_journal(self._calm[Launched] / "launcher" / JOURNAL)
        begun = next(k for k, entry in enumerate(entries, 1) if entry["event"] == "epoch_begin")
        run = Launched(self._job, self._folder / "breaking")
        run.disturbed(Fault(Call("launcher", JOURNAL, "write", begun), KILL), lives=1)
        (run.folder / "launcher").rename(self._broken)


def faults_of(calls: list[Call]) -> list[Fault]:
    """Return all faults: each call's role killed before it, and the call failed once for each reason, and for long."""
    once = [Fault(call, kind) for kind in (KILL, "ENOSPC", "EIO") for call in calls]
    lasting = [Fault(call, "ENOSPC", lasting=True) for call in calls if "write" in call.name]
    return once + lasting


def table(calls: list[Call], outcomes: list[Outcome]) -> str:
    """Return how many faults came to what."""
    roles = sorted({call.role for call in calls})
    lines = [
        f"{len(calls)} durable calls: {', '.join(f'{sum(c.role == role for c in calls)} of {role}' for role in roles)}"
    ]
    counts = collections.Counter((str(o.fault.kind) + "+" * o.fault.lasting, o.kind) for o in outcomes)
    lines += [f"{kind:8} {outcome:40} {count}" for (kind, outcome), count in sorted(counts.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
