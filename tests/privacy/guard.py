"""Raises where code of fedps would load data in a way that can run it; says where it stood.

    python -m tests.privacy.guard REPORT.json COMMAND... [-- COMMAND...]

runs `fedps` commands under the guard, then the controls, and reports. It is a program of its own, since an audit hook
cannot be taken back. Python's own audit events cannot be passed by; functions without one are wrapped.
"""

import functools
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

EVENTS = (
    "pickle.",
    "marshal.load",
    "exec",
    "compile",
    "code.__new__",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
)

# What may load or compile between a call of fedps and the event, and why. None of it takes data of a job.
ALLOWED = {
    "definition": "a module of fedps is being imported: dataclasses and named tuples write their methods so",
    "import": "Python reads a module's compiled file",
    "numba": "numba compiles our kernels, and reads those it has compiled before from its cache beside them",
}
CONTROLS = {
    "pickle.loads": "import pickle; pickle.loads(pickle.dumps(1))",
    "pickle.load": "import io, pickle; pickle.load(io.BytesIO(pickle.dumps(1)))",
    "pickle.Unpickler": "import io, pickle; pickle.Unpickler(io.BytesIO(pickle.dumps(1))).load()",
    "_pickle.loads": "import _pickle; _pickle.loads(b'cposixpath\\njoin\\n.')",
    "a pipe's recv": "import multiprocessing as m; a, b = m.Pipe(); a.send(1); b.recv()",
    "marshal.loads": "import marshal; marshal.loads(marshal.dumps(1))",
    "eval": "eval('1')",
    "exec": "exec('1')",
    "exec of code": "exec((lambda: 1).__code__)",
    "np.load": "import io, numpy as n; f = io.BytesIO(); n.save(f, n.ones(1)); f.seek(0); n.load(f, allow_pickle=True)",
    "torch.load": "import io, torch as t; f = io.BytesIO(); t.save({}, f); f.seek(0); t.load(f)",
    "yaml.load": "import yaml; yaml.load('1', yaml.UnsafeLoader)",
    "yaml.unsafe_load": "import yaml; yaml.unsafe_load('1')",
    "yaml.full_load": "import yaml; yaml.full_load('1')",
    "yaml.Loader": "import yaml; yaml.load_all('1', Loader=yaml.Loader)",
    "os.system": "import os; os.system('true')",
    "os.popen": "import os; os.popen('true').close()",
    "shell=True": "import subprocess; subprocess.run('true', shell=True)",
}
allowed: Counter[str] = Counter()
hits: list[str] = []


class DataRanError(BaseException):
    """Code of fedps did what the guard forbids. No `except Exception` may swallow it."""


def install() -> None:
    """Set up the guard for the rest of this process's life."""
    import pickle  # the guard comes before what it guards

    for name in ("loads", "load"):
        wrap(pickle, name, always)
    watched = _watched(pickle.Unpickler)
    vars(pickle).update(Unpickler=watched, _Unpickler=watched)
    import numpy as np  # these keep what pickle has when they are imported
    import torch
    import yaml

    wrap(np, "load", lambda args, kwargs: bool(kwargs.get("allow_pickle") or args[2:3] == (True,)))
    wrap(torch, "load", always)
    for name in ("unsafe_load", "unsafe_load_all", "full_load", "full_load_all"):
        wrap(yaml, name, always)
    for name in ("load", "load_all"):
        wrap(
            yaml, name, lambda args, kwargs: kwargs.get("Loader", *args[1:2]) not in (yaml.SafeLoader, yaml.CSafeLoader)
        )
    sys.addaudithook(lambda event, _: check(event) if event.startswith(EVENTS) else None)


def always(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Forbid a call whatever its arguments."""
    return True


def wrap(module: Any, name: str, forbidden: Callable[[tuple[Any, ...], dict[str, Any]], bool]) -> None:
    """Check a module's function before each call that is `forbidden`."""
    inner = getattr(module, name)

    @functools.wraps(inner)
    def outer(*args: Any, **kwargs: Any) -> Any:
        if forbidden(args, kwargs):
            check(f"{module.__name__}.{name}")
        return inner(*args, **kwargs)

    setattr(module, name, outer)


def _watched(unpickler: type) -> type:
    class Watched(unpickler):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            check("pickle.Unpickler")
            super().__init__(*args, **kwargs)

    return Watched


def check(event: str) -> None:
    """Look at the stack: raise if fedps is in it, and nothing allowed stands between."""
    between: set[str] = set()
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        room = str(frame.f_globals.get("__name__"))
        if room.partition(".")[0] == "fedps":
            break
        between.add("import" if "importlib" in room else room.partition(".")[0])
        frame = frame.f_back
    if frame is None:
        return
    loading = frame.f_back is not None and frame.f_back.f_code.co_name == "_call_with_frames_removed"
    if frame.f_code.co_name == "<module>" and loading:
        between.add("definition")
    if reasons := between & set(ALLOWED):
        allowed[min(reasons)] += 1
        return
    hits.append(f"{event} by {frame.f_globals['__name__']}.{frame.f_code.co_name}, line {frame.f_lineno}")
    raise DataRanError(hits[-1])


def controls(room: str) -> list[str]:
    """Do all that is forbidden, as code of `room` would; return what was stopped."""
    stopped = []
    for name, text in CONTROLS.items():
        code = compile(text, name, "exec")
        try:
            exec(code, {"__name__": room})
        except DataRanError:
            stopped.append(name)
    return stopped


def main(report: str, *words: str) -> None:
    install()
    from fedps import cli

    for command in _split(words):
        sys.argv = ["fedps", *command]
        try:
            cli.main()
        except SystemExit as end:
            assert not end.code, (command, end.code)
    found = {"hits": list(hits), "allowed": dict(allowed)}
    found |= {"stopped": controls("fedps.control"), "stopped elsewhere": controls("elsewhere")}
    Path(report).write_text(json.dumps(found), encoding="utf-8")


def _split(words: Sequence[str]) -> list[list[str]]:
    commands: list[list[str]] = [[]]
    for word in words:
        commands.append([]) if word == "--" else commands[-1].append(word)
    return commands


if __name__ == "__main__":
    from tests.privacy import guard  # one module, not a second one called __main__

    guard.main(*sys.argv[1:])
