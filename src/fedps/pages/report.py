"""A run as one HTML page with curves: nothing fetched, readable in light and dark, with few clients and with a thousand."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedps.config.source import dump, read
from fedps.errors import shortage
from fedps.events.journal import JOURNAL, read_journal
from fedps.figures import Metric, metrics_in
from fedps.pages import lift
from fedps.pages.plots import MOST_LINES, Points, bands, plot, shares, spark
from fedps.pages.words import LAST, Record, facts, in_words, timed
from fedps.storage.whole import PUBLIC, write_whole

MOST_CLIENTS = 2000  # that have a line in the report
STYLE = """
:root { color-scheme: light dark } body { font: 15px/1.45 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem } .when { margin-top: 0; opacity: .7 }
.plots { display: flex; flex-wrap: wrap; gap: 1.5rem 1rem } figure { margin: 0 } svg { max-width: 100%; height: auto }
svg text { fill: currentColor; font-size: 11px } .axis { stroke: currentColor; opacity: .45 } .grid { stroke: currentColor; opacity: .12 }
figcaption { font-weight: 600 } .legend { font-size: 12px; display: flex; flex-wrap: wrap; gap: 0 1rem; max-width: 560px }
.legend i { display: inline-block; width: .7em; height: .7em; margin-right: .4em; border-radius: 2px }
table { border-collapse: collapse; margin-bottom: 1.5rem } td, th { padding: .15rem 1.2rem .15rem 0; border-bottom: 1px solid #8884; text-align: left; vertical-align: top }
td + td { font-variant-numeric: tabular-nums } .clients { max-height: 40rem; overflow: auto }
.clients td + td, .clients th + th { text-align: right } .clients th { position: sticky; top: 0; background: Canvas; cursor: pointer }
.failed { color: #d33 } .warning { color: #b60 } pre { overflow: auto; font-size: 12px } summary { cursor: pointer }
"""
SORT = """
for (const head of document.querySelectorAll(".clients th")) head.onclick = () => {
  const body = head.closest("table").tBodies[0], k = head.cellIndex, up = head.dataset.up = head.dataset.up == 1 ? -1 : 1;
  const key = row => { const text = row.cells[k].textContent, n = parseFloat(text.replaceAll(",", "")); return isNaN(n) ? text : n };
  body.append(...[...body.rows].sort((a, b) => { const x = key(a), y = key(b); return up * (x < y ? -1 : x > y ? 1 : 0) }));
};
"""
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{style}</style><h1>{title}</h1><p class="when">{when}</p>{said}<table>{facts}</table>
<div class="plots">{plots}</div>{clients}{job}
<p>Folder: {folder}. The job as it ran is <a href="job.yaml">job.yaml</a>, the figures <a href="summary.json">summary.json</a>,
every event <a href="{journal}">{journal}</a>, each role's log in {logs}.</p><script>{sort}</script></html>
"""


def try_report(run_dir: Path, journal: str = JOURNAL) -> str | None:
    """Write `report.html` if that is possible; return why it is not: whatever a page lacks, the run came to what it came to."""
    try:
        write_report(run_dir, journal)
    except Exception as error:
        why = shortage(error) or f"{type(error).__name__}: {error}"
        return f"report.html is not written, and the run is what summary.json says: {why}"
    return None


def write_report(run_dir: Path, journal: str = JOURNAL) -> Path:
    """Write `report.html` beside a run's journal and `summary.json`; return its path."""
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    began, progress = 0.0, list[Record]()
    for event in read_journal(run_dir / journal):
        began = began or event["time"]
        if event["event"] == "progress":
            progress.append(event)
    progress.sort(key=lambda e: (len(e["id"]), e["id"], e["time"]))
    job = read(run_dir / "job.yaml") if (run_dir / "job.yaml").is_file() else {}
    elsewhere = summary.get("log_dir", "") not in ("", str(run_dir / "log"))
    if "vertical" in summary:
        job = _without_words(job)
        facts_, plots, clients = lift.facts(summary), _epochs(summary), _lift(summary)
    else:
        facts_, plots = _trained(job) | _rows(summary), _plots(summary, progress)
        clients = _clients(summary, _by_worker(progress, "loss"))
    page = PAGE.format(
        style=STYLE, sort=SORT, title=html.escape(f"{run_dir.name}: {summary['status']}"), when=_when(began),
        said=_said(summary), facts=_table([[k, v] for k, v in facts_.items()]), plots=plots, clients=clients,
        job=_job(dump(job)) if job else "",
        logs=html.escape(summary["log_dir"]) if elsewhere else '<a href="log/">log/</a>',
        folder=html.escape(str(run_dir)), journal=journal,
    )  # fmt: skip
    path = run_dir / "report.html"
    write_whole(path, page.encode(), PUBLIC)
    return path


def _without_words(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job of vertical training without the words that parties keep from others: a page may be passed on."""
    parties = {name: {**own, "secret": "not shown"} for name, own in job.get("parties", {}).items()}
    return {**job, "ids": {**job.get("ids", {}), "psi_key": "not shown"}, "parties": parties} if job else job


def _when(began: float) -> str:
    day = f"{datetime.fromtimestamp(began).astimezone():%Y-%m-%d %H:%M:%S %Z}, " if began else ""
    return f"{day}fedps {version('fedps')}"


def _said(summary: Record) -> str:
    error = [f'<p class="failed">{html.escape(summary["error"])}</p>'] if summary["error"] else []
    return "".join([*error, *(f'<p class="warning">{html.escape(text)}</p>' for text in summary["warnings"])])


def _plots(summary: Record, progress: Sequence[Record]) -> str:
    rounds, metrics = summary["rounds"], metrics_in(summary["metrics"])
    word = "round" if summary["coordinator"] else "epoch"
    loss, auc = _by_worker(progress, "loss"), _by_worker(progress, "auc")
    plots = [
        *(
            _ranking(kind, [m for m in metrics if m.k and (m.task, m.kind, m.full) == kind], summary)
            for kind in _kinds(metrics)
        ),
        plot("AUC", {"held out": _by_epoch(rounds, "auc"), "training": _by_epoch(rounds, "train_auc")}, whole=True),
        plot("Training loss of all clients", {"loss": _by_epoch(rounds, "loss")}, whole=True),
        *(
            plot(m.title, {m.title: _by_epoch(rounds, m.name)}, whole=True)
            for m in metrics
            if not m.k and m.name not in LAST
        ),
        _of_workers("Training loss by worker, over epochs", loss),
        _of_workers("Training AUC by worker, over epochs", auc),
        _time(summary, word),
    ]
    if hours := [(r["simulated_clock"] / 3600, r["hr@10"]) for r in timed(rounds) if r["hr@10"] is not None]:
        plots.append(plot("HR@10 of held-out users, over simulated hours", {"HR@10": hours}))
    if summary["coordinator"]:
        picked = {"clients": [(r["round"], float(len(r["selected"]))) for r in rounds]}
        plots.append(plot("Clients that trained, over rounds", picked, whole=True))
    return "".join(plots)


def _epochs(summary: Record) -> str:
    """Return what vertical training came to over epochs, beside what its stages alone did."""
    names = lift.whose(summary["parties"])
    plots = []
    for figure, title in {"loss": "Training loss", **lift.FIGURES}.items():
        line = [(r["round"], r[figure]) for r in summary["rounds"] if r.get(figure) is not None]
        others = {names[s]: of[figure] for s, of in summary["vertical"].items() if s != "federated" and of.get(figure)}
        plots.append(plot(title, {names["federated"]: line}, True, others if figure != "loss" else {}) if line else "")
    return "".join(plots)


def _lift(summary: Record) -> str:
    head, *rows = lift.rows(summary)
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return (
        f'<h2>What each party\'s data is worth</h2><div class="clients"><table><thead><tr>{names}</tr></thead><tbody>'
        f"{_table(rows)}</tbody></table></div>"
    )


def _kinds(metrics: Iterable[Metric]) -> list[tuple[str, str, bool]]:
    """Return the kinds of rankings, each of which has a plot of its own: HR is not NDCG, and all items are no candidates."""
    return list(dict.fromkeys((m.task, m.kind, m.full) for m in metrics if m.k))


def _ranking(kind: tuple[str, str, bool], metrics: Sequence[Metric], summary: Record) -> str:
    """Return the plot of one kind at every k, beside what popularity comes to."""
    task, name, full = kind
    title = " ".join(
        filter(None, [task, name.upper() if name != "recall" else "Recall", "among all items" if full else ""])
    )
    lines = {m.title: _by_epoch(summary["rounds"], m.name) for m in metrics}
    popular = summary.get("popularity", {})
    levels = {f"{m.title} by popularity": popular[m.name] for m in metrics if m.name in popular}
    return plot(title, lines, True, levels)


def _of_workers(title: str, lines: Mapping[str, Points]) -> str:
    """Return a line a worker, or where there are more than can be told apart how they run together."""
    return plot(title, lines) if len(lines) <= MOST_LINES else bands(title, lines)


def _time(summary: Record, word: str) -> str:
    """Return where the time went: real seconds of the run, and of each round's training what was spent in waiting."""
    waited = sum(r.get("wait_seconds") or 0.0 for r in summary["rounds"])
    start, train, evaluate = (summary[key] or 0.0 for key in ("start_seconds", "train_seconds", "eval_seconds"))
    waited = min(waited, train)
    rest = max(summary["wall_seconds"] - start - train - evaluate, 0.0)
    parts = {
        "start": start, "training": train - waited, "waiting for servers and others (mean client)": waited, "evaluation": evaluate,
        "saving, barriers and end": rest,
    }  # fmt: skip
    return shares(f"Where the time went, in {len(summary['rounds'])} {word}s", parts, "s")


def _by_worker(progress: Sequence[Record], key: str) -> dict[str, list[tuple[float, float]]]:
    """Return a line a worker, over epochs; what it did again after it was started again holds for what it did before."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for e in progress:
        line, at = lines.setdefault(e["id"], []), e["epoch"] + e["batch"] / e["batches"]
        while line and line[-1][0] >= at:
            line.pop()
        line += [] if e[key] is None else [(at, e[key])]
    return {who: line for who, line in lines.items() if line}


def _by_epoch(rounds: Sequence[Record], key: str) -> list[tuple[float, float]]:
    return [(r["round"], r[key]) for r in rounds if r[key] is not None]


def _trained(job: Record) -> dict[str, str]:
    """Return what was trained, and how, in words; nothing of a job that does not say it."""
    try:
        runner, hyper = job["runner"], job["hyper_parameters"]
        optimizer = hyper["optimizer"]
        return {
            "network": runner["model"] or hyper["mode"],
            "training": f"{hyper.get('loss', 'its own loss')}, {optimizer['class']} at {optimizer['learning_rate']},"
            f" batches of {runner['train_batch_size']:,}, {runner['epochs']} epochs, seed {runner['seed']}",
            "data": str(runner["train_data_dir"]),
        }
    except KeyError:
        return {}


def _rows(summary: Record) -> dict[str, str]:
    roles = f"{summary['workers']} workers, {summary['servers']} server(s){', a coordinator' * summary['coordinator']}"
    samples = {"samples": f"{summary['samples']:,}"} if summary["samples"] else {}
    words = facts(summary)
    words.pop("warnings", None)  # which stand above
    return {"mode": summary["mode"], "roles": roles, **samples, **words}


def _clients(summary: Record, loss: Mapping[str, Points]) -> str:
    """Return a table of what each client has, how often it trained, and what its own held-out samples came to."""
    clients, rounds = summary["clients"], summary["rounds"]
    told = {client: in_words(facts["metrics"]) for client, facts in clients.items() if facts.get("metrics")}
    titles = list(dict.fromkeys(title for words in told.values() for title in words))
    trained = dict.fromkeys(clients, 0)
    for picked in (client for r in rounds for client in r["selected"] if client in trained):
        trained[picked] += 1
    rows = []
    for client, known in list(clients.items())[:MOST_CLIENTS]:
        counts = [f"{n:,}" if (n := known[key]) is not None else "" for key in ("samples", "test_users")]
        figures = [told.get(client, {}).get(title, "") for title in titles]
        rows.append([client, *counts, f"{trained[client]}", *figures, Svg(spark(loss.get(client, [])))])
    if not rows:
        return ""
    more = f"<p>and {len(clients) - MOST_CLIENTS} more</p>" if len(clients) > MOST_CLIENTS else ""
    head = ["client", "samples", "held-out users", "trained", *titles, "training loss"]
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f'<h2>Clients</h2><div class="clients"><table><thead><tr>{names}</tr></thead><tbody>{_table(rows)}</tbody></table></div>{more}'


class Svg(str):
    """A cell that is drawn, not text to be escaped."""


def _table(rows: Sequence[Sequence[str]]) -> str:
    cells = (
        "".join(f"<td>{cell if isinstance(cell, Svg) else html.escape(cell)}</td>" for cell in row) for row in rows
    )
    return "".join(f"<tr>{row}</tr>" for row in cells)


def _job(text: str) -> str:
    return f"<h2>Job</h2><details><summary>every key, as it ran</summary><pre>{html.escape(text)}</pre></details>"
