"""Where what is compiled is kept: by whom, on what disk, with or without a home."""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from numba import config

import fedps
from fedps.cache import CacheError, cache_folder, in_turn
from fedps.table import kernels


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No folder is named, and temporary files lie here."""
    monkeypatch.delenv("FEDPS_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_user_with_a_home_has_the_cache_there(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(temporary / "home"))
    assert cache_folder() == temporary / "home" / ".cache" / "fedps"
    assert cache_folder().stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("home", ["none", "not there", "read only"])
def test_a_user_without_a_home_of_their_own_has_the_cache_among_temporary_files(
    home: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if home == "none":
        monkeypatch.setattr(Path, "home", no_home)
    if home == "not there":
        monkeypatch.setenv("HOME", "/dev/null")  # nothing can be made in it, not even by root
    if home == "read only":
        monkeypatch.setenv("HOME", str(temporary / "home"))
        (temporary / "home" / ".cache" / "fedps").mkdir(parents=True, mode=0o755)
        monkeypatch.setattr(os, "access", lambda path, mode: "home" not in str(path))
    assert cache_folder() == temporary / f"fedps-{os.getuid()}"
    assert cache_folder().stat().st_mode & 0o777 == 0o700


def test_another_users_folder_among_temporary_files_is_not_used(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", no_home)
    (temporary / "elsewhere").mkdir(mode=0o700)
    ours = temporary / f"fedps-{os.getuid()}"
    ours.symlink_to(temporary / "elsewhere")
    with pytest.raises(CacheError, match=r"others may write to it.*set FEDPS_CACHE"):
        cache_folder()  # a link's own mode is open
    ours.unlink()
    ours.mkdir(mode=0o755)
    ours.chmod(0o777)
    with pytest.raises(CacheError, match=r"others may write to it.*set FEDPS_CACHE"):
        cache_folder()


def test_a_folder_that_cannot_be_made_is_told_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDPS_CACHE", "/dev/null/cache")
    with pytest.raises(CacheError, match=r"/dev/null/cache: no folder for what is compiled.*set FEDPS_CACHE"):
        cache_folder()


def test_loops_of_a_package_that_is_read_only_are_kept_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", "")
    assert kernels.choose_folder()
    assert config.CACHE_DIR == "", "beside the package, where that can be written"
    monkeypatch.setattr(kernels, "__file__", str(read_only(tmp_path) / "kernels.py"))
    monkeypatch.setenv("FEDPS_CACHE", str(tmp_path / "cache"))
    assert kernels.choose_folder()
    assert Path(config.CACHE_DIR) == tmp_path / "cache" / "loops"
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setenv("FEDPS_CACHE", "/dev/null/cache")
    assert not kernels.choose_folder()


def test_loops_that_others_could_write_to_are_not_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The cache may be for all to look into; loops that somebody planted there would be code."""
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setattr(kernels, "__file__", str(read_only(tmp_path) / "kernels.py"))
    monkeypatch.setenv("FEDPS_CACHE", str(tmp_path / "cache"))
    planted = tmp_path / "cache" / "loops" / "planted"
    planted.mkdir(parents=True)
    planted.parent.chmod(0o775)
    (tmp_path / "cache").chmod(0o755)
    assert kernels.choose_folder()
    assert planted.parent.stat().st_mode & 0o777 == 0o700
    assert not planted.exists()


def test_loops_are_compiled_where_nothing_can_be_kept(tmp_path: Path) -> None:
    """A package that is read only, no home and no cache: what a server imports comes up all the same."""
    shutil.copytree(Path(fedps.__file__).parent, tmp_path / "fedps", ignore=shutil.ignore_patterns("__pycache__"))
    read_only(tmp_path / "fedps" / "table")
    program = "import fedps.table.kernels as k; print(k.__file__, k.KEPT, k.gather.__wrapped__.__name__)"
    environ = os.environ | {"PYTHONPATH": str(tmp_path), "HOME": "/dev/null", "FEDPS_CACHE": "/dev/null/cache"}
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/fedps/table/kernels.py False gather\n"


def read_only(folder: Path) -> Path:
    """Make sure that no machine code can be kept beside a package, not even by root; return it."""
    (folder / "__pycache__").write_bytes(b"")
    (folder / "__pycache__").chmod(0o400)
    return folder


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


HOLDER = """
import sys, time
from pathlib import Path
from fedps.cache import in_turn
with in_turn(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_after_the_other_does_what_several_want_done(tmp_path: Path) -> None:
    made, at_once, most = list[int](), list[int](), list[int]()

    def make(number: int) -> None:
        with in_turn(tmp_path / "lock"):
            at_once.append(number)
            most.append(len(at_once))
            time.sleep(0.02)
            at_once.remove(number)
            made.append(number)

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(make, range(5)))
    assert sorted(made) == [0, 1, 2, 3, 4]
    assert set(most) == {1}
    assert list(tmp_path.iterdir()) == [], "the lock is gone when nobody needs it"


def test_a_lock_whose_holder_is_slow_or_dies_keeps_nobody(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with in_turn(tmp_path / "lock", 0.2):
            assert holder.poll() is None, "it goes on beside the slow one"
        assert (tmp_path / "lock").exists()
        holder.kill()
    with in_turn(tmp_path / "lock"):
        assert holder.poll() is not None
    assert not (tmp_path / "lock").exists()


def test_a_lock_that_cannot_be_removed_spoils_nothing(tmp_path: Path) -> None:
    with in_turn(tmp_path / "lock"):
        (tmp_path / "lock").unlink()
        (tmp_path / "lock").mkdir()


def test_where_nothing_can_be_locked_nobody_waits(tmp_path: Path) -> None:
    with in_turn(tmp_path / "no folder" / "lock"):
        pass
