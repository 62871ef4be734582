"""R9: loading data never runs code. No pickle in our own calls, no eval, no shell; a job file is data."""

import ast
from pathlib import Path

import pytest

import fedps
from fedps.config import load_job
from fedps.errors import FedpsError, JobError
from fedps.table import snapshot

SOURCE = Path(fedps.__file__).parent
FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "subprocess"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "yaml.load", "yaml.unsafe_load", "torch.load", "torch.save", "os.system"}


def findings(text: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            found += [name for name in [ast.unparse(node.func)] if name in FORBIDDEN_CALLS]
            found += [k.arg for k in node.keywords if k.arg in ("allow_pickle", "shell")]
    return found


def test_the_package_calls_nothing_that_runs_data() -> None:
    assert {str(p): f for p in SOURCE.rglob("*.py") if (f := findings(p.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize(
    "text", ["import pickle", "from dill import loads", "eval('1')", "np.load(f, allow_pickle=True)", "yaml.load(x)"]
)
def test_the_control_is_found(text: str) -> None:
    assert findings(text)


HOSTILE = [
    "!!python/object/apply:os.system ['touch {canary}']",
    "runner: !!python/object/new:pathlib.Path ['{canary}']",
    'runner: {{model: \'__import__("os").system("touch {canary}")\'}}',
    "runner: {{pipe_command: 'touch {canary}'}}",
    "a: &a [x, x]\nb: &b [*a, *a]\nrunner: *b",
    "- 1",
    "runner: [",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_job_file_is_an_error_and_runs_nothing(text: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "job.yaml"
    path.write_text(text.format(canary=canary))
    with pytest.raises(JobError):
        load_job(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "payload", [b"", b"\x80\x04cos\nsystem\n.", b"\xff" * 64, (2**62).to_bytes(8, "little") + b"{}"]
)
def test_a_hostile_save_is_an_error(payload: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.safetensors").write_bytes(payload)
    (tmp_path / "s.json").write_bytes(payload)
    with pytest.raises(FedpsError, match="s"):
        snapshot.load(tmp_path, "s")
