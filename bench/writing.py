"""A report as files: `bench.json` for programs, `bench.md` for people, and a plot for each curve."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.aims import Judged
from bench.plots import draw
from bench.records import Result
from bench.suite import Report

DIGITS = 4  # of a value in the JSON; more is noise
NO_PLOTS = "No plots: matplotlib is not installed (`pip install 'fedps[bench]'` brings it)."


def write_report(report: Report, out: Path) -> list[str]:
    """Write all files into a folder, made if it is not there; return what a reader should be told.

    Args:
        report: the suite's.
        out: the folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    plain = _rounded(msgspec.to_builtins(report))
    (out / "bench.json").write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    curves = [curve for result in report.results.values() for curve in result.curves]
    drawn = draw(curves, out)
    (out / "bench.md").write_text(as_markdown(report, plots=drawn), encoding="utf-8")
    return [] if drawn or not curves else [NO_PLOTS]


def as_markdown(report: Report, plots: bool) -> str:
    """Return the tables: aims first, then a section a subject.

    Args:
        report: the suite's.
        plots: whether to show the plots beside them.
    """
    lines = ["# Measured", "", *_head(report), ""]
    lines += ["## Aims", "", *aims_table(report.aims), ""] if report.aims else []
    for result in report.results.values():
        lines += _section(result, plots)
    lines += [f"**{name} failed**: {why}" for name, why in report.failed.items()]
    return "\n".join(lines).rstrip() + "\n"


def aims_table(aims: tuple[Judged, ...]) -> list[str]:
    """Return the lines of a table of aims: value, ratio (how many times as good as due), met or missed."""
    rows = []
    for aim in aims:
        value, ratio = (_shown(aim.value, aim.unit), f"{aim.ratio or 0:.2f}") if aim.value is not None else ("–", "–")
        word = {True: "met", False: "**missed**", None: "not measured"}[aim.met]
        rows.append((aim.what, _shown(aim.due, aim.unit), value, ratio, word))
    return _table(("aim", "due", "measured", "times as good", ""), rows)


def _head(report: Report) -> Iterator[str]:
    facts, data = report.machine, report.data
    yield (
        f"{facts['processor']}, {facts['cores']} cores (load at the start: {facts['load']}), {facts['memory']}, {facts['system']}; "
        + ", ".join(
            f"{name} {value}"
            for name, value in facts.items()
            if name not in ("processor", "cores", "load", "memory", "system")
        )
    )
    yield ""
    yield (
        f"Data: {data['source']}, {data['clients']} clients, {data['users']:,} users, {data['items']:,} items,"
        f" {data['samples']:,} samples.{' **SYNTHETIC: its figures say nothing of MovieLens.**' * data['synthetic']}"
    )
    yield f"Size: {report.size}; it took {report.seconds:.0f} s."


def _section(result: Result, plots: bool) -> list[str]:
    lines = [f"## {result.subject}", "", result.about, ""]
    for sheet in result.sheets:
        lines += [f"{sheet.title}:", "", *_table(sheet.head, sheet.rows), ""]
    if not result.sheets:
        lines += _figures(result)
    lines += [line for note in result.notes for line in ("", note)]
    for curve in result.curves if plots else ():
        lines += ["", f"![{curve.title}]({curve.key}.svg)"]
    return [*lines, ""]


def _figures(result: Result) -> list[str]:
    rows = []
    for figure in result.figures:
        ratio = result.ratio(figure)
        rows.append(
            (
                figure.what,
                _shown(figure.value, figure.unit),
                "" if figure.median is None else _number(figure.median),
                "" if ratio is None else f"{ratio:.2f}",
            )
        )
    return _table(("", "measured", "median", "fedps is … times as good"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return a table's lines, without columns that are empty throughout."""
    shown = [k for k in range(len(head)) if any(cells[k] for cells in rows)]
    lines = [head, ("---",) * len(head), *rows]
    return [f"| {' | '.join(cells[k] for k in shown)} |" for cells in lines]


def _shown(value: float, unit: str) -> str:
    return f"{_number(value)} {unit}"


def _number(value: float) -> str:
    """Return a number with 3 digits that count: 2,180,000 or 0.517."""
    short = float(f"{value:.3g}")
    return f"{short:,.0f}" if abs(short) >= 100 else f"{short:g}"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
