"""What deploy/ starts are commands that there are, with the flags that they have."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fedps.cli.app import app

DEPLOY = Path(__file__).parents[1] / "deploy"
SET = {"HUB": "hub.example.org", "CLIENTS": "3", "NAME": "north", "SERVERS": "a:1,b:1", "COORDINATOR": "c:1"}


def commands() -> Iterator[tuple[str, list[str]]]:
    for name, service in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].items():
        yield f"compose {name}", shlex.split(_filled(service["command"]))
    for unit in sorted((DEPLOY / "systemd").iterdir()):
        (line,) = re.findall(r"^ExecStart=(.*)", unit.read_text(), re.MULTILINE)
        yield unit.name, shlex.split(_filled(line.replace("%i", "0")))[1:]
    for each in yaml.safe_load_all((DEPLOY / "kubernetes" / "hub.yaml").read_text()):
        if each["kind"] == "StatefulSet":
            (container,) = each["spec"]["template"]["spec"]["containers"]
            yield each["metadata"]["name"], container["args"]


def _filled(text: str) -> str:
    return re.sub(r"\$\{(\w+)[^}]*\}", lambda found: SET[found[1]], text)


@pytest.mark.parametrize(("what", "command"), list(commands()), ids=lambda each: each if isinstance(each, str) else "")
def test_a_command_is_one_of_ours(what: str, command: list[str]) -> None:
    function, given, _ = app.parse_args(command, print_error=False, exit_on_error=False)
    assert function.__name__ == command[0], what
    assert "--certs" in command, "roles on several machines know one another"
    assert given.arguments
