"""A run as one HTML page with curves: no script, nothing fetched, readable in light and dark."""

import html
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedps.events.journal import JOURNAL, read_journal
from fedps.figures import metrics_in
from fedps.storage.whole import PUBLIC, write_whole

Points = Sequence[tuple[float, float]]
Record = Mapping[str, Any]
WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM = 560, 260, 56, 24, 28  # of a plot, pixels
COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa8822", "#66ccee", "#aa3377", "#888888", "#0099aa", "#cc6600", "#7755cc")
LAST = ("auc", "loss", "train_auc")  # figures that people read after the others
NAMED_TABLES = 8  # as many are told apart in a few words
MOST_CLIENTS = 500  # that have a line in the report
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
:root {{ color-scheme: light dark }} body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto; padding: 0 1rem }}
h1 {{ font-size: 1.5rem }} table {{ border-collapse: collapse; margin-bottom: 1.5rem }}
.plots {{ display: flex; flex-wrap: wrap; gap: 1rem }} figure {{ margin: 0 }} svg {{ max-width: 100%; height: auto }}
svg text {{ fill: currentColor; font-size: 11px }} .axis {{ stroke: currentColor; opacity: .35 }}
td {{ padding: .15rem 1.2rem .15rem 0; border-bottom: 1px solid #8884 }} td + td {{ font-variant-numeric: tabular-nums }}
figcaption {{ font-weight: 600 }} .failed {{ color: #d33 }}
</style><h1>{title}</h1>{error}<table>{facts}</table><div class="plots">{plots}</div>{clients}
<p>Folder: {folder}. The job as it ran is <a href="job.yaml">job.yaml</a>, the figures <a href="summary.json">summary.json</a>,
every event <a href="{journal}">{journal}</a>, each role's log in {logs}.</p></html>
"""


def write_report(run_dir: Path, journal: str = JOURNAL) -> Path:
    """Write `report.html` beside a run's journal and `summary.json`; return its path."""
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    progress = sorted(
        (e for e in read_journal(run_dir / journal) if e["event"] == "progress"),
        key=lambda e: (len(e["id"]), e["id"], e["time"]),
    )
    rounds, metrics = summary["rounds"], metrics_in(summary["metrics"])
    timed = [(r["simulated_clock"] / 3600, r["hr@10"]) for r in _timed(rounds) if r["hr@10"] is not None]
    plots = [
        plot("Training loss by worker, over batches", _by_worker(progress, "loss")),
        plot("Training AUC by worker, over batches", _by_worker(progress, "auc")),
        plot("Held-out users, over epochs", {m.title: _by_epoch(rounds, m.name) for m in metrics if m.k}),
        plot("AUC of all clients, over epochs", {"held out": _by_epoch(rounds, "auc"), "training": _by_epoch(rounds, "train_auc")}),
        plot("Held-out samples, over epochs",
             {m.title: _by_epoch(rounds, m.name) for m in metrics if not m.k and m.name not in LAST}),
        plot("HR@10 of held-out users, over simulated hours", {"HR@10": timed}),
    ]  # fmt: skip
    rows = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>" for k, v in _rows(summary).items())
    error = f'<p class="failed">{html.escape(summary["error"])}</p>' if summary["error"] else ""
    elsewhere = summary.get("log_dir", "") not in ("", str(run_dir / "log"))
    page = PAGE.format(
        logs=html.escape(summary["log_dir"]) if elsewhere else '<a href="log/">log/</a>',
        title=html.escape(f"{run_dir.name}: {summary['status']}"), error=error, facts=rows, plots="".join(plots),
        clients=_clients(summary["clients"]),
        folder=html.escape(str(run_dir)), journal=journal,
    )  # fmt: skip
    path = run_dir / "report.html"
    write_whole(path, page.encode(), PUBLIC)
    return path


def facts(summary: Record) -> dict[str, str]:
    """Return what a summary says, in words for people; what is not known is left out."""
    faults = {k.replace("_", " "): v for k, v in summary["faults"].items() if v}
    words = in_words(summary["metrics"])
    if summary["samples_per_second"] is not None:
        words["samples/s"] = f"{summary['samples_per_second']:,.0f}"
    parts = {"start": "start_seconds", "training": "train_seconds", "evaluation": "eval_seconds"}
    spent = [f"{part} {summary[key]:.1f}" for part, key in parts.items() if summary[key]]
    words["seconds"] = f"{summary['wall_seconds']:.1f} in all" + f": {', '.join(spent)}" * bool(spent)
    moved, memory = list(summary["bytes"].values()), summary["memory_mib"]["sum_pss"]
    if None not in moved:
        words["sent / received by clients"] = " / ".join(f"{size / 2**20:,.1f} MiB" for size in moved)
    if memory is not None:
        words["memory"] = f"{memory:,.0f} MiB in all (summed PSS)"
    if tables := summary.get("tables"):
        words["tables"] = _of_tables(tables)
    if reason := summary["engine"]["reason"]:
        words["training steps"] = f"by torch, not compiled: {reason}"
    if timed := _timed(summary["rounds"]):
        last = timed[-1]
        words["simulated clock"] = f"{hours(last['simulated_clock'])} for {last['round']} rounds on simulated devices"
    if summary["warnings"]:
        words["warnings"] = "; ".join(summary["warnings"])
    return words | ({"faults": "; ".join(f"{k}: {v}" for k, v in faults.items())} if faults else {})


def in_words(figures: Record, without: Collection[str] = ()) -> dict[str, str]:
    """Return the figures among some facts, by their names for people; what was not measured is left out."""
    said = {}
    for metric in sorted(metrics_in(figures), key=lambda m: LAST.index(m.name) if m.name in LAST else -1):
        if figures[metric.name] is not None and metric.name not in without:
            left_out = sum(figures.get(name, 0) for name in metric.sums[2:])
            note = f" ({left_out} users of one class left out)" if left_out else ""
            said[metric.title] = f"{figures[metric.name]:.4f}{note}"
    return said


def _of_tables(tables: Mapping[str, Mapping[str, int]]) -> str:
    """Return what servers say of their tables' rows, in words; of many tables what they have together."""
    if len(tables) <= NAMED_TABLES:
        return "; ".join(f"{name}: {_of_table(counts)}" for name, counts in tables.items())
    counts = list(tables.values())
    together = {key: sum(each[key] for each in counts) for key in counts[0]}
    return f"{len(tables)}, with {_of_table(together)} together; each stands in summary.json"


def _of_table(counts: Mapping[str, int]) -> str:
    """Return what servers say of one table's rows, in words; what is nothing is left out."""
    also = [f"{counts[k]:,} {k}" for k in ("made", "admitted", "waiting", "expired", "evicted") if counts[k]]
    return f"{counts['rows']:,} rows, {counts['bytes'] / 2**20:,.1f} MiB ({', '.join(also) or 'none made'})"


def hours(seconds: float) -> str:
    """Return a time as people read it, e.g. 1 h 05 min 09 s."""
    whole = round(seconds)
    return f"{whole // 3600} h {whole // 60 % 60:02d} min {whole % 60:02d} s"


def plot(title: str, lines: Mapping[str, Points]) -> str:
    """Return a figure with one line a name; points are (x, y). Nothing, where there is no point."""
    lines = {name: points for name, points in lines.items() if points}
    every = [p for points in lines.values() for p in points]
    if not every:
        return ""
    caption = f"<figcaption>{html.escape(title)}</figcaption>"
    (x0, x1), (y0, y1) = _range([x for x, _ in every]), _range([y for _, y in every])
    across, up = WIDTH - LEFT - RIGHT, HEIGHT - BOTTOM - 10

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + (x - x0) / (x1 - x0) * across, 10 + (y1 - y) / (y1 - y0) * up

    drawn = []
    for k, (name, points) in enumerate(lines.items()):
        colour, label, placed = COLOURS[k % len(COLOURS)], html.escape(name), [place(*p) for p in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        x, y = placed[-1]
        drawn.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{path}"><title>{label}</title></polyline>'
            f'<circle r="3" fill="{colour}" cx="{x:.1f}" cy="{y:.1f}"><title>{label}: {points[-1][1]:.4f}</title></circle>'
            f'<text x="{LEFT + 8 + 98 * (k % 5)}" y="{HEIGHT + 12 + 14 * (k // 5)}" style="fill:{colour}">{label}</text>'
        )
    ticks = "".join(
        f'<text x="{LEFT - 6}" y="{14 + up * (1 - t)}" text-anchor="end">{y0 + (y1 - y0) * t:.3g}</text>'
        f'<text x="{LEFT + across * t}" y="{HEIGHT - 8}" text-anchor="middle">{x0 + (x1 - x0) * t:,.4g}</text>'
        for t in (0, 0.5, 1)
    )
    axes = f'<path class="axis" fill="none" d="M{LEFT},10V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
    height = HEIGHT + 16 + 14 * ((len(lines) + 4) // 5)
    return f'<figure>{caption}<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">{axes}{ticks}{"".join(drawn)}</svg></figure>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _by_worker(progress: Sequence[Record], key: str) -> dict[str, list[tuple[float, float]]]:
    lines: dict[str, list[tuple[float, float]]] = {}
    for e in progress:
        if e[key] is not None:
            lines.setdefault(f"worker {e['id']}", []).append((e["epoch"] * e["batches"] + e["batch"], e[key]))
    return lines


def _by_epoch(rounds: Sequence[Record], key: str) -> list[tuple[float, float]]:
    return [(r["round"], r[key]) for r in rounds if r[key] is not None]


def _timed(rounds: Sequence[Record]) -> list[Record]:
    """Return the rounds that passed on a simulated clock."""
    return [r for r in rounds if r.get("simulated_clock") is not None]


def _rows(summary: Record) -> dict[str, str]:
    roles = f"{summary['workers']} workers, {summary['servers']} server(s){', a coordinator' * summary['coordinator']}"
    samples = {"samples": f"{summary['samples']:,}"} if summary["samples"] else {}
    return {"mode": summary["mode"], "roles": roles, **samples, **facts(summary)}


def _clients(clients: Mapping[str, Record]) -> str:
    """Return a table of what each client has and what its own held-out samples came to, as far as that is known."""
    told = {client: in_words(facts["metrics"]) for client, facts in clients.items() if facts.get("metrics")}
    if not told:
        return ""
    titles = list(dict.fromkeys(title for words in told.values() for title in words))
    rows = [["client", "samples", "held-out users", *titles]]
    for client in list(told)[:MOST_CLIENTS]:
        counts = [f"{n:,}" if (n := clients[client][key]) is not None else "" for key in ("samples", "test_users")]
        rows.append([client, *counts, *(told[client].get(title, "") for title in titles)])
    more = f"<p>and {len(told) - MOST_CLIENTS} more</p>" if len(told) > MOST_CLIENTS else ""
    cells = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>{more}"
