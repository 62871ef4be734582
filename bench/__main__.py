"""`python -m bench`: the command."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from bench.suite import run_suite
from bench.writing import aims_table, write_report
from fedps.cli import FAILED, WRONG
from fedps.cli.app import Switch
from fedps.errors import FedpsError

OUT = Path("bench-results")
app = App(name="python -m bench", help_format="plaintext", version_flags=[])


@app.default
def bench(
    *subjects: Annotated[str, Parameter(name="SUBJECT", negative="")],
    out: Path = OUT,
    quick: Annotated[bool, Switch] = False,
    data: Annotated[Path | None, Parameter(show_default=False)] = None,
) -> None:
    """Measure fedps on this machine, and write tables and plots.

    Subjects, all but the last nine if none is named; each is measured in a process of its own:

    job      ten clients, a server and a coordinator train one pass: from the command to its exit

    step     the training step beside plain PyTorch loops, on one core

    table    a server's tables beside numpy and torch, from 10 k to 10 M rows

    wire     pulls through the product's own client beside a bare socket

    scaling  the job with 1 to 20 workers, and with 1 to 4 servers

    rounds   what a round of the coordinator costs beside training

    saves    a server's saves and loads beside copying the same bytes

    stalls   pulls while tables are saved or summed up, and how long it takes to make them anew

    tls      what mutual TLS on every connection costs a job, in each mode; some minutes more

    durability  what it costs that a server's death loses nothing, in each mode; how soon one is back

    size     50 M rows over two servers, and bounded tables under 100 M distinct ids: memory and pauses; some minutes more

    selection  time to a quality for each selector, on the simulated clock of 100 virtual clients; some minutes more

    merges   what the model is worth with each mode and merge, after 2 passes and after 20; an hour more

    ctr      DeepFM and DCN-v2 on clicks in Criteo's form, beside plain PyTorch loops; four workers beside one

    central  networks of features in each mode, beside the same network trained on all data in one place

    vertical  both parties' parts of a vertical network in one process, beside the same network whole

    parties  vertical training of published sets: together over the wire, joined in one place, each side alone; some minutes more

    cut      two parties over a socket, direct and through a relay that takes 20 ms, beside all in one process

    psi      how long two parties take to find the ids that both have, and how many bytes pass; some minutes more

    All of them take about 10 minutes on two cores and 6 GB of memory, --quick under 2 minutes. Leave the machine alone
    meanwhile: anything else that runs is measured too.

    Example: python -m bench --quick

    Example: python -m bench step wire --data .data/ml-1m --out /tmp/bench

    Args:
        subjects: What to measure.
        out: Folder for bench.md (tables, aims first), bench.json and a plot (SVG) of each curve; files of these names
            are replaced.
        quick: Measure less: fewer rounds, smaller tables, fewer samples in async and sync.
        data: Prepared data (fedps data prepare movielens); by default .data/ml-1m, else a synthetic twin.
    """
    report = run_suite(subjects, data, "quick" if quick else "full", Console(stderr=True))
    notes = write_report(report, out)
    print(
        *(aims_table(report.aims) if report.aims else ()), *notes, f"written: {out / 'bench.md'}, bench.json", sep="\n"
    )
    if report.failed:
        raise SystemExit(FAILED)


if __name__ == "__main__":
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
    except (CycloptsError, FedpsError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG)
