"""All subjects in turn, each in a process of its own, on the same data: from options to a report."""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.aims import Judged, judge
from bench.apart import BenchError, apart
from bench.machine import describe_machine
from bench.records import Options, Result, Size
from bench.subjects import NAMED_ONLY, SUBJECTS
from fedps.data.prepare.synth import synthesize
from fedps.data.prepare.write import FORMAT
from fedps.errors import JobError

USUAL = Path(".data/ml-1m")  # where `make run` prepares data


@dataclass(frozen=True)
class Report:
    """What the whole suite found.

    Args:
        machine: what it ran on.
        data: what it ran with.
        size: how much was measured.
        seconds: it took.
        aims: each with what was measured.
        results: of every subject that was measured, by name.
        failed: of every other, why not.
    """

    machine: dict[str, str]
    data: dict[str, Any]
    size: Size
    seconds: float
    aims: tuple[Judged, ...]
    results: dict[str, Result]
    failed: dict[str, str]


def run_suite(subjects: Sequence[str], data: Path | None, size: Size, console: Console) -> Report:
    """Measure subjects, one after another; one that fails does not stop the others.

    Args:
        subjects: names of `SUBJECTS`; none stands for all but those of `NAMED_ONLY`.
        data: prepared data; None: `.data/ml-1m` if it is there, else a synthetic twin, said loudly.
        size: how much to measure.
        console: told what is going on.

    Raises:
        JobError: a subject that is not there, or a folder that holds no prepared data.
    """
    unknown = [name for name in subjects if name not in SUBJECTS]
    if unknown:
        raise JobError(f"{unknown[0]!r}: no such subject; there are {', '.join(SUBJECTS)}")
    results, failed, began, machine = dict[str, Result](), dict[str, str](), time.monotonic(), describe_machine()
    with _prepared(data, console) as (folder, facts):
        for name in [name for name in SUBJECTS if name in (subjects or SUBJECTS.keys() - set(NAMED_ONLY))]:
            try:
                results[name] = _measure(name, Options(str(folder), size), console)
            except BenchError as error:
                failed[name] = str(error).splitlines()[-1]
                console.print(f"{error}", style="red", markup=False, highlight=False, soft_wrap=True)
    aims = judge(results) if (results.keys() | failed.keys()) - set(NAMED_ONLY) else ()
    return Report(machine, facts, size, time.monotonic() - began, aims, results, failed)


def _measure(name: str, options: Options, console: Console) -> Result:
    began = time.monotonic()
    console.print(f"{name}: {SUBJECTS[name]}", markup=False, highlight=False, soft_wrap=True)
    with console.status(name) as status:
        result = apart(name, options, lambda line: status.update(f"{name}: {line}"))
    console.print(f"  done in {time.monotonic() - began:.0f} s", highlight=False)
    return result


@contextmanager
def _prepared(data: Path | None, console: Console) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a folder of prepared data, and what is in it."""
    if data is not None or _manifest(USUAL):
        folder = (data or USUAL).resolve()
        manifest = _manifest(folder)
        if not manifest:
            raise JobError(
                f"--data {data}: holds no prepared data; make some by `fedps data prepare movielens --out {data}`"
            )
        yield folder, _facts(manifest)
        return
    console.print(
        "*** NO PREPARED DATA: measuring on a SYNTHETIC twin of MovieLens-1M; name real data by --data ***",
        style="bold",
        soft_wrap=True,
    )
    with tempfile.TemporaryDirectory(prefix="fedps-bench-") as name:
        folder = Path(name) / "twin"
        yield folder, _facts(synthesize(folder))


def _manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of prepared data; nothing where there is none."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) and manifest.get("format") == FORMAT else {}


def _facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    clients = manifest["clients"].values()
    return {
        "source": Path(manifest["source"]).name,  # without the folder: reports carry no machine's paths
        "synthetic": manifest["synthetic"],
        "clients": len(clients),
        "users": manifest["num_users"],
        "items": manifest["num_items"],
        "samples": sum(client["samples"] for client in clients),
    }
