"""What the reader scripts of PaddleRec import, as far as they need it, in one module that is given to them by each name.

A command finds it as files in a folder on its path (`copy_to`), and a class in this process among its modules while its
own module is imported (`standing_in`). What is installed is never replaced. As a command imports this file by itself, it
imports little.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import Any

JOB_READERS = ("common_ps", "common")  # where a script's own folder of tools had them, newer and older
PADDLE = ("paddle", "paddle.io", "paddle.distributed", "paddle.distributed.fleet")
OTHERS = ("six", "paddle")
STANDING_IN = RLock()  # of the thread that imports: where workers are threads, modules are everybody's

string_types, integer_types, text_type, PY2, PY3 = (str,), (int,), str, False, True  # six's, that scripts may ask for


class IterableDataset:
    """Stands for `paddle.io.IterableDataset`, of which readers are subclasses: its `__iter__` yields samples."""


class YamlHelper:
    """Reads a job into dotted keys: `common_ps.YamlHelper`."""

    def load_yaml(self, path: str) -> dict[str, Any]:
        """Return a job's values by dotted key, e.g. `runner.train_batch_size`; and its folder, `config_abs_dir`."""
        import yaml  # noqa: PLC0415

        with open(path, encoding="utf-8") as file:  # noqa: PTH123  (quicker to import than pathlib's)
            tree = yaml.safe_load(file)
        flat: dict[str, Any] = {"yaml_path": path, "config_abs_dir": tree.get("folder", ".")}
        self._flatten(tree, "", flat)
        return flat

    def _flatten(self, tree: dict[str, Any], above: str, flat: dict[str, Any]) -> None:
        for key, value in tree.items():
            if isinstance(value, dict):
                self._flatten(value, f"{above}{key}.", flat)
            else:
                flat[above + key] = value


def __getattr__(name: str) -> Any:
    """Return one of fedps's own names, such as `MultiSlotDataGenerator`, that the original has in `fleet`."""
    fedps = import_module("fedps")
    if name not in fedps.__all__:
        raise AttributeError(f"{name}: is not installed; fedps stands in for what readers import, and has no {name!r}")
    return getattr(fedps, name)


def copy_to(tools: Path, modules: Path) -> None:
    """Write this module's text into folders, under the names by which scripts import it.

    Args:
        tools: for what a script looks up in the folder that it is told of.
        modules: for what it looks up among installed packages; only what is not installed goes there.
    """
    text = Path(__file__).read_bytes()
    for name in JOB_READERS:
        (tools / f"{name}.py").write_bytes(text)
    for name in _missing():
        (modules / f"{name}.py").write_bytes(text)


@contextmanager
def standing_in() -> Iterator[None]:
    """Let what is imported meanwhile find this module in place of those that are not installed."""
    with STANDING_IN:
        missing = _missing()
        added = [name for name in (*PADDLE, *OTHERS) if name.partition(".")[0] in missing]
        sys.modules |= dict.fromkeys(added, sys.modules[__name__])
        try:
            yield
        finally:
            for name in added:  # others look there for what is installed
                sys.modules.pop(name, None)


def _missing() -> list[str]:
    return [name for name in OTHERS if name not in sys.modules and find_spec(name) is None]


io = distributed = fleet = sys.modules[__name__]  # for `import paddle.distributed.fleet as fleet`
if __name__ == "paddle":
    sys.modules |= dict.fromkeys(PADDLE, sys.modules[__name__])
