"""`fedps runs` and `fedps compare`: what runs there are, and some of them side by side."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from fedps.cli.app import AsJson, PastRun, app, flag, note
from fedps.errors import JobError

if TYPE_CHECKING:
    from fedps.events.past import Past

FIGURES = 2  # of held-out samples, that have room in a line


@app.command
def runs(
    folder: Annotated[Path, Parameter(help="The folder that holds the runs' folders.")] = Path("runs"),
    *,
    as_json: AsJson = False,
) -> None:
    """List the runs in a folder, the newest first: what each is, how it ended, and what came of it.

    Example: fedps runs
    """
    from fedps.events.past import look_at  # noqa: PLC0415
    from fedps.launch.folder import runs_in  # noqa: PLC0415

    if not folder.is_dir() and folder != Path("runs"):
        raise JobError(f"{folder}: there is no such folder; name one that holds runs")
    found = [look_at(run) for run in runs_in(folder)]
    if as_json:
        print(json.dumps([_facts(past) for past in found]))
    elif found:
        print(aligned([["run", "started", "model", "mode", "status", "epochs", "", "time"], *map(_row, found)]))
    else:
        print(f"no run is in {folder.resolve()} yet; `fedps run JOB.yaml` makes one")


@app.command
def compare(
    *run_dirs: PastRun,
    out: Annotated[Path | None, flag("out", "Write a page there, with curves over epochs (HTML).")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs: their figures, the best in each line marked by *, and what their jobs say differently.

    Example: fedps compare runs/films-... latest --out compare.html
    """
    from fedps.events.past import look_at  # noqa: PLC0415
    from fedps.launch.folder import is_run  # noqa: PLC0415
    from fedps.pages.compare import Comparison, said  # noqa: PLC0415

    if len(run_dirs) < 2:
        raise JobError("name two runs or more, by their folders, or `latest`; `fedps runs` lists them")
    if strange := [str(folder) for folder in run_dirs if not is_run(folder)]:
        raise JobError([f"{folder}: is no run's folder; `fedps runs` lists the runs there are" for folder in strange])
    comparison = Comparison([look_at(folder) for folder in run_dirs])
    if as_json:
        facts = [_facts(past) for past in comparison.runs]
        print(json.dumps({"runs": facts, "differences": comparison.differences()}))
    else:
        for text in comparison.remarks():
            note(text)
        rows = [
            [row.name, *(f"{cell}{' *' * (k in row.best)}" for k, cell in enumerate(row.cells))]
            for row in comparison.rows()
        ]
        differing = [[key, *map(said, values)] for key, values in comparison.differences().items()]
        print(aligned([["", *comparison.names], *rows, *differing]))
    if out is not None:
        try:
            comparison.write_page(out)
        except OSError as error:
            raise JobError(f"--out {out}: cannot be written: {error.strerror}; choose another") from error
        if not as_json:
            print(f"written to {out}")


def _facts(past: "Past") -> dict[str, Any]:
    return {
        "run": past.folder.name,
        "folder": str(past.folder.resolve()),
        "started": past.began,
        "job": past.job.get("name"),
        "model": past.model or None,
        "mode": past.mode,
        "clients": past.said("runner", "worker_num"),
        "status": past.status,
        "error": past.error or None,
        "epochs": past.epochs,
        "epochs_of_job": past.due,
        "metrics": past.metrics,
        "wall_seconds": past.summary.get("wall_seconds"),
    }


def _row(past: "Past") -> list[str]:
    from fedps.pages.words import in_words  # noqa: PLC0415

    due, wall = past.due, past.summary.get("wall_seconds")
    figures = list(in_words(past.metrics).items())[:FIGURES]
    return [
        past.folder.name,
        time.strftime("%Y-%m-%d %H:%M", time.localtime(past.began)),
        past.model,
        past.mode or "",
        past.status,
        f"{past.epochs}/{due}" if due else str(past.epochs),
        ", ".join(f"{title} {value}" for title, value in figures),
        f"{wall:,.0f} s" if wall is not None else "",
    ]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines with their columns below one another."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
