"""Storms over a job: `python -m tests.chaos --data DIR [--seed N] [--storms N] [--faults N] [--job JOB.yaml]`.

Each mode runs calm once, then under storms of consecutive seeds. All must end with exit code 0, each answered push counted
once, none more than in the calm run, no process left, and HR@10 within 0.01 of it. A seed is one schedule: a storm that fails
comes again by its number. What is written of each run lies in `--out`, and `table.md` with a line of each storm.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.outcome import Outcome, faults_of, run_under
from tests.chaos.storm import draw

MODES = {
    "geo": ["runner.sync_mode=geo"],
    "geo, 2 servers": ["runner.sync_mode=geo", "runner.server_num=2"],
    "geo, coordinator": ["runner.sync_mode=geo", "runner.with_coordinator=true"],
    "sync": ["runner.sync_mode=sync"],
    "async, 2 servers": ["runner.sync_mode=async", "runner.server_num=2"],
    "round, coordinator": ["runner.sync_mode=round", "runner.with_coordinator=true"],
}

HEAD = (
    "| mode | blows | exit code | pushes answered | lost | doubled | counted, calm | HR@10 calm | stormy | seconds calm | stormy |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)


def main() -> int:
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    table, failed = [*HEAD], 0
    for name, mode in MODES.items():
        if options.mode and name not in options.mode:
            continue
        calm = _run(name, mode, options)
        if wrong := faults_of(calm):
            print(f"{name}: calm: {'; '.join(wrong)}", flush=True)
            failed += 1
            continue
        print(f"{name}: calm: {_figures(calm)}", flush=True)
        for seed in range(options.seed, options.seed + options.storms):
            storm = _run(name, mode, options, calm, seed)
            wrong = faults_of(storm) + ([] if storm.code else _strays(storm, calm, options.close))
            print(f"{name}: storm {seed}: {'; '.join(wrong) or _figures(storm)}", flush=True)
            table.append(_line(name, storm, calm))
            failed += bool(wrong)
    text = "\n".join(table)
    (options.out / "table.md").write_text(f"{text}\n")
    print(text, flush=True)
    return min(failed, 1)


def _run(
    name: str, mode: Sequence[str], options: argparse.Namespace, calm: Outcome | None = None, seed: int = 0
) -> Outcome:
    """Run a mode calm or, with how that went, under a storm."""
    folder = options.out / name.replace(", ", "-").replace(" ", "-")
    settings = [f"runner.{kind}_data_dir={(options.data / kind).resolve()}" for kind in ("train", "test")]
    own = [*settings, *mode, *options.override]
    if calm is None:
        return run_under([], 1, options.job, folder / "calm", own, options.timeout)
    servers, coordinated = 1 + ("runner.server_num=2" in mode), "runner.with_coordinator=true" in mode
    faults = draw(seed, options.faults, len(calm.summary["clients"]), servers, coordinated, options.longest)
    return run_under(faults, calm.carried, options.job, folder / f"storm-{seed}", own, options.timeout)


def _strays(storm: Outcome, calm: Outcome, close: float) -> list[str]:
    """Say what a storm changed that it must not."""
    wrong = []
    if abs(_rank(storm) - _rank(calm)) > close:
        wrong.append(f"HR@10 is {_rank(storm):.4f}, and {_rank(calm):.4f} calm")
    if len(storm.counted) > len(calm.counted):
        wrong.append(f"servers took {len(storm.counted)} pushes, and {len(calm.counted)} calm: some were learned twice")
    return wrong


def _line(name: str, storm: Outcome, calm: Outcome) -> str:
    """Return a storm's line of the table."""
    fell = Counter(blow["kind"] for blow in storm.fell)
    lost, doubled = len(storm.answered.keys() - storm.counted.keys()), sum(n > 1 for n in storm.counted.values())
    cells = [
        name,
        f"{fell.total()}: " + ", ".join(f"{often} {kind}" for kind, often in sorted(fell.items())),
        storm.code,
        len(storm.answered),
        lost,
        doubled,
        f"{len(storm.counted)}, {len(calm.counted)}",
        f"{_rank(calm):.4f}",
        "-" if storm.code else f"{_rank(storm):.4f}",
        f"{calm.seconds:.0f}",
        f"{storm.seconds:.0f}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _rank(outcome: Outcome) -> float:
    return float(outcome.summary["rounds"][-1]["hr@10"])


def _figures(outcome: Outcome) -> str:
    summary = outcome.summary
    faults = {name: value for name, value in summary["faults"].items() if value}
    return f"HR@10 {_rank(outcome):.4f}, {summary['samples']} samples, rounds {len(summary['rounds'])}, {faults}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of a prepared data set")
    parser.add_argument("--job", type=Path, default=Path("examples/quickstart.yaml"))
    parser.add_argument("--out", type=Path, default=Path("runs/chaos"))
    parser.add_argument("--mode", choices=MODES, action="append", help="only this one")
    parser.add_argument("--seed", type=int, default=1, help="of the first storm")
    parser.add_argument("--storms", type=int, default=1, help="of each mode")
    parser.add_argument("--faults", type=int, default=32, help="blows of a storm")
    parser.add_argument("--close", type=float, default=0.01, help="by how much HR@10 may differ from the calm run's")
    parser.add_argument("--longest", type=float, default=3.0, help="seconds of a freeze or an outage")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds after which a run hangs")
    parser.add_argument("-o", "--override", action="append", default=[], help="of the job")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
