"""Several runs side by side: their figures, what their jobs say differently, and a page with their curves."""

import html
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedps.events.past import Past
from fedps.figures import LOWER_IS_BETTER, OF_TRAINING, Metric, metrics_in
from fedps.pages.plots import plot
from fedps.pages.report import STYLE
from fedps.storage.whole import PUBLIC, write_whole

MIB = 1 << 20
NOT_COMPARED = ("name", "folder")  # of a job: where its file lies
WHY = {  # a run has no figures
    "running": "its figures come when it ends",
    "broken off": "it was killed, and has no figures",
    "by hand": "its roles were started one by one, and nobody tells of all",
    "failed": "it does not say why",
    "damaged": "it cannot be read",
}
OF_DATA = ("train_data_dir", "test_data_dir")
COUNTS = {  # of a summary: the words for people, the keys down to it, and what it is divided by
    "samples/s": (("samples_per_second",), 1),
    "MiB sent by clients": (("bytes", "sent_by_clients"), MIB),
    "MiB received by clients": (("bytes", "received_by_clients"), MIB),
    "MiB of memory": (("memory_mib", "sum_pss"), 1),
    "seconds in all": (("wall_seconds",), 1),
    "seconds of training": (("train_seconds",), 1),
}
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{style}</style><h1>{title}</h1>{said}<table>{table}</table><div class="plots">{plots}</div></html>
"""


class Row(NamedTuple):
    """One fact of all runs; `best` are the places of the best cells, none where nothing is better than another."""

    name: str
    cells: list[str]
    best: frozenset[int] = frozenset()


class Comparison:
    """What several runs have come to.

    Args:
        runs: as their folders say; those that go on, or are damaged, have what there is of them.

    Attributes:
        names: one a run: its folder's name, or its path where two are called alike.
    """

    def __init__(self, runs: Sequence[Past]) -> None:
        self.runs = runs
        plain = [run.folder.resolve().name for run in runs]
        self.names = [str(run.folder) if plain.count(name) > 1 else name for run, name in zip(runs, plain, strict=True)]

    @property
    def metrics(self) -> list[Metric]:
        """The metrics that any of them measured, those of training last."""
        names = {
            name: None
            for run in self.runs
            for name, value in run.summary.get("metrics", {}).items()
            if value is not None
        }
        return sorted(metrics_in(names), key=lambda metric: metric.name in OF_TRAINING)

    def remarks(self) -> list[str]:
        """Say which runs are not what one would take them for, and whether they compare at all."""
        found = [
            f"{name}: {run.status}: {run.error or WHY[run.status]}"
            for name, run in zip(self.names, self.runs, strict=True)
            if run.status != "ok"
        ]
        data = {tuple(run.said("runner", key) for key in OF_DATA) for run in self.runs if run.job}
        return [
            *found,
            *["they were not trained and tested on the same data: their figures do not compare"] * (len(data) > 1),
        ]

    def rows(self) -> Iterator[Row]:
        """Yield the figures, one a row."""
        yield Row("status", [run.status for run in self.runs])
        yield Row("model", [run.model for run in self.runs])
        yield Row(
            "epochs", [f"{run.epochs}{f'/{due}' if (due := run.said('runner', 'epochs')) else ''}" for run in self.runs]
        )
        for metric in self.metrics:
            values = [run.summary.get("metrics", {}).get(metric.name) for run in self.runs]
            cells = ["" if value is None else f"{value:.4f}" for value in values]
            yield Row(
                metric.title, cells, _best(cells, metric) if metric.name != "loss" or self._of_one_loss else frozenset()
            )
            popular = [run.summary.get("popularity", {}).get(metric.name) for run in self.runs]
            if any(value is not None for value in popular):
                yield Row(
                    f"{metric.title} by popularity", ["" if value is None else f"{value:.4f}" for value in popular]
                )
        for name, (keys, unit) in COUNTS.items():
            cells = [_count(run.summary, keys, unit) for run in self.runs]
            if any(cells):
                yield Row(name, cells)

    def differences(self) -> dict[str, list[Any]]:
        """Return the keys of which not all jobs that can be read say the same, each with its value in each run."""
        jobs = [run.job for run in self.runs if run.job]
        common = set.intersection(*(set(job.get("features", {})) for job in jobs)) if jobs else set[str]()
        flat = [dict(_keys(run.job, common)) for run in self.runs]
        known = [keys for run, keys in zip(self.runs, flat, strict=True) if run.job]
        names = dict.fromkeys(key for keys in known for key in keys if key not in NOT_COMPARED)
        return {
            n: [keys.get(n) for keys in flat] for n in names if any(keys.get(n) != known[0].get(n) for keys in known)
        }

    @property
    def _of_one_loss(self) -> bool:
        """Whether the losses of training compare: those of one kind do."""
        return len({run.said("hyper_parameters", "loss") for run in self.runs if run.job}) < 2

    def write_page(self, path: Path) -> None:
        """Write a page with the table and, over epochs, a curve of each run.

        Raises:
            OSError: it cannot be written.
        """
        differing = [Row(key, [said(value) for value in values]) for key, values in self.differences().items()]
        head = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *self.names))
        rows = [_cells(row) for row in self.rows()]
        if differing:
            rows += [f'<tr><th colspan="{len(self.names) + 1}">jobs differ in</th></tr>', *map(_cells, differing)]
        page = PAGE.format(
            title=f"Comparison of {len(self.names)} runs", style=STYLE, table=f"<tr>{head}</tr>{''.join(rows)}",
            said="".join(f'<p class="failed">{html.escape(text)}</p>' for text in self.remarks()),
            plots="".join(map(self._plot, self.metrics)),
        )  # fmt: skip
        write_whole(path, page.encode(), PUBLIC)

    def _plot(self, metric: Metric) -> str:
        """Return a metric's curves, one a run, beside what popularity comes to where all runs have the same data."""
        curves = {
            name: [
                (figures["round"], figures[metric.name])
                for figures in run.rounds
                if figures.get(metric.name) is not None
            ]
            for name, run in zip(self.names, self.runs, strict=True)
        }
        popular = {run.summary.get("popularity", {}).get(metric.name) for run in self.runs} - {None}
        levels = {"by popularity": popular.pop()} if len(popular) == 1 else {}
        return plot(metric.title[:1].upper() + metric.title[1:], curves, whole=True, levels=levels)


def _best(cells: Sequence[str], metric: Metric) -> frozenset[int]:
    """Return the places of the best figures, as they are shown; none where all are alike, or one is better than itself alone."""
    values = {k: float(cell) for k, cell in enumerate(cells) if cell}
    if metric.kind == "calibration" or len(set(values.values())) < 2:
        return frozenset()
    best = (min if metric.kind in LOWER_IS_BETTER else max)(values.values())
    return frozenset(k for k, value in values.items() if value == best)


def _count(summary: Mapping[str, Any], keys: Sequence[str], unit: int) -> str:
    value: Any = summary
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, int | float):
        return ""
    return f"{value / unit:,.{1 if value / unit < 100 else 0}f}"


def _keys(job: Mapping[str, Any], common: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield a job's keys, dotted, with their values; of features their names, and the keys of those that all jobs have."""
    features = job.get("features", {})
    yield from _flat({key: value for key, value in job.items() if key != "features"})
    yield "features", list(features)
    yield from _flat({name: features[name] for name in features if name in common}, "features.")


def _flat(part: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in part.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def said(value: Any) -> str:
    """Return the value of a job's key in a cell of a table."""
    return ", ".join(map(str, value)) if isinstance(value, list) else "-" if value is None else str(value)


def _cells(row: Row) -> str:
    cells = (f"<b>{html.escape(cell)}</b>" if k in row.best else html.escape(cell) for k, cell in enumerate(row.cells))
    return f"<tr><td>{html.escape(row.name)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
