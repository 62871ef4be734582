"""The original's job file (PaddlePaddle's `config_fl.yaml`) in our words.

Most of its keys are ours too. Those that are not stand in the tables below: spelled otherwise, without a meaning here, or
refused. They are taken out of the tree before it is judged, each with one note that says why; what is off (false, 0,
empty) asks for nothing and is left out in silence. `original_tables` does the same for `table_parameters`.
"""

from typing import Any, NamedTuple

from fedps.config.job import Job
from fedps.config.mistakes import nearest, shown
from fedps.config.original.tables import translate_tables

Tree = dict[str, Any]

RENAMED = {"runner.with_coodinator": "runner.with_coordinator"}

HDFS = "files are read and written where this machine sees them; mount the remote folder"
PYTHON_READER = "thread_num sets how many read at the same time"
MEANINGLESS = {  # key → why
    "runner.use_xpu": "training runs on the CPU, or on CUDA with use_gpu",
    "runner.use_visual": "each run writes report.html, and events.jsonl for other tools",
    "runner.use_fleet": "a run is always distributed",
    "runner.use_save_data": "the data is not written again",
    "runner.use_auc": "the AUC over all clients is always computed, anew for each epoch",
    "runner.auc_num": "there is one AUC, over all clients",
    "runner.model_mode": "hyper_parameters.mode or runner.model chooses the network",
    "runner.num_workers": PYTHON_READER,
    "runner.batch_generator": "reader_type DataLoader or RecDataset with train_reader_path reads by your own class",
    "runner.user_define_reader": "reader_type DataLoader or RecDataset with train_reader_path reads by your own class",
    "runner.parse_ins_id": "samples have no ids of their own; a dump line begins with an empty one",
    "runner.parse_content": "samples have no content beside their slots",
    "runner.fs_name": HDFS,
    "runner.fs_ugi": HDFS,
    "runner.fs_client": HDFS,
    "hyper_parameters.adam_d2sum": "servers follow optimizer.class; there is no Adam with d2sum",
    "hyper_parameters.optimizer.strategy": "runner.sync_mode says when values are exchanged",
    "stat_var_names": "no variable of the network is left out, so none needs to be kept by name",
    "workspace": "{workspace} in a text is the job file's own folder",
}
SECRET = ("runner.fs_client", "runner.fs_ugi")  # passwords; not repeated
REFUSED: dict[str, dict[str | int, str]] = {  # key → value → why
    "runner.sync_mode": {
        "heter": "trains across kinds of devices; use one of geo, sync, async, round",
        "gpubox": "trains with servers on GPUs; use one of geo, sync, async, round",
    },
    "runner.is_fl_ps_mode": {
        1: "two parties with different features of the same samples are not trained by this job; leave the key out"
    },
}
OPTIONAL_PATHS = ("dump_fields_path", "warmup_model_path", "infer_load_path")  # empty means none


class Told(NamedTuple):
    """Sentences for people, in the order found: notes, and mistakes that stop the job."""

    notes: list[str]
    mistakes: list[str]


def rename(tree: Tree, told: Told, both: bool = True) -> None:
    """Give keys their names here.

    Args:
        tree: what the file says; changed.
        told: what is found is added here.
        both: whether the other spelling in the same place stands; else the old one, which came later, replaces it.
    """
    for old, new in RENAMED.items():
        section, key = _at(tree, old)
        if section is None or key not in section:
            continue
        value, name = section.pop(key), new.rpartition(".")[2]
        if both and name in section and section[name] != value:
            told.mistakes.append(f"{old}: {shown(value)}: {new} is here too and says otherwise; keep {new}")
            continue
        section[name] = value
        told.notes.append(f"{old}: {shown(value)}: is read as {new}, the right spelling")


def drop_sections(tree: Tree, told: Told) -> None:
    """Leave out sections that the original drops unread, unless one may be a real one's wrong spelling."""
    for name in [n for n, value in tree.items() if isinstance(value, dict) and n not in Job.model_fields]:
        if name not in MEANINGLESS and not nearest(name).startswith("did you mean"):
            del tree[name]
            told.notes.append(f"{name}: the original leaves this section unread, and so it is here")


def translate(tree: Tree, told: Told) -> None:
    """Put the original's values in our words; what means nothing here is taken out.

    Args:
        tree: what the file and the overrides say; changed.
        told: what is found is added here.
    """
    for key, why in MEANINGLESS.items():
        section, name = _at(tree, key)
        if section is not None and name in section and (value := section.pop(name)):
            value = "…" if key in SECRET else shown(value)
            told.notes.append(f"{key}: {value}: has no effect here: {why}")
    for key, reasons in REFUSED.items():
        section, name = _at(tree, key)
        value = None if section is None else section.get(name)
        if isinstance(value, (str, int)) and value in reasons:
            told.mistakes.append(f"{key}: {shown(value)}: {reasons[value]}")
            del section[name]  # type: ignore[union-attr]
    runner = tree.get("runner")
    if isinstance(runner, dict):
        _switch_off(runner)
        _window(runner, told)
        _empty_paths(runner, told)
    translate_tables(tree, told.notes, told.mistakes)


def _switch_off(runner: Tree) -> None:
    """Take out `is_fl_ps_mode: 0`, which asks for what is done anyway."""
    if "is_fl_ps_mode" in runner and not runner["is_fl_ps_mode"]:
        del runner["is_fl_ps_mode"]


def _window(runner: Tree, told: Told) -> None:
    """Take out `geo_step: 0`, which makes geo async in the original."""
    if type(runner.get("geo_step")) is not int or runner["geo_step"] != 0:
        return
    del runner["geo_step"]
    mode = runner.get("sync_mode", "geo")
    if mode == "geo":
        runner["sync_mode"] = "async"
        told.notes.append("runner.geo_step: 0: geo without a window is async, as in the original: sync_mode is async")
    else:
        told.notes.append(f"runner.geo_step: 0: has no effect with sync_mode {mode}, only with geo")


def _empty_paths(runner: Tree, told: Told) -> None:
    for key in OPTIONAL_PATHS:
        if runner.get(key) == "":
            del runner[key]
    if runner.get("model_save_path") == "":
        del runner["model_save_path"]
        told.notes.append("runner.model_save_path: '': an epoch is saved all the same, in the run folder")


def _at(tree: Tree, key: str) -> tuple[Tree | None, str]:
    """Return the section that a dotted key stands in, None if there is none, and the key's last part."""
    *above, last = key.split(".")
    at: Any = tree
    for name in above:
        at = at.get(name) if isinstance(at, dict) else None
    return (at if isinstance(at, dict) else None), last
