"""Whether a known fault is in what is locked: `python -m tests.supply LOCK… [LIST…]`, without a network.

A LIST is what the OSV database says, as it can be carried to a machine that reaches nothing: a file of one advisory, a
folder of such, or a zip file of them, as OSV hands out all that concerns one registry. Advisories of other kinds of packages
are passed over. It ends with 1 if one concerns a version that is locked.
"""

import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)


def locked(lock: str) -> list[tuple[str, Version]]:
    """Return the packages of a lock file with their versions; one may be there in several."""
    return [(plain(name), Version(version)) for name, version in LOCKED.findall(lock)]


def plain(name: str) -> str:
    """Return a package's name as registries compare them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def advisories(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what a file, a folder or a zip file holds."""
    if path.is_dir():
        for file in sorted(path.rglob("*.json")):
            yield json.loads(file.read_bytes())
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            for name in packed.namelist():
                if name.endswith(".json"):
                    yield json.loads(packed.read(name))
    else:
        yield json.loads(path.read_bytes())


def concerned(advisory: dict[str, Any], packages: list[tuple[str, Version]]) -> list[str]:
    """Return which packages an advisory is about, as `name version: its id`; one that was withdrawn is about none."""
    found = []
    for affected in [] if advisory.get("withdrawn") else advisory.get("affected", []):
        package = affected.get("package", {})
        if package.get("ecosystem") != "PyPI":
            continue
        for name, version in packages:
            if name == plain(package.get("name", "")) and _is_hit(affected, version):
                found.append(f"{name} {version}: {advisory['id']}")
    return found


def _is_hit(affected: dict[str, Any], version: Version) -> bool:
    """Whether a version is named, or lies in one of the ranges: from `introduced` up to before `fixed`, or `last_affected`."""
    if any(_version(named) == version for named in affected.get("versions", [])):
        return True
    for span in affected.get("ranges", []):
        hit = False
        for event in span.get("events", []) if span.get("type") in ("ECOSYSTEM", "SEMVER") else []:
            ((kind, at),) = event.items()
            point = Version("0.dev0") if at == "0" else _version(at)
            if point is None:
                return True  # who cannot be compared is looked at by people
            if kind == "introduced":
                hit = hit or version >= point
            elif kind == "fixed":
                hit = hit and version < point
            elif kind == "last_affected":
                hit = hit and version <= point
        if hit:
            return True
    return False


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


def main(paths: list[Path]) -> int:
    """Look through all; say what was found."""
    packages = [one for path in paths if path.suffix == ".lock" for one in locked(path.read_text())]
    lists = [path for path in paths if path.suffix != ".lock"]
    looked, found = 0, list[str]()
    for advisory in (each for path in lists for each in advisories(path)):
        looked, found = looked + 1, found + concerned(advisory, packages)
    print(*found, f"{len(packages)} locked packages, {looked:,} advisories, {len(found)} hits", sep="\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main([Path(argument) for argument in sys.argv[1:]]))
