"""The original's two-party job (`is_fl_ps_mode: 1`, its test_fl_ps), read as a vertical one.

There party A has 26 categories and B 13 numbers and the label of the same lines, each read through a generator of its own.
What its file could not say (networks, who is where) may stand in our own sections beside; these win.
"""

from collections.abc import Mapping
from typing import Any

from fedps.config.sections.vertical import LINE

Tree = dict[str, Any]
GENERATOR = "python dataset_generator_{}.py"
UNUSED = {  # keys of runner → why they have nothing to switch
    "sync_mode": "a step is one batch of both parties, whose weights stay with them: there are no servers",
    "reader_thread_num": "a party's files are read one after the other, once",
    "use_gpu": "parties train on the CPU",
    "model_path": "networks are torch modules, named by parties.*.bottom and top",
}
OF_NETWORKS = ("sparse_inputs_slots", "sparse_feature_number", "sparse_feature_dim", "dense_input_dim", "fc_sizes")
OF_RUNNER = {"batch_size": "train_batch_size", "epoch_num": "epochs"}


def is_fl_ps(tree: Mapping[str, Any]) -> bool:
    """Tell whether a job file is the original's for two parties."""
    runner = tree.get("runner")
    return isinstance(runner, dict) and bool(runner.get("is_fl_ps_mode"))


def notes_of(tree: Mapping[str, Any]) -> list[str]:
    """Return what there is to say of such a job's keys."""
    unused = [f"runner.{key}: has no effect: {why}" for key, why in UNUSED.items() if key in tree["runner"]]
    return [
        *unused,
        "parties.*.id: samples are matched by file and line, as there: both parties must have the same files",
    ]


def as_vertical(tree: Mapping[str, Any]) -> Tree:
    """Return such a job in the keys of a vertical one.

    Args:
        tree: what the file says; not changed.
    """
    runner, hyper, vertical = (dict(tree.get(key) or {}) for key in ("runner", "hyper_parameters", "vertical"))
    optimizer = dict(hyper.get("optimizer") or {})
    if optimizer.pop("adam_lazy_mode", False) and str(optimizer.get("class", "adam")).lower() == "adam":
        optimizer["class"] = "lazy_adam"
    slots, rows, numbers = (
        hyper.get(key, usual)
        for key, usual in (("sparse_inputs_slots", 27), ("sparse_feature_number", 1000001), ("dense_input_dim", 13))
    )
    categories: Tree = {f"C{k}": {"kind": "id", "table": "C1"} for k in range(2, slots)}
    parties: dict[str, Tree] = {
        "A": {"features": {"C1": {"kind": "id", "rows": rows}, **categories}},
        "B": {"features": {"label": {"kind": "label"}, "dense_feature": {"kind": "number", "dim": numbers}}},
    }
    own = {name: part or {} for name, part in (tree.get("parties") or {}).items()}
    for name, party in parties.items():
        party |= {"data": runner.get("train_files_path", "train_data"), "id": LINE}
        party |= {"pipe_command": GENERATOR.format(name)} | own.get(name, {})
    stated: Tree = {"active": "B", "passive": ["A"]} | {ours: runner[k] for k, ours in OF_RUNNER.items() if k in runner}
    rest = {key: part for key, part in tree.items() if key not in ("runner", "hyper_parameters", "parties", "vertical")}
    if "sparse_feature_dim" in hyper:
        hyper["embedding_dim"] = hyper["sparse_feature_dim"]
    if vertical.get("network") != "own":  # whose classes may ask for them by name
        hyper = {key: value for key, value in hyper.items() if key not in OF_NETWORKS}
    return {
        **rest,
        "vertical": stated | vertical,
        "hyper_parameters": hyper | {"optimizer": optimizer},
        "parties": {name: parties.get(name, {}) | own.get(name, {}) for name in (*parties, *own)},
    }
