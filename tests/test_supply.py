"""What is locked is what the package asks for, with hashes; a known fault in it is found without a network."""

import json
import re
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.supply import locked, main, plain
from tests.test_licences import PARTS, needed

ROOT = Path(__file__).parents[1]
LOCK, MORE = (ROOT / name for name in ("requirements.lock", "requirements-torch.lock"))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def versions(lock: Path) -> dict[str, list[Version]]:
    found: dict[str, list[Version]] = {}
    for name, version in locked(lock.read_text()):
        found.setdefault(name, []).append(version)
    return found


@pytest.mark.parametrize("part", [*PARTS, "onnx", "bench"])
def test_all_that_a_part_asks_for_is_locked_in_a_version_that_it_allows(part: str) -> None:
    there = versions(LOCK) | (versions(MORE) if part in ("onnx", "bench") else {})
    asked = [Requirement(text) for text in PARTS.get(part) or EXTRAS[part]]
    for one in asked:
        if plain(one.name) not in ("fedps", "torch"):
            assert all(one.specifier.contains(version) for version in there[plain(one.name)]), one
    if part in PARTS:
        assert needed(PARTS[part]) <= there.keys(), "with all that these bring"


def test_each_locked_package_has_hashes_and_nothing_says_from_where_it_comes() -> None:
    for lock in (LOCK, MORE):
        entries = re.split(r"^(?=[a-z0-9])", lock.read_text(), flags=re.MULTILINE)[1:]
        assert len(entries) == len(locked(lock.read_text())) > 10
        assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
        assert not re.search(r"://|--index|--find-links|^torch|^nvidia", lock.read_text(), re.MULTILINE)
    assert not versions(LOCK).keys() & versions(MORE).keys()


def test_the_core_brings_no_more_packages_than_it_did() -> None:
    """Twelve that are asked for, and what these bring: who adds one says why here."""
    assert len(PARTS["core"]) <= 12
    assert len(needed(PARTS["core"])) <= 23


def advisory(name: str, version: str | None = None, ecosystem: str = "PyPI", **more: Any) -> dict[str, Any]:
    affected = {"package": {"name": name, "ecosystem": ecosystem}, "versions": [version] * bool(version), **more}
    return {"id": f"TEST-{name}", "affected": [affected]}


def span(*events: tuple[str, str]) -> dict[str, Any]:
    return {"ranges": [{"type": "ECOSYSTEM", "events": [{kind: at} for kind, at in events]}]}


def test_a_known_fault_of_a_locked_version_is_found_and_one_of_others_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (grpc,) = versions(LOCK)["grpcio"]
    lists = tmp_path / "lists"
    lists.mkdir()
    for kind, hits in {
        "named": [advisory("grpcio", str(grpc))],
        "from the first on": [advisory("GRPCIO", **span(("introduced", "0")))],
        "until": [
            advisory("grpcio", **span(("introduced", "0"), ("fixed", "1.0"), ("introduced", "1.50"), ("fixed", "99")))
        ],
        "last": [advisory("grpcio", **span(("introduced", "1.0"), ("last_affected", str(grpc))))],
        "no version": [advisory("PyYAML", **span(("introduced", "a while ago")))],
    }.items():
        (lists / "one.json").write_text(json.dumps(hits[0]))
        assert main([LOCK, lists]) == 1, kind
        assert "35 locked packages, 1 advisories, 1 hits" in re.sub(
            r"^\d+ locked", "35 locked", capsys.readouterr().out, flags=re.M
        )
    harmless = [
        advisory("grpcio", "1.0"),
        advisory("grpcio", **span(("introduced", "0"), ("fixed", str(grpc)))),
        advisory("grpcio", str(grpc), ecosystem="npm"),
        advisory("grpcio", str(grpc)) | {"withdrawn": "2026-01-01T00:00:00Z"},
        advisory("something-else", str(grpc)),
    ]
    with zipfile.ZipFile(packed := tmp_path / "all.zip", "w") as file:
        for number, one in enumerate(harmless):
            file.writestr(f"{number}.json", json.dumps(one))
    assert main([LOCK, packed]) == 0
    assert "5 advisories, 0 hits" in capsys.readouterr().out
