"""Mistakes that no single key shows: paths that are not there, counts and names that do not fit together."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedps.config.job import HyperParameters, Job

SHARED_KEYS = ("optimizer", "num_users", "num_items", "mf_dim", "mode", "fc_layers")


def mistakes_of(tree: Mapping[str, Any], job: Job | None = None) -> list[str]:
    """Return one sentence per mistake; what the tree alone tells, and, if it is whole, what the job tells."""
    found = _folders(tree) + _unknown_hyper_parameters(tree)
    if job is not None:
        found += _layers(job) + _lists(job) + _counts(job)
    return found


def _folders(tree: Mapping[str, Any]) -> list[str]:
    runner = tree.get("runner")
    found = []
    for key in ("train_data_dir", "test_data_dir"):
        value = runner.get(key) if isinstance(runner, dict) else None
        if not isinstance(value, str):
            continue
        folder = Path(value)
        if not folder.is_dir():
            found.append(
                f"runner.{key}: {value!r}: there is no such folder; prepare data with `fedps data prepare movielens"
                " --out DIR`"
            )
        elif not any(folder.glob("*.csv")):
            found.append(f"runner.{key}: {value!r}: holds no <client>.csv; name the folder that does, e.g. DIR/train")
    return found


def _unknown_hyper_parameters(tree: Mapping[str, Any]) -> list[str]:
    runner, hyper = tree.get("runner"), tree.get("hyper_parameters")
    own_model = isinstance(runner, dict) and runner.get("model") is not None
    if own_model or not isinstance(hyper, dict):
        return []
    found = []
    for key in set(hyper) - set(HyperParameters.model_fields):
        near = difflib.get_close_matches(str(key), SHARED_KEYS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(SHARED_KEYS)}"
        found.append(f"hyper_parameters.{key}: {hyper[key]!r}: the built-in networks have no such key; {hint}")
    return sorted(found)


def _layers(job: Job) -> list[str]:
    hyper = job.hyper_parameters
    if job.runner.model is not None:
        return []
    if hyper.mode != "NCF_GMF" and hyper.fc_layers[0] % 2:
        return [
            f"hyper_parameters.fc_layers: {list(hyper.fc_layers)}: the first size is user row + item row: make it even"
        ]
    return []


def _lists(job: Job) -> list[str]:
    runner = job.runner
    both = sorted(set(runner.local_sparse) & set(runner.remote_sparse))
    return [f"runner.local_sparse: {name!r}: is in remote_sparse too; keep it in one of them" for name in both]


def _counts(job: Job) -> list[str]:
    runner = job.runner
    files = sorted(runner.train_data_dir.glob("*.csv"))
    if runner.worker_num is not None and files and runner.worker_num != len(files):
        return [
            f"runner.worker_num: {runner.worker_num}: {runner.train_data_dir} holds {len(files)} clients"
            f" ({files[0].name} … {files[-1].name}); use {len(files)}, leave the key out, or prepare the data for"
            f" {runner.worker_num} clients"
        ]
    return []
