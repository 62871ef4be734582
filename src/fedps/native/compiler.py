"""Compile a step and keep it: a cache of libraries on disk, keyed by all that goes into one.

The cache is `FEDPS_CACHE`, else `fedps` in the user's cache folder. It holds code that is loaded into workers, so a
folder that others may write to is not used.
"""

import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from fedps.errors import FedpsError
from fedps.storage.whole import write_whole

COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
HEADERS = Path(__file__).parent  # step.hpp, and what it includes
LONGEST = 300.0  # seconds that a compiler may take


class CompileError(FedpsError):
    """No library could be made; the message says why."""


def cache_folder() -> Path:
    """Return the folder of the cache, made if it was not there.

    Raises:
        CompileError: it cannot be made, or others may write to it.
    """
    named = os.environ.get("FEDPS_CACHE")
    home = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedps"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = home.stat()
    except (OSError, RuntimeError) as error:
        raise CompileError(f"{home}: no folder for compiled steps: {error}; name another by FEDPS_CACHE") from error
    if facts.st_uid != os.getuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CompileError(
            f"{home}: others may write to it, and code is loaded from there: chmod go-w, or set FEDPS_CACHE"
        )
    return home


def compiled(source: str) -> Path:
    """Return the library of a step's source, compiled unless the cache has it.

    Raises:
        CompileError: there is no compiler, it fails, or the cache cannot be written.
    """
    compiler = find_compiler()
    if compiler is None:
        raise CompileError(f"no C++ compiler: none of {', '.join(COMPILERS)} is there, nor named by CXX")
    headers = [file.read_text() for file in sorted(HEADERS.glob("*.hpp"))]
    facts = (source, headers, " ".join(FLAGS), _version(compiler), machine())
    folder = cache_folder()
    library = folder / f"step-{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}.so"
    if not library.is_file():
        _compile(compiler, source, library)
    return library


def find_compiler() -> str | None:
    """Return the C++ compiler that CXX names, or the first there is; None if there is none."""
    named = os.environ.get("CXX")
    return next((found for name in ([named] if named else COMPILERS) if (found := shutil.which(name))), None)


@cache
def machine() -> str:
    """Return what tells this kind of processor from others: code for one may not run on another."""
    facts = [platform.machine()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        facts += sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    except OSError:
        facts.append(platform.platform())  # not Linux
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


@cache
def _version(compiler: str) -> str:
    told = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False, timeout=LONGEST)  # noqa: S603
    return told.stdout


def _compile(compiler: str, source: str, library: Path) -> None:
    """Compile elsewhere, then put the library in place whole."""
    try:
        with tempfile.TemporaryDirectory(dir=library.parent, prefix=".compiling-") as folder:
            text, made = Path(folder) / "step.cpp", Path(folder) / "step.so"
            text.write_text(source, encoding="utf-8")
            command = [compiler, *FLAGS, f"-I{HEADERS}", str(text), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST)  # noqa: S603
            if done.returncode:
                said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:300])
                raise CompileError(f"{compiler} ended with exit code {done.returncode}: {said.strip()}")
            write_whole(library, made.read_bytes())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompileError(f"{compiler}: {error}") from error
