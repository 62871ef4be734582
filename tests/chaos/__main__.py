"""Storms over a job: `python -m tests.chaos --data DIR [--seed N] [--storms N] [--faults N] [--job JOB.yaml]`.

Each mode runs calm once, then under storms of consecutive seeds. All must end with exit code 0, each answered push counted
once, no process left, and HR@10 within 0.01 of the calm run. A seed is one schedule: a storm that fails comes again by its
number. What is written of each run lies in `--out`.
"""

import argparse
import sys
from collections import Counter
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

# Batches between two checkpoints of a client. What it trained behind the last one, it trains a second time after a kill: with
# so many kills, and none but an epoch's own checkpoints, so much that the model is a better one than a calm run's.
EVERY = 50


def main() -> int:
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    settings = [f"runner.{kind}_data_dir={(options.data / kind).resolve()}" for kind in ("train", "test")]
    for name, mode in MODES.items():
        if options.mode and name not in options.mode:
            continue
        own = [*settings, *mode, f"runner.checkpoint_every={EVERY}", *options.override]
        folder = options.out / name.replace(", ", "-").replace(" ", "-")
        calm = run_under([], 1, options.job, folder / "calm", own)
        wrong = faults_of(calm)
        print(f"{name}: calm: {'; '.join(wrong) or _figures(calm)}", flush=True)
        if wrong:
            failed += 1
            continue
        workers = (
            calm.summary["workers"] if isinstance(calm.summary.get("workers"), int) else len(calm.summary["clients"])
        )
        servers = 1 + ("runner.server_num=2" in mode)
        for seed in range(options.seed, options.seed + options.storms):
            faults = draw(
                seed, options.faults, workers, servers, "runner.with_coordinator=true" in mode, options.longest
            )
            storm = run_under(faults, calm.carried, options.job, folder / f"storm-{seed}", own, options.timeout)
            wrong = faults_of(storm)
            if not storm.code and abs(_rank(storm) - _rank(calm)) > options.close:
                wrong.append(f"HR@10 is {_rank(storm):.4f}, and {_rank(calm):.4f} calm")
            fell = Counter(f"{blow['kind']} {blow['role']}" for blow in storm.fell)
            print(
                f"{name}: storm {seed}: {sum(fell.values())} blows: {'; '.join(wrong) or _figures(storm)}", flush=True
            )
            print(f"    {', '.join(f'{often} {kind}' for kind, often in sorted(fell.items()))}", flush=True)
            failed += bool(wrong)
    return min(failed, 1)


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
