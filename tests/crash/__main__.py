"""`python -m tests.crash`: a small job, its roles killed at each durable call of the system, and each call failed.

What is expected of each: the run comes to the same model and private tables, to the bit, by itself, after the role that
died was started again as before, or after one that said in words what is wrong was.
"""

import argparse
import collections
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.roles import KILL, Call, Fault, why_not
from tests.crash.runs import Outcome, Run, judge, write_job

TWIN = "worker-1"  # plays the part of another


def main() -> None:
    """Run what the command line asks for; exit with 1 if a fault did what it may not."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--every", type=int, default=1, metavar="K", help="every K-th fault alone")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="from the N-th on")
    parser.add_argument("--role", default="", help="only of roles whose name begins so")
    parser.add_argument("--only", nargs="+", default=[], metavar="FAULT", help="these, as the table names them")
    parser.add_argument("--list", action="store_true", help="list the calls, and end")
    parser.add_argument("--keep", type=Path, help="folder for the runs, which stay")
    args = parser.parse_args()
    if why := why_not():
        sys.exit(f"skipped: {why}")
    with tempfile.TemporaryDirectory(prefix="fedps-crash-") as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        job = write_job(folder)
        calm = Run(job, folder / "calm")
        calls = calm.calm()
        faults = [Fault.named(name) for name in args.only] or faults_of([call for call in calls if call.role != TWIN])[
            args.first :: args.every
        ]
        faults = [fault for fault in faults if fault.call.role.startswith(args.role)]
        if args.list:
            print(*calls, sep="\n")
        else:
            outcomes = [play(job, folder, fault, calm.folder) for fault in faults]
            print(table(calls, outcomes))
            sys.exit(not all(outcome.good for outcome in outcomes))


def faults_of(calls: list[Call]) -> list[Fault]:
    """Return all faults: each call's role killed before it, and the call failed once for each reason, and for long."""
    once = [Fault(call, kind) for call in calls for kind in (KILL, "ENOSPC", "EIO")]
    lasting = [Fault(call, "ENOSPC", lasting=True) for call in calls if "write" in call.name]
    return once + lasting


def play(job: Path, folder: Path, fault: Fault, calm: Path) -> Outcome:
    """Run the job under a fault, and say what came of it."""
    began, run = time.monotonic(), Run(job, folder / "case")
    outcome = judge(run, fault, run.disturbed(fault), calm)
    print(f"{fault}: {outcome.kind} ({time.monotonic() - began:.1f} s)", flush=True)
    if not outcome.good:
        print(outcome.said, flush=True)
    return outcome


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
