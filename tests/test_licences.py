"""What is installed with the package, by which licence: nothing that binds who uses it to more than naming its authors."""

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageMetadata, metadata, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
PARTS = {"core": PROJECT["dependencies"]} | {e: PROJECT["optional-dependencies"][e] for e in ("tls", "serve")}
PERMISSIVE = re.compile(
    r"(MIT(-0)?|BSD(-[23]-Clause)?|0BSD|Apache-2\.0|Apache Software|Zlib|CC0-1\.0|PSF-2\.0|ISC|LLVM-exception)( Licen[cs]e)?"
)


def needed(requirements: Iterable[str]) -> set[str]:
    """Return the names of all packages that these bring, themselves included, on this machine."""
    todo, found = [Requirement(text) for text in requirements], set[str]()
    while todo:
        each = todo.pop()
        name = re.sub(r"[-_.]+", "-", each.name).lower()
        if name not in found:
            found.add(name)
            below = [Requirement(text) for text in requires(name) or []]
            todo += [
                r for r in below if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in (*each.extras, ""))
            ]
    return found


def licence_of(package: PackageMetadata) -> str:
    """Return what a package says of its licence, in the newer of the ways in which it may."""
    classified = [c.rpartition(" :: ")[2] for c in package.get_all("Classifier") or [] if c.startswith("License ::")]
    return (
        " AND ".join(package.get_all("License-Expression", []))
        or " OR ".join(classified)
        or str(*package.get_all("License", []))
    )


def permissive(licence: str) -> bool:
    """Whether all parts of an expression are, or of alternatives one is."""
    choices = re.split(r" OR ", licence.strip("()"))
    return any(all(PERMISSIVE.fullmatch(part.strip("() ")) for part in re.split(r" AND | WITH ", c)) for c in choices)


@pytest.mark.parametrize("part", PARTS)
def test_all_that_is_installed_may_be_used_and_passed_on_freely(part: str) -> None:
    licences = {name: licence_of(metadata(name)) for name in sorted(needed(PARTS[part]))}
    assert {name: licence for name, licence in licences.items() if not permissive(licence)} == {}


def test_whoever_does_without_encryption_installs_nothing_for_it() -> None:
    assert "cryptography" in needed(PARTS["tls"])
    assert "cryptography" not in needed(PARTS["core"])


@pytest.mark.parametrize(
    "licence", ["GPL-3.0", "MIT AND GPL-2.0-only", "GNU Affero General Public License v3", "", "BSD or so"]
)
def test_others_are_found(licence: str) -> None:
    assert not permissive(licence)
