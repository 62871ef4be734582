"""A run as one HTML page with curves: no script, nothing fetched, readable in light and dark."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT, LEFT, BOTTOM = 560, 260, 56, 28  # of a plot, pixels
COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#aa8822",
    "#66ccee",
    "#aa3377",
    "#888888",
    "#0099aa",
    "#cc6600",
    "#7755cc",
)
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
:root {{ color-scheme: light dark }} body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto; padding: 0 1rem }}
.plots {{ display: flex; flex-wrap: wrap; gap: 1rem }} figure {{ margin: 0 }} svg {{ max-width: 100%; height: auto }}
svg text {{ fill: currentColor; font-size: 11px }} .axis {{ stroke: currentColor; opacity: .35 }}
td {{ padding: .15rem 1rem .15rem 0; border-bottom: 1px solid #8884 }} figcaption {{ font-weight: 600 }}
</style><h1>{title}</h1><table>{facts}</table><div class="plots">{plots}</div></html>
"""


def write_report(run_dir: Path) -> Path:
    """Write `report.html` beside a run's `events.jsonl` and `summary.json`; return its path."""
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    progress = [e for e in events if e["event"] == "progress"]
    rounds = summary["rounds"]
    plots = [
        plot("Training loss by worker, over batches", _by_worker(progress, "loss")),
        plot("Training AUC by worker, over batches", _by_worker(progress, "auc")),
        plot("Held-out users, over epochs", {k: _by_epoch(rounds, k) for k in ("hr@10", "ndcg@10")}),
        plot("Held-out AUC, over epochs", {"auc": _by_epoch(rounds, "auc")}),
    ]
    page = PAGE.format(title=html.escape(f"fedps run {run_dir.name}"), facts=_facts(summary), plots="".join(plots))
    path = run_dir / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def plot(title: str, lines: Mapping[str, Points]) -> str:
    """Return a figure with one line a name; points are (x, y)."""
    lines = {name: points for name, points in lines.items() if points}
    every = [p for points in lines.values() for p in points]
    caption = f"<figcaption>{html.escape(title)}</figcaption>"
    if not every:
        return f"<figure>{caption}<p>nothing to show</p></figure>"
    (x0, x1), (y0, y1) = _range([x for x, _ in every]), _range([y for _, y in every])

    def place(x: float, y: float) -> str:
        across = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - 10)
        return f"{across:.1f},{10 + (y1 - y) / (y1 - y0) * (HEIGHT - BOTTOM - 10):.1f}"

    drawn = []
    for k, (name, points) in enumerate(lines.items()):
        colour, path = COLOURS[k % len(COLOURS)], " ".join(place(x, y) for x, y in points)
        drawn.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{path}"/>')
        drawn += [
            f'<circle r="2.5" fill="{colour}" cx="{c[0]}" cy="{c[1]}"/>'
            for p in points[-1:]
            if (c := place(*p).split(","))
        ]
        drawn.append(
            f'<text x="{LEFT + 8 + 90 * (k % 5)}" y="{HEIGHT + 12 + 14 * (k // 5)}" style="fill:{colour}">{html.escape(name)}</text>'
        )
    ticks = "".join(
        f'<text x="{LEFT - 6}" y="{14 + (HEIGHT - BOTTOM - 10) * (1 - t)}" text-anchor="end">{y0 + (y1 - y0) * t:.3g}</text>'
        f'<text x="{LEFT + (WIDTH - LEFT - 10) * t}" y="{HEIGHT - 8}" text-anchor="middle">{x0 + (x1 - x0) * t:.4g}</text>'
        for t in (0, 0.5, 1)
    )
    axes = f'<path class="axis" fill="none" d="M{LEFT},10V{HEIGHT - BOTTOM}H{WIDTH - 10}"/>'
    return f'<figure>{caption}<svg viewBox="0 0 {WIDTH} {HEIGHT + 30}" width="{WIDTH}">{axes}{ticks}{"".join(drawn)}</svg></figure>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _by_worker(progress: Sequence[Mapping[str, Any]], key: str) -> dict[str, list[tuple[float, float]]]:
    lines: dict[str, list[tuple[float, float]]] = {}
    for e in progress:
        lines.setdefault(f"worker {e['id']}", []).append((e["epoch"] * e["batches"] + e["batch"], e[key]))
    return lines


def _by_epoch(rounds: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(r["round"], r[key]) for r in rounds if r[key] is not None]


def _facts(summary: Mapping[str, Any]) -> str:
    rows = []
    for key, value in summary.items():
        if key != "rounds":
            shown = (
                ", ".join(f"{k} {_short(v)}" for k, v in value.items()) if isinstance(value, dict) else _short(value)
            )
            rows.append(f"<tr><td>{html.escape(key)}</td><td>{html.escape(shown)}</td></tr>")
    return "".join(rows)


def _short(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
