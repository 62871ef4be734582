"""What the reader scripts of PaddleRec import by the name `common_ps`: only how they read their job.

A script is given the path of a folder that holds this file, under its older name `common` too:
`sys.path.append(sys.argv[2]); import common_ps`.
"""

from typing import Any

import yaml


class YamlHelper:
    """Reads a job into dotted keys."""

    def load_yaml(self, path: str) -> dict[str, Any]:
        """Return a job's values by dotted key, e.g. `runner.train_batch_size`; and its folder, `config_abs_dir`."""
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
