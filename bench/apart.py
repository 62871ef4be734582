"""Measure in a process of its own: one subject's memory, threads and imports are not another's.

The child is `python -m bench.one SUBJECT` (see `one`). It is told its options and where to write its result; lines
on its standard output say what it is at.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.records import Options, Result
from fedps.errors import FedpsError

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
Say = Callable[[str], None]


class BenchError(FedpsError):
    """A subject could not be measured; the message says why."""


def apart(subject: str, options: Options, say: Say) -> Result:
    """Run a subject in a fresh process with one thread a library.

    Args:
        subject: its name, as `subjects` has it.
        options: what to measure.
        say: told what it is at.

    Raises:
        BenchError: it failed; the message ends with what it wrote last.
    """
    with tempfile.TemporaryDirectory(prefix="fedps-bench-") as folder:
        answer, errors = Path(folder) / "result.json", Path(folder) / "errors"
        command = [sys.executable, "-m", "bench.one", subject, msgspec.json.encode(options).decode(), str(answer)]
        environment = os.environ | dict.fromkeys(ONE_THREAD, "1") | {"PYTHONPATH": _with_bench()}
        with (
            errors.open("w") as stderr,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment) as process,  # noqa: S603
        ):
            try:
                assert process.stdout is not None  # noqa: S101  (asked for above)
                for line in process.stdout:
                    say(line.strip())
                process.wait()
            finally:
                if process.poll() is None:
                    process.terminate()
        if process.returncode:
            raise BenchError(f"{subject}: ended with exit code {process.returncode}\n{_end(errors)}")
        return msgspec.json.decode(answer.read_bytes(), type=Result)


def _with_bench() -> str:
    """Return the child's PYTHONPATH: bench lies beside the package and is not installed."""
    return os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))


def _end(file: Path, lines: int = 12) -> str:
    return "\n".join(file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
