"""What the README and the guides print does what they say: commands run on small data, YAML is a job, Python runs.

Commands run as printed, but `fedps run` in this one process; `make test-all` runs each in a shell of its own, in processes.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from fedps import ClientSelectorBase, FLClient
from fedps.cli import main
from fedps.cli.app import app
from fedps.launch import launcher

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHOWN = {  # blocks that nobody types, by what they begin with
    'client "0"': "a picture",
    "network (torch)": "a picture",
    "north ───": "a picture",
    "end of window k": "a picture",
    "passive                ": "a picture",
    "client  ── RoundReport": "a picture",
    "client        digest": "a picture",
    "waiting for server": "what a worker says",
    "time: [": "what logs say",
    "coordinator 0: round 2": "what logs say",
    "2026-01-01": "what logs say",
    "ratings.csv: text": "what a command says",
    "import torch\nweights": "five lines without fedps, which serving/test_export_forms.py runs",
}
NOT_RUN = {  # commands, by their first words, and a page that has a test of its own
    "from-paddlepaddle": "test_from_paddlepaddle.py runs them in the tutorial's folder",
    "three-organisations": "make organisations does its steps, in network namespaces",
    "make": "sets up an environment of its own, with these tests in it",
    "python -m bench": "measures for minutes; tests/bench runs its parts",
    "fedps serve ": "answers until it is stopped; serving/test_http.py starts and asks it",
    "fedps certs serve ": "answers until it is stopped; launch/test_enrolment.py starts and asks it",
    "fedps certs join": "asks it; launch/test_enrolment.py does",
    "fedps certs renew --at": "asks it; launch/test_enrolment.py does",
    "curl": "asks what is served",
    "fedps audit": "looks at what servers in processes of their own write; access/test_audit.py does",
    "fedps server": "for several machines; test_cli_roles.py starts each role on this one",
    "fedps coordinator": "for several machines; test_cli_roles.py starts each role on this one",
    "fedps worker": "for several machines; test_cli_roles.py starts each role on this one",
    "fedps vertical": "starts processes that train; vertical/test_vertical_cli.py does",
}
LONG = ("heterogeneity",)  # pages that train for long
JOBS = {
    "distillation": "distillation.yaml",
    "features": "films.yaml",
    "vertical": "vertical_movielens.yaml",
}  # of which a page speaks, beside the quick start's
CONTEXT = {  # what a piece of Python stands in, by its first words
    "def loss": "from torch import Tensor\n",
    "row_init": "from fedps.types import Init\n",
    "from fedps.data.prepare": "import numpy as np\nfrom pathlib import Path\n",
    '{"3"': "from fedps import FLStrategy\n",
    "def train": "import sys, fedps\nrole = fedps.init()\nif not role.is_worker():\n    sys.exit(role.run())\n",
}


class Block(NamedTuple):
    """What stands between two fences.

    Attributes:
        where: page and line.
        language: after the fence; empty if none is named.
        text: its lines.
    """

    where: str
    language: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    for found in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", page.read_text(), re.MULTILINE | re.DOTALL):
        line = page.read_text()[: found.start()].count("\n") + 1
        yield Block(f"{page.name}, line {line}", found[2], textwrap.dedent(found[3]))


def commands(block: Block) -> list[str]:
    """Return the commands of a block of shell lines, without their folder; none of another block."""
    if block.language not in ("", "sh") or block.where.startswith(tuple(NOT_RUN)):
        return []
    if block.text.lstrip().startswith(tuple(SHOWN)):
        return []
    lines = block.text.replace("\\\n", " ").replace(".venv/bin/", "").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def is_script(block: Block) -> bool:
    """Say whether it is Python that is started in every role."""
    return block.language == "python" and ("fedps.init(" in block.text or "role." in block.text)


def is_python(block: Block) -> bool:
    """Say whether it is Python of another kind."""
    return block.language == "python" and not is_script(block)


def in_context(block: Block) -> str:
    return "".join(context for words, context in CONTEXT.items() if block.text.startswith(words)) + block.text


def pages_with(wanted: Callable[[Block], object]) -> pytest.MarkDecorator:
    """Return what runs a test once for each page that has such a block."""
    pages = [page for page in PAGES if any(wanted(block) for block in blocks(page))]
    long = [pytest.param(p, marks=pytest.mark.slow) if p.stem in LONG else p for p in pages]
    return pytest.mark.parametrize("page", long, ids=lambda page: page.stem)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an `ml-1m.zip` of 120 users and 420 films, as its publisher writes them; some users are busy."""
    folder, rng = tmp_path_factory.mktemp("published"), np.random.default_rng(0)
    taken = [(user, 1 + film) for user in range(1, 121) for film in rng.permutation(420)[: 30 if user % 12 else 210]]
    files = {
        "ratings": [f"{user}::{film}::{2 + film % 4}::{978300000 + k}" for k, (user, film) in enumerate(taken)],
        "users": [f"{user}::F::25::3::{user % 10}0117" for user in range(1, 121)],
        "movies": [f"{film}::Film {film} ({1950 + film % 50})::Drama" for film in range(1, 421)],
    }
    with zipfile.ZipFile(folder / "ml-1m.zip", "w") as packed:
        for name, lines in files.items():
            packed.writestr(f"ml-1m/{name}.dat", "\n".join(lines) + "\n")
    return folder


@pytest.fixture
def here(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a checkout with small data, as one who reads the page does."""
    monkeypatch.setenv("FEDPS_DATA", str(published))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", "examples")
    do(["fedps", "data", "prepare", "movielens", "--out", ".data/ml-1m"], monkeypatch)
    shutil.copy(".data/ml-1m/train/0.csv", "examples/public.csv")
    write_tables()
    return tmp_path


def write_tables() -> None:
    """Write what the guide to one's own data prepares: interactions of all and of two sites, and what is known of both."""
    taken = [(user, (user * 7 + k * 11) % 150, k) for user in range(40) for k in range(12)]
    rows = [f"u{user},f{film},{1 + (user + k) % 5},{1000 * k + user}\n" for user, film, k in taken]
    head = "userId,movieId,rating,timestamp\n"
    for name, part in (("ratings", rows), ("north", rows[:240]), ("south", rows[240:])):
        Path(f"{name}.csv").write_text(head + "".join(part))
    films = [f"f{film},Film {film},{'Crime|Drama' if film % 2 else 'Drama'},{film / 7:.1f}\n" for film in range(150)]
    Path("films.csv").write_text("movieId,title,genres,price\n" + "".join(films))
    Path("people.csv").write_text("userId,sex\n" + "".join(f"u{user},{'FM'[user % 2]}\n" for user in range(40)))


def do(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do a command of ours in this process."""
    monkeypatch.setattr(sys, "argv", words)
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, shlex.join(words)


def test_every_block_is_of_a_kind_that_is_run_and_every_exception_is_needed() -> None:
    every = [block for page in PAGES for block in blocks(page)]
    assert {block.language for block in every} == {"", "sh", "yaml", "json", "python"}
    for words in (*SHOWN, *NOT_RUN, *CONTEXT):
        assert any(words in f"{b.where}\n{b.text.replace('.venv/bin/', '')}" for b in every), words


@pages_with(commands)
@pytest.mark.parametrize("how", ["in this process", pytest.param("in a shell", marks=pytest.mark.slow)])
def test_commands_run_one_after_the_other(how: str, page: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "run", in_this_process(launcher.run))
    for block in blocks(page):
        for command in commands(block):
            last = max(map(str, here.glob("runs/quickstart-*")), default="")
            words = shlex.split(command.replace("runs/quickstart-...", last), comments=True)
            if words[0] == "fedps":
                app.parse_args(words[1:], exit_on_error=False, print_error=False)
            if any(" ".join(words).startswith(beginning) for beginning in NOT_RUN):
                continue
            if how == "in this process" and words[0] == "fedps":
                if not any(
                    word.endswith(".py") and Path(word).exists() for word in words
                ):  # a script runs in processes
                    do(words, monkeypatch)
            else:
                in_a_shell(command.replace("runs/quickstart-...", last), block.where)


def in_this_process(run: Any) -> Any:
    return lambda job, run_dir, in_process, *more: run(job, run_dir, True, *more)


def in_a_shell(command: str, where: str) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["/bin/sh", "-c", command], env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{where}: {command}\n{done.stderr}"


@pages_with(lambda block: block.language == "yaml")
def test_yaml_is_a_job(page: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block changes the job of which its page speaks, and what the blocks before it made of that."""
    tree = yaml.safe_load((here / "examples" / JOBS.get(page.stem, "quickstart.yaml")).read_text())
    found = list(blocks(page))
    if page.stem == "vertical":
        do(
            ["fedps", "data", "prepare", "movielens", "--task", "vertical", "--out", ".data/ml-1m-vertical"],
            monkeypatch,
        )
    for block in found:
        if block.language == "json":  # traces of two clients, which a job may name
            traces = json.loads(block.text)
            traces["clients"] = {str(k): traces["clients"][str(k % 2)] for k in range(10)}
            Path("examples/traces.json").write_text(json.dumps(traces))
    for block in found:
        if block.language == "yaml":
            for section, keys in yaml.safe_load(block.text).items():
                tree[section] = {**tree.get(section, {}), **keys}
            Path("examples/job.yaml").write_text(yaml.safe_dump(tree))
            do(["fedps", "config", "check", "examples/job.yaml"], monkeypatch)


@pages_with(is_python)
def test_python_runs(page: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "run", in_this_process(launcher.run))
    for number, block in enumerate(blocks(page)):
        if is_python(block):
            module = f"snippet_{page.stem.replace('-', '_')}_{number}"
            code = in_context(block)
            Path(f"examples/{module}.py").write_text(code)
            made: dict[str, object] = {"__name__": module}
            exec(compile(code, block.where, "exec"), made)
            for key, base in (("fl_client", FLClient), ("client_selector", ClientSelectorBase)):
                for name, kind in made.items():
                    if isinstance(kind, type) and issubclass(kind, base) and kind.__module__ == module:
                        job = ["-o", "runner.with_coordinator=true", "-o", f"runner.{key}={module}.{name}"]
                        do(["fedps", "run", "examples/quickstart.yaml", *job], monkeypatch)


@pytest.mark.slow
@pages_with(is_script)
def test_scripts_run(page: Path, here: Path) -> None:
    for block in blocks(page):
        if is_script(block):
            Path("script.py").write_text(in_context(block))
            in_a_shell("fedps run script.py -m examples/quickstart.yaml", block.where)
