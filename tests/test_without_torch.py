"""Where torch is not installed, commands that need it say so in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.runs import write_job

NO_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, NoTorch())
"""


@pytest.mark.parametrize("command", ["run", "run in process", "worker", "infer", "infer weights"])
def test_a_command_says_how_torch_is_installed(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = write_job(tmp_path, compiled_step=False)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "sitecustomize.py").write_text(NO_TORCH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "none"), prepend=":")
    words = {
        "run": ["run", job, "--run_dir", tmp_path / "run"],
        "run in process": ["run", job, "--in-process", "--run_dir", tmp_path / "run"],
        "worker": ["worker", "-m", job, "--client", "0", "--servers", "127.0.0.1:1", "--run_dir", tmp_path / "run"],
        "infer": ["infer", job, "--run_dir", tmp_path],
        "infer weights": ["infer", job, "--weights", tmp_path / "weights.safetensors"],
    }[command]
    done = subprocess.run(
        [sys.executable, "-m", "fedps", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line == "error: torch is not installed here, and this needs it: pip install 'fedps[torch]'"
