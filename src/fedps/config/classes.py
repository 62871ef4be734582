"""Classes of the user's own: a network, a selector or a reader, named in the job as `module.Class`.

A path is looked up in the job file's own folder and among installed packages, nowhere else, and where it was found is
printed. Only a key of the job file comes here; nothing that arrives over the network does.
"""

import importlib
import importlib.util
import sys
import zlib
from functools import partial
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from fedps.errors import JobError


def load_class(path: str, folder: Path, key: str) -> Any:
    """Find a class and print where it came from (to standard error).

    Args:
        path: `module.Class`, where the module may be dotted.
        folder: the job file's folder, looked at first.
        key: the job's key that names it, e.g. `runner.model`.

    Raises:
        JobError: no such module or class; says what there is.
    """
    name, _, wanted = path.rpartition(".")
    if not is_class_path(path):
        raise JobError(f"{key}: {path!r}: write module.Class, e.g. mine.MyClass for class MyClass of mine.py")
    module = _import(name, path, folder, key)
    found = getattr(module, wanted, None)
    if not isinstance(found, type):
        there = [n for n, c in vars(module).items() if isinstance(c, type) and c.__module__ == module.__name__]
        raise JobError(
            f"{key}: {path!r}: {_file(module)} has no class {wanted}; there are {', '.join(there) or 'none'}"
        )
    print(f"{key.rpartition('.')[2]}: {path} of {_file(module)}", file=sys.stderr, flush=True)
    return found


def is_class_path(path: str) -> bool:
    """Say whether a text has the form `module.Class`."""
    return "." in path and all(part.isidentifier() for part in path.split("."))


def _import(name: str, path: str, folder: Path, key: str) -> ModuleType:
    top = name.partition(".")[0]
    beside = (folder / f"{top}.py").is_file() or (folder / top).is_dir()
    if not beside and not _is_installed(top):
        files = ", ".join(sorted(f.name for f in folder.glob("*.py"))) or "no Python file"
        raise JobError(f"{key}: {path!r}: no module {top!r} in {folder} (there: {files}), nor among installed packages")
    importlib.invalidate_caches()  # a file written a moment ago must be seen
    try:
        return importlib.import_module(f"{_package_of(folder)}.{name}" if beside else name)
    except (Exception, SystemExit) as error:  # whatever the user's own module raises
        raise JobError(f"{key}: {path!r}: importing {name} fails: {type(error).__name__}: {error}") from error


def _is_installed(top: str) -> bool:
    """Say whether a package may be imported; the current folder is no place to take code from."""
    if top == "__main__" or (spec := importlib.util.find_spec(top)) is None:
        return False
    homes = spec.submodule_search_locations or [spec.origin or ""]
    return all(Path(home).resolve().parent != Path.cwd() for home in homes)


def _package_of(folder: Path) -> str:
    """Return the name of a package that stands for a job's folder, so that two jobs may both have a `net.py`.

    Files beside the job import each other as `from .layers import …` or `import layers`; for the latter the
    folder comes last on the path, where it hides nothing.
    """
    home = str(folder.resolve())
    name = f"fedps_job_{zlib.crc32(home.encode()):08x}"
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [home]
        sys.modules.setdefault(name, package)
        sys.path_hooks.insert(0, partial(_fresh_finder, home))
        sys.path_importer_cache.pop(home, None)
    if home not in sys.path:
        sys.path.append(home)
    return name


class _Fresh(SourceFileLoader):
    """Loads a file as it is now; Python takes one for unchanged that has the size, and the second, of what it compiled."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _fresh_finder(home: str, path: str) -> FileFinder:
    """Return what finds modules in a job's folder, and below it. Raises ImportError, as Python asks for it, for others."""
    if not Path(path).is_relative_to(home) or "site-packages" in Path(path).parts:
        raise ImportError(path)
    return FileFinder(path, (ExtensionFileLoader, EXTENSION_SUFFIXES), (_Fresh, SOURCE_SUFFIXES))


def _file(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or module.__name__
