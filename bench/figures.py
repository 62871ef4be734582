"""Figures that a change to the code must not move: metrics to the last digit, and bytes.

    python -m bench.figures record before.json     # at the commit before
    python -m bench.figures record after.json      # at the commit after
    python -m bench.figures compare before.json after.json

Each job is run by the command, with real processes, on MovieLens prepared anew. Where pushes are applied as they come,
the order of clients decides the last digits, so those jobs have one client.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SETS = {  # name: how `fedps data prepare movielens` makes it
    "ml-1m": (),
    "twenty": ("--partition", "iid", "--clients", "20"),
    "one": ("--partition", "iid", "--clients", "1"),
}
QUICKSTART = ROOT / "examples" / "quickstart.yaml"
COORDINATED = ("runner.with_coordinator=true", "runner.clients_per_round=5")
SHARED = "runner.remote_sparse=[mlp_user.weight, mlp_item.weight]"  # as in the original, where nothing is private
ARRIVAL = ("mean", "sum", "original", "buffered")  # merges that apply pushes as they come

JOBS: dict[str, tuple[str, Path, tuple[str, ...]]] = {
    "quickstart": ("ml-1m", QUICKSTART, ()),
    "seed, plain": ("ml-1m", ROOT / "examples" / "config_fl.yaml", (SHARED,)),
    "seed, split": ("ml-1m", ROOT / "examples" / "config_fl_split.yaml", ()),
    "seed, coordinator": ("ml-1m", ROOT / "examples" / "config_fl_coordinator.yaml", (SHARED,)),
    "2 servers": ("ml-1m", QUICKSTART, ("runner.server_num=2",)),
    "20 workers": ("twenty", QUICKSTART, ()),
    "sync": ("ml-1m", QUICKSTART, ("runner.sync_mode=sync", "runner.epochs=1")),
    "round": ("ml-1m", QUICKSTART, ("runner.sync_mode=round",)),
    "async": ("one", QUICKSTART, ("runner.sync_mode=async", "runner.epochs=1")),
    "geo heat": ("ml-1m", QUICKSTART, ("runner.geo_merge=heat",)),
    "geo adaptive, own pace": ("ml-1m", QUICKSTART, ("runner.geo_step=100", "runner.pace=own")),
    **{f"geo {merge}": ("one", QUICKSTART, (f"runner.geo_merge={merge}", "runner.epochs=1")) for merge in ARRIVAL},
    "round, server adam": ("ml-1m", QUICKSTART, ("runner.sync_mode=round", "server_optimizer.class=adam")),
    "negatives drawn": ("ml-1m", QUICKSTART, ("runner.negatives=4", "runner.epochs=1")),
    "bpr": ("ml-1m", QUICKSTART, ("hyper_parameters.loss=bpr", "runner.epochs=1")),
    "gmf": (
        "ml-1m",
        QUICKSTART,
        (
            "hyper_parameters.mode=NCF_GMF",
            "runner.local_sparse=[mf_user.weight]",
            "runner.remote_sparse=[]",
            "runner.epochs=1",
        ),
    ),
    "bf16, int8": (
        "ml-1m",
        QUICKSTART,
        ("runner.compression=int8", "runner.pull_compression=bf16", "runner.epochs=1"),
    ),
    "power of choice": ("ml-1m", QUICKSTART, (*COORDINATED, "runner.client_selector=power_of_choice")),
    "random selector, round": (
        "ml-1m",
        QUICKSTART,
        (*COORDINATED, "runner.client_selector=random", "runner.sync_mode=round"),
    ),
}


def record(out: Path, names: list[str]) -> None:
    """Run the jobs of these names, or all, and write each one's figures as soon as they are known."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="fedps-figures-") as folder:
        prepared: dict[str, Path] = {}
        for name in names or JOBS:
            data, job, overrides = JOBS[name]
            if data not in prepared:
                prepared[data] = Path(folder, data)
                _fedps("data", "prepare", "movielens", "--out", str(prepared[data]), "--or-synthetic", *SETS[data])
            figures[name] = _figures(job, prepared[data], overrides, Path(folder, "run"))
            print(f"{name}: {figures[name]['metrics']}", file=sys.stderr, flush=True)
            out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _figures(job: Path, data: Path, overrides: tuple[str, ...], run: Path) -> dict[str, Any]:
    home = tempfile.mkdtemp(prefix="run-", dir=run.parent)
    keys = [f"runner.{kind}_data_dir={data / kind}" for kind in ("train", "test")] + ["runner.need_dump=false"]
    keys += [f"runner.model_save_path={home}/model", *overrides] if "config_fl" in job.name else [*overrides]
    words = [w for key in keys for w in ("-o", key)]
    summary = json.loads(_fedps("run", str(job), "--json", "--run_dir", f"{home}/run", *words))
    rounds = [
        {k: r[k] for k in ("selected", "loss", "auc", "train_auc", "hr@10", "ndcg@10")} for r in summary["rounds"]
    ]
    return {"metrics": summary["metrics"], "rounds": rounds, "samples": summary["samples"], "bytes": summary["bytes"]}


def _fedps(*words: str) -> str:
    command = [sys.executable, "-m", "fedps", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(
            f"{' '.join(words)}: ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return a line for every job: the same, or what differs; bytes are shown with their difference."""
    lines = []
    for name in before.keys() & after.keys():
        one, other = before[name], after[name]
        moved = [k for k in ("metrics", "rounds", "samples") if one[k] != other[k]]
        more = {k: other["bytes"][k] - n for k, n in one["bytes"].items()}
        lines.append(f"{name}: {'MOVED: ' + ', '.join(moved) if moved else 'the same'}; bytes {more}")
    return sorted(lines)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["record", out, *names]:
            record(Path(out), names)
        case ["compare", one, other]:
            print(*compare(json.loads(Path(one).read_text()), json.loads(Path(other).read_text())), sep="\n")
        case _:
            raise SystemExit(__doc__)
