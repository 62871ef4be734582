"""What a run's figures say, in words for people: on its page, and at the end of what the terminal shows."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fedps.figures import metrics_in

Record = Mapping[str, Any]
LAST = ("auc", "loss", "train_auc")  # figures that people read after the others
NAMED_TABLES = 8  # as many are told apart in a few words


def facts(summary: Record) -> dict[str, str]:
    """Return what a summary says, in words for people; what is not known is left out."""
    faults = {k.replace("_", " "): v for k, v in summary["faults"].items() if v}
    words = in_words(summary["metrics"])
    if popular := in_words(summary.get("popularity", {})):
        words |= {
            title: f"{words[title]} (by popularity alone: {value})"
            for title, value in popular.items()
            if title in words
        }
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
    if rounds := timed(summary["rounds"]):
        last = rounds[-1]
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


def hours(seconds: float) -> str:
    """Return a time as people read it, e.g. 1 h 05 min 09 s."""
    whole = round(seconds)
    return f"{whole // 3600} h {whole // 60 % 60:02d} min {whole % 60:02d} s"


def timed(rounds: Sequence[Record]) -> list[Record]:
    """Return the rounds that passed on a simulated clock."""
    return [r for r in rounds if r.get("simulated_clock") is not None]


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
