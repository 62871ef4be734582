"""What this machine has for a run, and what it lacks: software, processors, compiler, folders, ports, limits.

Each look imports what it needs, so that a package that is broken is a finding, and not the end of all others.
"""

import importlib
import os
import platform
import re
import resource
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from fedps.cache import CacheError, cache_folder
from fedps.doctor.finding import Finding, Look, look

GIB = 1 << 30
LITTLE_DISK, LITTLE_MEMORY = 5 * GIB, 2 * GIB  # below which one is warned, and at a tenth of which nothing goes
FEW_FILES = 512  # open files of a process: of those the launcher has three for each role
PORTS = 3
MODULES = {"grpcio": "grpc", "pyyaml": "yaml"}  # by distribution, where the two are not called alike
FOR_DEVELOPERS = ("dev", "test", "bench", "docs")  # extras that no run needs
NAME = re.compile(r"[A-Za-z0-9._-]+")
LEAST = re.compile(r">=\s*([0-9.]+)")
EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")
TRIAL = 'extern "C" int fedps_trial() { return 1; }\n'
BY_TORCH = "training steps run by torch then, several times slower"


def examine() -> Iterator[Finding]:
    """Yield what is found on this machine, where a run would start."""
    looks: list[tuple[str, Look]] = [
        ("python", _python), ("packages", _packages), ("torch", _torch), ("extras", _extras), ("processors", _processors),
        ("memory", _memory), ("compiler", _compiler), ("cache", _cache), ("disk", _disk), ("open files", _files),
        ("ports", _ports), ("proxies", _proxies), ("texts", _texts),
    ]  # fmt: skip
    return look(looks)


def _python() -> Iterator[Finding]:
    said = f"{platform.python_version()}, {sys.executable}; {platform.platform()}"
    yield Finding("python", "ok", said)
    yield Finding("fedps", "ok", f"{metadata.version('fedps')}, {Path(__file__).parent.parent}")


def _packages() -> Iterator[Finding]:
    """Look at what fedps cannot do without: that it is there, new enough, and can be imported."""
    for requirement in metadata.requires("fedps") or []:
        name = NAME.match(requirement)
        if name is None or EXTRA.search(requirement):
            continue
        wanted, due = name[0], LEAST.search(requirement)
        remedy = f"pip install --upgrade '{requirement}'"
        try:
            version = metadata.version(wanted)
            importlib.import_module(_module(wanted))
        except metadata.PackageNotFoundError:
            yield Finding(wanted, "fault", "is not installed", remedy)
        except Exception as error:  # whatever a broken installation raises
            yield Finding(wanted, "fault", f"cannot be imported: {type(error).__name__}: {error}", remedy)
        else:
            old = due is not None and _numbers(version) < _numbers(due[1])
            said = f"{version}{f', and {due[1]} is due' if old and due else ''}"
            yield Finding(wanted, "fault" if old else "ok", said, remedy if old else "")


def _torch() -> Iterator[Finding]:
    try:
        torch = importlib.import_module("torch")  # takes a second or two
    except ModuleNotFoundError:
        said = "is not installed: servers and coordinators do without, clients that train do not"
        yield Finding("torch", "warning", said, "pip install 'fedps[torch]'")
        return
    except Exception as error:  # whatever a broken installation raises
        said = f"cannot be imported: {type(error).__name__}: {error}"
        yield Finding("torch", "fault", said, "pip install --force-reinstall torch")
        return
    build, gpus = torch.version.cuda, torch.cuda.device_count() if torch.cuda.is_available() else 0
    said = f"{torch.__version__}, {f'for CUDA {build}' if build else 'for CPUs'}"
    if gpus:
        names = ", ".join(torch.cuda.get_device_name(k) for k in range(gpus))
        yield Finding("torch", "ok", f"{said}; {names}: -o runner.use_gpu=true trains there")
    elif build:
        remedy = "mend the driver (nvidia-smi), or leave it: clients train on CPUs, for which a smaller torch is enough"
        yield Finding("torch", "warning", f"{said}, and no GPU can be used", remedy)
    else:
        yield Finding("torch", "ok", said)


def _extras() -> Iterator[Finding]:
    """Tell which extras are not installed; none is needed by all."""
    lacking: dict[str, list[str]] = {}
    for requirement in metadata.requires("fedps") or []:
        extra, name = EXTRA.search(requirement), NAME.match(requirement)
        if extra and name and extra[1] not in FOR_DEVELOPERS and name[0] != "fedps":
            try:
                metadata.version(name[0])
            except metadata.PackageNotFoundError:
                lacking.setdefault(extra[1], []).append(name[0])
    if lacking:
        said = "; ".join(f"{extra}: {', '.join(names)}" for extra, names in lacking.items())
        remedy = f"only if you want them: pip install 'fedps[{','.join(lacking)}]'"
        yield Finding("extras", "ok", f"not installed: {said}", remedy)
    else:
        yield Finding("extras", "ok", "all are installed")


def _processors() -> Iterator[Finding]:
    cores, allowed, quota = os.cpu_count() or 1, _allowed(), _quota()
    said = f"{allowed} of {cores} cores may be used" + (f", for {quota:g} cores' time" if quota else "")
    if min(allowed, quota or allowed) >= 2:
        yield Finding("processors", "ok", said)
    else:
        yield Finding("processors", "warning", said, "all roles of a run share it: give it more, or run few clients")


def _memory() -> Iterator[Finding]:
    import psutil  # noqa: PLC0415

    free, limit = psutil.virtual_memory().available, _memory_limit()
    said = f"{free / GIB:,.1f} GiB free" + (f", and at most {limit / GIB:,.1f} may be used" if limit else "")
    remedy = "end other programs, use fewer clients, or run with --in-process, which shares what clients have alike"
    yield _enough("memory", min(free, limit or free), LITTLE_MEMORY, said, remedy)


def _compiler() -> Iterator[Finding]:
    from fedps.native.compiler import CompileError, compiled, find_compiler  # noqa: PLC0415

    found, notes = find_compiler(), list[str]()
    if found is None:
        remedy = "install one, e.g. apt install g++, or name it by CXX"
        yield Finding("compiler", "warning", f"there is no C++ compiler: {BY_TORCH}", remedy)
        return
    try:
        compiled(TRIAL, notes).unlink(missing_ok=True)
    except CompileError as error:
        said = f"{found} does not work: {str(error).rstrip(': ')}: {BY_TORCH}"
        yield Finding("compiler", "warning", said, "mend it, or name another by CXX")
    except CacheError:
        yield Finding("compiler", "warning", f"{found} has no folder for what it compiles: {BY_TORCH}", "see cache")
    else:
        yield Finding("compiler", "ok", f"{found} works: training steps are compiled")


def _cache() -> Iterator[Finding]:
    try:
        folder = cache_folder()
    except CacheError as error:
        said, _, remedy = str(error).rpartition("; ")
        yield Finding("cache", "fault", said or str(error), remedy)
        return
    size = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # others compile there
            size += file.stat().st_size * file.is_file()
    if os.access(folder, os.W_OK | os.X_OK):
        yield Finding("cache", "ok", f"{folder}, {size / 2**20:,.0f} MiB")
    else:
        said = f"{folder}: cannot be written: all is compiled again in each run"
        yield Finding("cache", "fault", said, "set FEDPS_CACHE to a folder of your own")


def _disk() -> Iterator[Finding]:
    from fedps.launch.folder import RUNS  # noqa: PLC0415

    here = RUNS.resolve()
    there = next(path for path in (here, *here.parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        said = f"{there}: cannot be written, so no run can be kept in {here}"
        yield Finding("runs", "warning", said, "work in a folder of your own, or give --run_dir")
    free = shutil.disk_usage(there).free
    remedy = "free space, or give --run_dir on another disk"
    yield _enough("disk", free, LITTLE_DISK, f"{free / GIB:,.1f} GiB free for {here}", remedy)


def _files() -> Iterator[Finding]:
    from fedps.launch.folder import FILES, OWN_FILES  # noqa: PLC0415

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most == resource.RLIM_INFINITY:
        yield Finding("open files", "ok", "as many as you like")
        return
    said = f"{most:,} a process, enough for {max(most - OWN_FILES, 0) // FILES:,} roles of a run"
    few = most < FEW_FILES
    remedy = "ulimit -n 4096, or --in-process for many clients" if few else ""
    yield Finding("open files", "warning" if few else "ok", said, remedy)


def _ports() -> Iterator[Finding]:
    """Let one socket call another, as roles of a run do."""
    try:
        for _ in range(PORTS):
            with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5):
                server.settimeout(5)
                server.accept()[0].close()
    except OSError as error:
        remedy = "let processes of this machine talk to each other by 127.0.0.1 (firewall, sandbox), or run with --in-process"
        yield Finding("ports", "fault", f"127.0.0.1 cannot be reached: {error}", remedy)
    else:
        yield Finding("ports", "ok", "free ones of 127.0.0.1 can be listened at, and reached")


def _proxies() -> Iterator[Finding]:
    named = {key: os.environ[key] for key in os.environ if key.lower() in ("http_proxy", "https_proxy", "all_proxy")}
    if proxy := os.environ.get("grpc_proxy"):  # noqa: SIM112  (as gRPC reads it)
        shown = re.sub("[^/]*@", "…@", proxy)  # a password is nobody's to read
        said = f"grpc_proxy={shown}: clients reach servers on other machines through it, but for hosts in no_proxy"
        yield Finding("proxies", "warning", said, "unset it, or put the servers' hosts into no_proxy, if they are near")
    elif named:
        yield Finding("proxies", "ok", f"{', '.join(sorted(named))}: no role asks them; servers are reached directly")
    else:
        yield Finding("proxies", "ok", "none")


def _texts() -> Iterator[Finding]:
    if (encoding := sys.getfilesystemencoding().lower()) != "utf-8":
        said = f"names of files are in {encoding}: clients whose names are no ASCII cannot be told"
        yield Finding("texts", "warning", said, "export LC_ALL=C.UTF-8")


def _enough(what: str, free: float, little: int, said: str, remedy: str) -> Finding:
    if free >= little:
        return Finding(what, "ok", said)
    return Finding(what, "warning" if free >= little / 10 else "fault", said, remedy)


def _module(distribution: str) -> str:
    name = distribution.replace("-", "_").lower()
    return MODULES.get(name, name)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"[0-9]+", version)[:3]]


def _allowed() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota() -> float | None:
    """Return how many cores' time a container may use; None where it is not limited."""
    words = _words("/sys/fs/cgroup/cpu.max")
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0] != "max" else None


def _memory_limit() -> int | None:
    """Return how many bytes a container may use; None where it is not limited."""
    words = _words("/sys/fs/cgroup/memory.max")
    return int(words[0]) if words and words[0] != "max" else None


def _words(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").split()
    except OSError:
        return []
