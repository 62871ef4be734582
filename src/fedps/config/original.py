"""The original's job file (PaddlePaddle's `config_fl.yaml`) in our words.

Most of its keys are ours too. Those that are not stand in the tables below: spelled otherwise, without a meaning here, or
refused. They are taken out of the tree before it is judged, each with one note that says why; what is off (false, 0,
empty) asks for nothing and is left out in silence.

Its `table_parameters.NAME.accessor.…` is a table's optimizer and the start of its rows. It gives the first float of a row
(`embed`) and the others (`embedx`) a rule each; here a row has one rule, that of `embedx`. The other keys there tell how
its servers store rows and which rows they save: one note a table names them.

Its `rank/` jobs (PaddleRec's DNN, DeepFM, DCN and their like) count their inputs among the hyper-parameters: `SLOTS` become
features.
"""

from typing import Any, NamedTuple

from fedps.config.job import Job
from fedps.config.mistakes import close, nearest, shown

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
        1: "two parties with different features of the same samples are trained by `fedps vertical run`, which reads this file"
    },
}
SLOTS = ("sparse_inputs_slots", "sparse_feature_number", "dense_input_dim", "sparse_feature_dim")  # of hyper_parameters
OPTIONAL_PATHS = ("dump_fields_path", "warmup_model_path", "infer_load_path")  # empty means none
RULES = {  # the original's rule → optimizer class here, and the section of its constants there
    "SparseNaiveSGDRule": ("sgd", "naive"),
    "SparseAdaGradSGDRule": ("row_adagrad", "adagrad"),
    "StdAdaGradSGDRule": ("adagrad", "adagrad"),
    "SparseAdamSGDRule": ("lazy_adam", "adam"),
    "SparseSharedAdamSGDRule": ("shared_adam", "adam"),
}
FROM_ZERO = "whose sum starts at 0 (learning_rate times the root of initial_g2sum takes the same steps in the long run)"
CONSTANTS = {
    "learning_rate": "learning_rate",
    "initial_g2sum": "initial_g2",
    "beta1_decay_rate": "beta1",
    "beta2_decay_rate": "beta2",
    "ada_epsilon": "epsilon",
}
STORED = (  # of how the original stores and saves rows
    "table_class", "type", "shard_num", "compress_in_save", "enable_sparse_table_cache", "sparse_table_cache_rate",
    "sparse_table_cache_file_num", "use_gpu_graph",
)  # fmt: skip
ACCESSOR = (
    "accessor_class", "class", "fea_dim", "embedx_dim", "embedx_threshold", "ctr_accessor_param",
    "table_accessor_save_param", "graph_sgd_param",
)  # fmt: skip
TABLE_KEYS = (
    "optimizer",
    "initial_range",
    "accessor",
    *STORED,
)  # a table's name, dots and all, ends before one of these


class Remarks(NamedTuple):
    """Sentences for people, in the order found: notes, and mistakes that stop the job."""

    notes: list[str]
    mistakes: list[str]


def rename(tree: Tree, remarks: Remarks, both: bool = True) -> None:
    """Give keys their names here.

    Args:
        tree: what the file says; changed.
        remarks: what there is to say is added here.
        both: whether the other spelling in the same place stands; else the old one, which came later, replaces it.
    """
    for old, new in RENAMED.items():
        section, key = _at(tree, old)
        if section is None or key not in section:
            continue
        value, name = section.pop(key), new.rpartition(".")[2]
        if both and name in section and section[name] != value:
            remarks.mistakes.append(f"{old}: {shown(value)}: {new} is here too and says otherwise; keep {new}")
            continue
        section[name] = value
        remarks.notes.append(f"{old}: {shown(value)}: is read as {new}, the right spelling")


def drop_sections(tree: Tree, remarks: Remarks) -> None:
    """Leave out sections that the original drops unread, unless one may be a real one's wrong spelling."""
    for name in [n for n, value in tree.items() if isinstance(value, dict) and n not in Job.model_fields]:
        if name not in MEANINGLESS and not nearest(name).startswith("did you mean"):
            del tree[name]
            remarks.notes.append(f"{name}: the original leaves this section unread, and so it is here")


def translate(tree: Tree, remarks: Remarks) -> None:
    """Put the original's values in our words; what means nothing here is taken out.

    Args:
        tree: what the file and the overrides say; changed.
        remarks: what there is to say is added here.
    """
    for key, why in MEANINGLESS.items():
        section, name = _at(tree, key)
        if section is not None and name in section and (value := section.pop(name)):
            value = "…" if key in SECRET else shown(value)
            remarks.notes.append(f"{key}: {value}: has no effect here: {why}")
    for key, reasons in REFUSED.items():
        section, name = _at(tree, key)
        value = None if section is None else section.get(name)
        if isinstance(value, (str, int)) and value in reasons:
            remarks.mistakes.append(f"{key}: {shown(value)}: {reasons[value]}")
            del section[name]  # type: ignore[union-attr]
    runner = tree.get("runner")
    if isinstance(runner, dict):
        _switch_off(runner)
        _window(runner, remarks)
        _empty_paths(runner, remarks)
        _shared_tables(runner, remarks)
    _slots(tree, remarks)
    tables = tree.get("table_parameters")
    if isinstance(tables, dict):
        for name, table in tables.items():
            if isinstance(table, dict):
                _Table(f"table_parameters.{name}", table, remarks).translate()


def _shared_tables(runner: Tree, remarks: Remarks) -> None:
    """Tell who brings a file of the original, which names both readers, that user rows are not shared here."""
    of_original = runner.get("train_reader_path") and runner.get("infer_reader_path")
    if of_original and runner.get("local_sparse") is None and not runner.get("remote_sparse"):
        remarks.notes.append(
            "runner.local_sparse, remote_sparse: neither is given: user rows stay with their clients; PaddlePaddle shares"
            " all tables then, as local_sparse: [] does here"
        )


def _slots(tree: Tree, remarks: Remarks) -> None:
    """Make features of the inputs that a job of PaddleRec's `rank/` counts, in the order in which its readers write them.

    The first of `sparse_inputs_slots` is the label, the others have an id each, all of one table; then come the numbers.
    """
    hyper = tree.get("hyper_parameters")
    found = {k: hyper[k] for k in SLOTS if k in hyper} if isinstance(hyper, dict) else {}
    if not found:
        return
    said = ", ".join(f"{key} {shown(value)}" for key, value in found.items())
    if tree.get("features"):
        remarks.notes.append(
            f"hyper_parameters: {said}: are left to the network; the section features says what is read"
        )
        return
    slots, rows, dense = (found.get(key, 0) for key in SLOTS[:3])
    if any(type(n) is not int for n in (slots, rows, dense)) or slots < 2 or rows < 1 or dense < 0:
        remarks.notes.append(
            f"hyper_parameters: {said}: are left to the network; state under features what the data holds, or give"
            " sparse_inputs_slots (with the label) and sparse_feature_number, from which features are made"
        )
        return
    features: Tree = {"click": {"kind": "label"}, "slot_1": {"kind": "id", "rows": rows, "column": "1"}}
    features |= {f"slot_{k}": {"kind": "id", "table": "slot_1", "column": str(k)} for k in range(2, slots)}
    features |= {"dense_feature": {"kind": "number", "dim": dense}} if dense else {}
    tree["features"] = features
    remarks.notes.append(
        f"hyper_parameters: {said}: are read as features click (the label), slot_1 to slot_{slots - 1} (an id each, below"
        f" {rows}, of one table){f' and dense_feature ({dense} numbers)' * bool(dense)}, in the order of PaddleRec's readers;"
        " write a section features to say otherwise"
    )


def _switch_off(runner: Tree) -> None:
    """Take out `is_fl_ps_mode: 0`, which asks for what is done anyway."""
    if "is_fl_ps_mode" in runner and not runner["is_fl_ps_mode"]:
        del runner["is_fl_ps_mode"]


def _window(runner: Tree, remarks: Remarks) -> None:
    """Take out `geo_step: 0`, which makes geo async in the original."""
    if type(runner.get("geo_step")) is not int or runner["geo_step"] != 0:
        return
    del runner["geo_step"]
    mode = runner.get("sync_mode", "geo")
    if mode == "geo":
        runner["sync_mode"] = "async"
        remarks.notes.append(
            "runner.geo_step: 0: geo without a window is async, as in the original: sync_mode is async"
        )
    else:
        remarks.notes.append(f"runner.geo_step: 0: has no effect with sync_mode {mode}, only with geo")


def _empty_paths(runner: Tree, remarks: Remarks) -> None:
    for key in OPTIONAL_PATHS:
        if runner.get(key) == "":
            del runner[key]
    if runner.get("model_save_path") == "":
        del runner["model_save_path"]
        remarks.notes.append("runner.model_save_path: '': an epoch is saved all the same, in the run folder")


def _at(tree: Tree, key: str) -> tuple[Tree | None, str]:
    """Return the section that a dotted key stands in, None if there is none, and the key's last part."""
    *above, last = key.split(".")
    at: Any = tree
    for name in above:
        at = at.get(name) if isinstance(at, dict) else None
    return (at if isinstance(at, dict) else None), last


class _Table:
    """One table's section, with its dotted key and what there is to tell."""

    def __init__(self, key: str, table: Tree, remarks: Remarks) -> None:
        self._key, self._table, self._notes, self._mistakes = key, table, remarks.notes, remarks.mistakes
        self._idle: list[str] = []  # keys without effect

    def translate(self) -> None:
        """Replace the original's keys by ours."""
        self._idle += [k for k in STORED if k in self._table]
        for key in self._idle:
            del self._table[key]
        accessor = self._section(self._table, "accessor", self._key)
        if accessor is not None:
            self._accessor(accessor)
        if self._idle:
            self._notes.append(f"{self._key}: {', '.join(self._idle)}: no effect here: rows have no such storage")

    def _accessor(self, accessor: Tree) -> None:
        above = f"{self._key}.accessor"
        self._idle += [f"accessor.{k}" for k in ACCESSOR if k in accessor]
        embed = self._section(accessor, "embed_sgd_param", above)
        embedx = self._section(accessor, "embedx_sgd_param", above)
        for key in sorted(set(accessor) - set(ACCESSOR)):
            self._mistakes.append(f"{above}.{key}: {shown(accessor[key])}: there is no such key; there are {_KEYS}")
        if embed is not None and embedx is not None and embed != embedx:
            self._idle.append("accessor.embed_sgd_param (a row has one rule, that of embedx_sgd_param)")
        which = "embed" if embedx is None else "embedx"
        rule = embed if embedx is None else embedx
        if rule is not None:
            self._rule(rule, f"{above}.{which}_sgd_param", f"accessor.{which}_sgd_param")

    def _rule(self, param: Tree, key: str, short: str) -> None:
        """Set the table's optimizer and start from one `…_sgd_param`."""
        name = param.pop("name", None)
        if name is not None and (not isinstance(name, str) or name not in RULES):
            near = close(str(name), list(RULES))
            meant = f"; did you mean {near[0]!r}?" if near else ""
            self._mistakes.append(f"{key}.name: {shown(name)}: must be one of {', '.join(RULES)}{meant}")
            return
        used = RULES[name][1] if name else next((k for k in param if k in ("naive", "adagrad", "adam")), "")
        constants = self._section(param, used, key) or {}
        self._idle += [f"{short}.{k}" for k in param]
        self._idle += [f"{short}.{used}.weight_bounds"] if constants.pop("weight_bounds", None) is not None else []
        start = constants.pop("initial_range", None)
        unknown = sorted(set(constants) - set(CONSTANTS))
        for k in unknown:
            there = ", ".join([*CONSTANTS, "initial_range", "weight_bounds"])
            self._mistakes.append(f"{key}.{used}.{k}: {shown(constants[k])}: there is no such key; there are {there}")
        given = {CONSTANTS[k]: value for k, value in constants.items() if k in CONSTANTS}
        if name:
            given["class"] = RULES[name][0]
        if given.get("class") == "adagrad":
            given.pop("initial_g2", None)
            self._idle.append(f"{short}: StdAdaGradSGDRule is adagrad, {FROM_ZERO}")
        self._place(given, start)

    def _place(self, optimizer: Tree, start: Any) -> None:
        """Set our keys, unless the file has them already."""
        own = self._table.get("optimizer")
        if optimizer and own and (not isinstance(own, dict) or any(v is not None for v in own.values())):
            self._mistakes.append(f"{self._key}.optimizer: accessor says it too, in the original's words; keep one")
        elif optimizer:
            self._table["optimizer"] = optimizer
        if start is not None and self._table.get("initial_range") is not None:
            self._mistakes.append(f"{self._key}.initial_range: accessor says it too, in the original's words; keep one")
        elif start is not None:
            self._table["initial_range"] = start

    def _section(self, above: Tree, name: str, key: str) -> Tree | None:
        """Take a section out of the one above; None if it is not there or is none."""
        section = above.pop(name, None)
        if section is None or isinstance(section, dict):
            return section
        self._mistakes.append(f"{key}.{name}: {shown(section)}: must be a section: its keys indented below it")
        return None


_KEYS = ", ".join(("embed_sgd_param", "embedx_sgd_param", *ACCESSOR))
