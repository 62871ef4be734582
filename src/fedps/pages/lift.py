"""The lift of vertical training, in words and as rows of a table: what each party's data is worth, alone and together."""

from collections.abc import Mapping, Sequence

from fedps.pages.words import Record

STAGES = ("active", "passive", "federated", "joined")  # as a reader compares them
FIGURES = {"auc": "AUC", "logloss": "log loss", "rmse": "RMSE"}


def rows(summary: Record) -> list[list[str]]:
    """Return the lift of a run's summary: names of columns, then a line a stage, and what matching took."""
    stages = summary["vertical"]
    names = [name for name in FIGURES if any(of.get(name) is not None for of in stages.values())]
    found = [["", *(FIGURES[name] for name in names), "samples/s", "MiB"]]
    for stage, of in stages.items():
        figures = ["" if of.get(name) is None else f"{of[name]:.4f}" for name in names]
        speed, sent = f"{of['samples_per_second']:,.0f}", f"{of['bytes'] / 2**20:,.1f}" if of["bytes"] else ""
        found.append([whose(summary["parties"])[stage], *figures, speed, sent])
    if summary["matching"]["bytes"]:
        sent = f"{summary['matching']['bytes'] / 2**20:,.1f}"
        found.append(["finding the common samples", *[""] * len(names), "", sent])
    return found


def facts(summary: Record) -> dict[str, str]:
    """Return what else a summary says, in words for people; what is not known is left out."""
    words = {"parties": f"{summary['parties'][0]} with the label, {' and '.join(summary['parties'][1:])}"}
    if summary["samples"] is not None:
        words["common samples"] = f"{summary['samples']:,}, and {summary['held_out']:,} held out"
    parts = {"until the first batch": summary["start_seconds"], "matching": summary["matching"]["seconds"]}
    spent = [f"{part} {seconds:.1f}" for part, seconds in parts.items() if seconds is not None]
    words["seconds"] = ", ".join([f"{summary['wall_seconds']:.1f} in all", *spent])
    faults = {k.replace("_", " "): n for k, n in summary["faults"].items() if n}
    return words | ({"faults": "; ".join(f"{k}: {n}" for k, n in faults.items())} if faults else {})


def said(figures: Mapping[str, float | None]) -> str:
    """Return figures in words; what is not known is left out."""
    words = {"loss": "loss", **FIGURES}
    return ", ".join(f"{word} {value:.4f}" for name, word in words.items() if (value := figures.get(name)) is not None)


def whose(parties: Sequence[str]) -> dict[str, str]:
    """Return what each stage is called, of an active party and the passive ones."""
    return {
        "active": f"{parties[0]} alone",
        "passive": f"features of {' and '.join(parties[1:])} alone",
        "federated": "all together",
        "joined": "joined in one place",
    }
