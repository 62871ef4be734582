"""R9: loading data never runs code. No pickle in our own calls, no eval, no shell; a job file is data.

Three looks: at the text of the package, at a whole run under a guard that raises, and (in `privacy/test_hostile`) at
what hostile files do. Each has controls that it must catch.
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fedps
from fedps.training.plan import make_plan
from tests.conftest import MakeJob
from tests.privacy.guard import ALLOWED, CONTROLS

ROOT = Path(__file__).parents[1]
SOURCE = Path(fedps.__file__).parent
FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "subprocess", "joblib"}
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load",
    "torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "os.system", "os.popen",
}  # fmt: skip
# A pipe's `recv` unpickles. The launcher's pipes carry bytes; only a new process's arguments are pickled, by
# multiprocessing itself, from parent to child.
LOCAL = "launch/local/"
PIPES = {
    "launch/watch.py",
    f"{LOCAL}processes.py",
    f"{LOCAL}entry.py",
    f"{LOCAL}scripts.py",
    "script.py",
    "launch/company.py",
    "vertical/blinding.py",
}
# Who may start a program: the one place that runs `pipe_command`, if a flag allows it, a script's own processes, the
# compiler of our own generated text.
WRITES = {"serving/export.py": ["torch.save"]}  # plain tensors, for others to read; nothing here reads them back
PROGRAMS = {"data/read/command.py", f"{LOCAL}scripts.py", "native/compiler.py"}


def findings(text: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found += [name] * (name in FORBIDDEN_CALLS or name.endswith(("pipe.recv", "pipe.send")))
            found += [k.arg for k in node.keywords if k.arg in ("allow_pickle", "shell")]
    return found


def imports(text: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(text)))
    plain = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    return {name.split(".")[0] for name in plain | {str(n.module) for n in nodes if isinstance(n, ast.ImportFrom)}}


def test_the_package_calls_nothing_that_runs_data() -> None:
    texts = {str(p.relative_to(SOURCE)): p.read_text(encoding="utf-8") for p in SOURCE.rglob("*.py")}
    found = {name: f for name, text in texts.items() if (f := findings(text)) and WRITES.get(name) != f}
    starting = {name for name, f in found.items() if f == ["subprocess"]}
    assert set(found) == starting
    assert starting == PROGRAMS


def test_only_the_launcher_has_pipes_to_other_processes() -> None:
    texts = {str(p.relative_to(SOURCE)): p.read_text(encoding="utf-8") for p in SOURCE.rglob("*.py")}
    having = {name for name, text in texts.items() if "multiprocessing" in imports(text)}
    assert having == PIPES


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from dill import loads", "eval('1')", "np.load(f, allow_pickle=True)", "yaml.load(x)",
        "torch.load(f)", "os.popen('x')", "run('x', shell=True)", "self.pipe.recv()", "import marshal as m",
    ],
)  # fmt: skip
def test_the_control_is_found(text: str) -> None:
    assert findings(text)


def fedps_under_guard(tmp_path: Path, *commands: list[object]) -> dict[str, list[str]]:
    """Run fedps commands in one process that raises where data could run; return its report."""
    words = [str(w) for command in commands for w in ["--", *command]][1:]
    report = tmp_path / "guard.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.privacy.guard", str(report), *words], cwd=ROOT, capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(report.read_text())
    return found


def test_a_whole_run_loads_no_data_that_could_run(make_job: MakeJob, tmp_path: Path) -> None:
    job, run, out = tmp_path / "job.yaml", tmp_path / "run", tmp_path / "out"
    make_plan(make_job(epochs=1))  # the step is compiled before: that starts a compiler
    found = fedps_under_guard(
        tmp_path,
        ["run", job, "--in-process", "--run_dir", run, "--json"],
        ["export", run, "--out", out, "--private"],
        ["infer", job, "--weights", out / "model.safetensors", "--json"],
    )
    assert (run / "report.html").is_file()
    assert found["hits"] == []
    assert set(found["allowed"]) <= set(ALLOWED)
    assert found["stopped"] == list(CONTROLS), "the controls: the guard raises on each of these"
    assert found["stopped elsewhere"] == [], "and on none of them outside of fedps"


HOOK = "from tests.privacy import guard\nguard.install()\n"


@pytest.mark.slow
def test_no_process_of_a_run_loads_data_that_could_run(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "site" / "sitecustomize.py").parent.mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HOOK)
    make_plan(make_job(epochs=1, server_num=2))
    command = [sys.executable, "-m", "fedps", "run", str(tmp_path / "job.yaml"), "--run_dir", str(tmp_path / "run")]
    paths = [str(tmp_path / "site"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "ok"
    logs = [f.read_text() for f in (tmp_path / "run" / "log").iterdir()]
    assert len(logs) >= 12, "ten workers, two servers"
    assert not any("DataRanError" in text for text in [done.stderr, *logs])
    # the control: every process of such a run stands under the guard
    code = "import pickle; exec(compile('pickle.loads(pickle.dumps(1))', '', 'exec'), {'__name__': 'fedps.x', 'pickle': pickle})"
    stopped = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "DataRanError: pickle.loads by fedps.x" in stopped.stderr
