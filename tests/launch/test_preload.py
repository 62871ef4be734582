"""What all workers share is imported once, by the process they are forked from, and nothing more."""

import subprocess
import sys

# A compiled step needs no torch, a client's rows no compiled loops, and few jobs send halves of floats.
UNUSED = ("torch", "numba", "ml_dtypes")


def test_workers_with_a_compiled_step_start_without_what_they_do_not_use() -> None:
    look = f"import sys, fedps.launch.local.preload; print([name for name in {UNUSED} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
