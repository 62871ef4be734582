"""The original's `table_parameters.NAME.accessor.…` in our words: a table's optimizer and the start of its rows.

The original gives the first float of a row (`embed`) and the others (`embedx`) a rule each; here a row has one rule,
that of `embedx`. Its other keys tell how its servers store rows and which rows they save: one note a table names them.
"""

from typing import Any

from fedps.config.mistakes import close, shown

Tree = dict[str, Any]

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
    "table_class",
    "type",
    "shard_num",
    "compress_in_save",
    "enable_sparse_table_cache",
    "sparse_table_cache_rate",
    "sparse_table_cache_file_num",
    "use_gpu_graph",
)
ACCESSOR = (
    "accessor_class",
    "class",
    "fea_dim",
    "embedx_dim",
    "embedx_threshold",
    "ctr_accessor_param",
    "table_accessor_save_param",
    "graph_sgd_param",
)
TABLE_KEYS = (
    "optimizer",
    "initial_range",
    "accessor",
    *STORED,
)  # a table's name, dots and all, ends before one of these


def translate_tables(tree: Tree, notes: list[str], mistakes: list[str]) -> None:
    """Put each table's section in our words.

    Args:
        tree: the job; changed.
        notes: one sentence more for what a table has without effect here.
        mistakes: one sentence more for what cannot be read.
    """
    tables = tree.get("table_parameters")
    if not isinstance(tables, dict):
        return
    for name, table in tables.items():
        if isinstance(table, dict):
            _Table(f"table_parameters.{name}", table, notes, mistakes).translate()


class _Table:
    """One table's section, with its dotted key and what there is to tell."""

    def __init__(self, key: str, table: Tree, notes: list[str], mistakes: list[str]) -> None:
        self._key, self._table, self._notes, self._mistakes = key, table, notes, mistakes
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
