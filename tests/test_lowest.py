"""The lowest versions that `make test-lowest` installs are those that the package allows."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = {"import-linter", "mypy", "ruff"}  # whose newest looks at the code


def test_each_bound_is_a_version_that_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    every = [*project["dependencies"], *(each for part in project["optional-dependencies"].values() for each in part)]
    bounds = dict(each.split(">=") for each in every if ">=" in each)
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    torch = tested.pop("torch")  # of which one build alone can be had
    assert tested == {name: bounds[name] for name in bounds.keys() - TOOLS - {"torch"}}
    assert re.search(rf"^torch=={torch}$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
