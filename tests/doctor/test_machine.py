"""What a machine lacks is found, each with a remedy; what cannot even be looked at keeps no other look from being taken."""

import json
import os
import resource
import socket
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from fedps.cli import FAILED
from fedps.doctor import machine
from fedps.doctor.finding import Finding, look
from tests.launch.rooms import here

Usage = namedtuple("Usage", "total used free")
Change = Callable[[pytest.MonkeyPatch, Path], object]


def _raise(error: Exception) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


def _open_to_others(patch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "cache").mkdir()
    (folder / "cache").chmod(0o777)
    patch.setenv("FEDPS_CACHE", str(folder / "cache"))


def _one_core(patch: pytest.MonkeyPatch, _: Path) -> None:
    patch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)


@pytest.mark.parametrize(
    ("what", "change", "state", "said", "remedy"),
    [
        ("nosuch", lambda p, _: p.setattr("importlib.metadata.requires", lambda _: ["nosuch>=1"]), "fault", "is not installed",
         "pip install --upgrade 'nosuch>=1'"),
        ("numpy", lambda p, _: p.setattr("importlib.metadata.requires", lambda _: ["numpy>=99.1"]), "fault", "99.1 is due",
         "pip install --upgrade"),
        ("torch", lambda p, _: p.setattr("importlib.import_module", _raise(ModuleNotFoundError("torch"))), "warning",
         "is not installed", "fedps[torch]"),
        ("torch", lambda p, _: p.setattr("importlib.import_module", _raise(OSError("libcudart"))), "fault",
         "libcudart", "--force-reinstall"),
        ("extras", lambda p, _: p.setattr("importlib.metadata.requires", lambda _: ["nosuch>=1; extra == 'maps'"]), "ok",
         "not installed: maps: nosuch", "fedps[maps]"),
        ("processors", _one_core, "warning", "1 of ", "few clients"),
        ("memory", lambda p, _: p.setattr(machine, "_memory_limit", lambda: 1 << 30), "warning", "at most 1.0", "--in-process"),
        ("memory", lambda p, _: p.setattr(machine, "_memory_limit", lambda: 1 << 26), "fault", "at most 0.1", "--in-process"),
        ("compiler", lambda p, _: p.setenv("CXX", "/no/such/compiler"), "warning", "no C++ compiler", "install one"),
        ("compiler", lambda p, _: p.setenv("CXX", "false"), "warning", "does not work", "mend it"),
        ("cache", _open_to_others, "fault", "others may write to it", "chmod go-w"),
        ("disk", lambda p, _: p.setattr("shutil.disk_usage", lambda _: Usage(9, 9, 1 << 30)), "warning", "1.0 GiB", "--run_dir"),
        ("disk", lambda p, _: p.setattr("shutil.disk_usage", lambda _: Usage(9, 9, 1 << 20)), "fault", "0.0 GiB", "--run_dir"),
        ("open files", lambda p, _: p.setattr(resource, "getrlimit", lambda _: (64, 64)), "warning", "14 roles", "ulimit -n"),
        ("ports", lambda p, _: p.setattr(socket, "create_server", _raise(PermissionError(1, "no"))), "fault", "127.0.0.1",
         "firewall"),
        ("proxies", lambda p, _: p.setenv("grpc_proxy", "http://far:3128"), "warning", "grpc_proxy=http://far", "no_proxy"),
        ("proxies", lambda p, _: p.setenv("grpc_proxy", "http://ann:pass@far:1"), "warning", "grpc_proxy=http://…@far:1:", ""),
        ("proxies", lambda p, _: p.setenv("http_proxy", "http://far:3128"), "ok", "no role asks them", ""),
    ],
)  # fmt: skip
def test_what_is_lacking_is_found(
    what: str, change: Change, state: str, said: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("grpc_proxy", raising=False)
    looks = {
        "nosuch": machine._packages, "numpy": machine._packages, "torch": machine._torch, "extras": machine._extras,
        "processors": machine._processors, "memory": machine._memory, "compiler": machine._compiler, "cache": machine._cache,
        "disk": machine._disk, "open files": machine._files, "ports": machine._ports, "proxies": machine._proxies,
    }  # fmt: skip
    change(monkeypatch, tmp_path)
    found = next(finding for finding in looks[what]() if finding.what == what)
    assert found.state == state
    assert said in found.said
    assert remedy in found.remedy


def test_a_compiler_that_works_is_found_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDPS_CACHE", str(tmp_path))
    assert [f.state for f in machine._compiler()] == ["ok"]
    assert list(tmp_path.iterdir()) == []


def test_a_look_that_fails_is_a_fault_and_the_others_are_taken() -> None:
    found = list(look([("first", _raise(OSError("no"))), ("second", lambda: [Finding("second", "ok", "well")])]))  # type: ignore[list-item]
    assert [(f.what, f.state) for f in found] == [("first", "fault"), ("second", "ok")]
    assert "cannot be looked at: OSError: no" in found[0].said


def test_the_exit_code_tells_of_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    findings = [Finding("one", "warning", "so", "do that")]
    monkeypatch.setattr(machine, "examine", lambda: iter(findings))
    assert here(monkeypatch, "doctor") == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split() for line in said] == [
        ["warning", "one", "so"],
        ["do", "that"],
        ["no", "faults,", "1", "warning"],
    ]
    findings.append(Finding("two", "fault", "bad"))
    assert here(monkeypatch, "doctor", "--json") == FAILED
    told = json.loads(capsys.readouterr().out)
    assert (told["fault"], told["warning"], told["findings"][1]["what"]) == (1, 1, "two")
