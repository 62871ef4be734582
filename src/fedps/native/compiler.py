"""Compile a step and keep it: a cache of libraries on disk, keyed by all that goes into one.

A library of the cache (see `fedps.cache`) is loaded into workers. So it is loaded only if it is, byte for byte, what a
compiler once made for this key: its name is `step-<key>-<checksum>.so`. Whatever else lies there is discarded, and made
again. Where several processes need the same step at once, the first compiles it, and the others wait for it. What was
checked is what runs: a process loads a copy in its own memory, so that nothing that becomes of the file later, cut short by
a full disk or written over, can reach the machine code of a worker.
"""

import ctypes
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from fedps.cache import ELSEWHERE, LONGEST, CacheError, cache_folder, in_turn
from fedps.storage.whole import write_whole

COMPILERS = ("c++", "g++", "clang++")
FLAGS = (  # of -O3 what makes steps fast: all of it takes the compiler twice the time
    "-O2", "-ftree-vectorize", "-fpeel-loops", "-march=native", "-fno-math-errno", "-fno-trapping-math",
    "-std=c++17", "-shared", "-fPIC",
)  # fmt: skip
HEADERS = Path(__file__).parent  # step.hpp, and what it includes
READ_ONLY = 0o400  # of a library: it is made once, and only ever replaced

_loaded: dict[str, ctypes.CDLL] = {}  # by checksum; a process unloads none


class CompileError(CacheError):
    """There is no library that can be used; the message says why."""


def compiled(source: str, notes: list[str]) -> Path:
    """Return the library of a step's source, compiled unless the cache has it.

    Args:
        source: what `source.write` gave.
        notes: takes a line for each file that was there and could not be used.

    Raises:
        CompileError: there is no compiler, it fails, or what it made cannot be kept or loaded.
        CacheError: there is no folder for it.
    """
    compiler = find_compiler()
    if compiler is None:
        raise CompileError(f"no C++ compiler: none of {', '.join(COMPILERS)} is there, nor named by CXX: install one")
    headers = [file.read_text() for file in sorted(HEADERS.glob("*.hpp"))]
    facts = (source, headers, " ".join(FLAGS), _version(compiler), machine())
    folder, key = cache_folder(notes), hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
    if (found := _find(folder, key, notes)) is not None:
        return found
    with in_turn(folder / f"step-{key}.lock"):
        return _find(folder, key, notes) or _compile(compiler, source, folder, key)


def _find(folder: Path, key: str, notes: list[str]) -> Path | None:
    """Return the library of a key; what cannot be used is discarded."""
    for library in folder.glob(f"step-{key}-*.so"):
        fault = fault_of(library)
        if not fault:
            return library
        library.unlink(missing_ok=True)
        notes.append(f"{library}: {fault}; it is discarded, and the step compiled again")
    return None


def fault_of(library: Path) -> str:
    """Say why a file of the cache must not be used; nothing if it can be."""
    try:
        load(library)
    except OSError as error:
        return str(error)
    return ""


def load(library: Path) -> ctypes.CDLL:
    """Load a library of the cache, if it is what was compiled.

    Raises:
        OSError: it is not, or cannot be loaded; the message says which.
    """
    named = re.fullmatch(r"step-[0-9a-f]{32}-([0-9a-f]{32})\.so", library.name)
    code = library.read_bytes()
    if named is None or named[1] != _checksum(code):
        raise OSError("is torn, or not ours")
    if named[1] not in _loaded:
        try:
            _loaded[named[1]] = _load_copy(code) or ctypes.CDLL(str(library))
        except OSError as error:
            raise OSError(f"cannot be loaded: {error}") from error
    return _loaded[named[1]]


def find_compiler() -> str | None:
    """Return the C++ compiler that CXX names, or the first there is; None if there is none."""
    named = os.environ.get("CXX")
    return next((found for name in ([named] if named else COMPILERS) if (found := shutil.which(name))), None)


@cache
def machine() -> str:
    """Return what tells this kind of machine from others: code for one may not run on another."""
    facts = [platform.machine(), *platform.libc_ver()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        facts += sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    except OSError:
        facts.append(platform.platform())  # not Linux
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


@cache
def _version(compiler: str) -> str:
    command = [compiler, "--version"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=LONGEST)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"{compiler}: {error}") from error
    return done.stdout.decode(errors="replace")


def _compile(compiler: str, source: str, folder: Path, key: str) -> Path:
    """Compile elsewhere, then put the library in place whole; return it."""
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".compiling-") as scratch:
            text, made = Path(scratch) / "step.cpp", Path(scratch) / "step.so"
            text.write_text(source, encoding="utf-8")
            command = [compiler, *FLAGS, f"-I{HEADERS}", str(text), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, check=False, timeout=LONGEST)  # noqa: S603
            if done.returncode:
                told = done.stderr.decode(errors="replace")  # a compiler's own language may have any encoding
                said = next((line for line in told.splitlines() if "error" in line), told[:300])
                raise CompileError(f"{compiler} ended with exit code {done.returncode}: {said.strip()}")
            code = made.read_bytes()
        library = folder / f"step-{key}-{_checksum(code)}.so"
        write_whole(library, code, READ_ONLY)
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"{compiler}: {error}") from error
    except OSError as error:  # the disk is full, or read only
        raise CompileError(f"{folder}: a compiled step cannot be kept there: {error}; {ELSEWHERE}") from error
    if fault := fault_of(library):  # the disk may be mounted `noexec`
        library.unlink(missing_ok=True)
        raise CompileError(f"{library}: {fault}; if programs may not run from its disk (noexec), {ELSEWHERE}")
    return library


def _load_copy(code: bytes) -> ctypes.CDLL | None:
    """Load machine code from sealed memory; None where there is none, or programs may not run from it."""
    try:
        memory = os.memfd_create("fedps-step", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (AttributeError, OSError):  # not Linux, or forbidden
        return None
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(code)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        return ctypes.CDLL(f"/proc/{os.getpid()}/fd/{memory}")  # stays open: the loader knows libraries by their paths
    except OSError:
        os.close(memory)
        return None


def _checksum(code: bytes) -> str:
    return hashlib.sha256(code).hexdigest()[:32]
