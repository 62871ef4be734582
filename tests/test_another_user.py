"""Other users of a machine, by real uids: without a home, with a package that they cannot write to, some of one group."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

import fedps
from fedps.native.compiler import find_compiler
from fedps.storage import snapshot
from fedps.storage.whole import GROUP, PRIVATE
from tests.serving.test_export import ITEMS, USERS, rows

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
User = tuple[int, int]  # and the group
ONE, MATE = (54321, 54320), (54322, 54320)
KEEP = """
from pathlib import Path
from numba import config
from fedps.cache import cache_folder
from fedps.native.compiler import compiled, load
from fedps.table import kernels
step = compiled('extern "C" int answer() { return 7; }', [])
print(load(step).answer(), kernels.KEPT, cache_folder(), config.CACHE_DIR)
"""
Act = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder in which every user may make files, with a package that root alone may write to."""
    folder = Path(tempfile.mkdtemp(prefix="fedps-users-"))
    folder.chmod(0o1777)
    shutil.copytree(Path(fedps.__file__).parent, folder / "pkg/fedps", ignore=shutil.ignore_patterns("__pycache__"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def act(place: Path) -> Act:
    """Return a function that runs Python as a user who has no home, under a umask that trusts the group."""
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    environ = {
        "PATH": os.defpath,
        "PYTHONPATH": os.pathsep.join([str(place / "pkg"), *libraries]),
        "TMPDIR": str(place),
    }
    environ["NUMBA_DISABLE_JIT"] = "1"  # to compile loops for each user takes long

    def run_by(python: str, who: User, *words: object, **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [python, *map(str, words)], env=environ | more, user=who[0], group=who[1], extra_groups=[], umask=0o002,
            cwd=place, capture_output=True, text=True, check=False,
        )  # fmt: skip

    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{minor}"):  # the first may lie in root's home
        with suppress(OSError):
            if run_by(python, ONE, "-c", "import json, numpy, fedps.errors").returncode == 0:
                return partial(run_by, python)
    pytest.skip(f"there is no {minor} that other users may run with these packages")


@pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler here")
def test_what_is_compiled_for_a_user_without_a_home_is_for_nobody_else(act: Act, place: Path) -> None:
    done = act(ONE, "-c", KEEP, NUMBA_DISABLE_JIT="0")
    cache = place / f"fedps-{ONE[0]}"
    assert (done.returncode, done.stdout) == (0, f"7 True {cache} {cache / 'loops'}\n"), done.stderr
    assert cache.stat().st_mode & 0o777 == 0o700
    cache.chmod(0o755)  # as its owner may leave it: a mate still plants no code
    named = act(MATE, "-c", "import fedps.cache as c; c.cache_folder()", FEDPS_CACHE=str(cache))
    assert f"CacheError: {cache}: is another user's" in named.stderr
    for folder in (cache, *(each for each in cache.rglob("*") if each.is_dir())):
        planted = act(MATE, "-c", f"open({str(folder / 'planted')!r}, 'x')")
        assert "PermissionError" in planted.stderr, folder


@pytest.mark.parametrize("home", ["not theirs", "read only"])
def test_a_home_that_cannot_be_used_is_passed_over(home: str, act: Act, place: Path) -> None:
    folder = place / home
    folder.mkdir(mode=0o700 if home == "not theirs" else 0o755)
    done = act(MATE, "-c", "import fedps.cache as c; print(c.cache_folder())", HOME=str(folder))
    assert (done.returncode, done.stdout) == (0, f"{place}/fedps-{MATE[0]}\n"), done.stderr


def test_a_model_is_read_by_those_for_whom_it_was_opened_and_what_is_private_by_its_owner(
    act: Act, place: Path
) -> None:
    for readers, mode in (("owner", PRIVATE), ("group", GROUP)):
        run = place / readers
        facts = {"epoch": 1, "shard": 0, "shards": 1, "job": "test"}
        snapshot.save(run / "model" / "1", "server-0", {ITEMS.name: rows(ITEMS, 2)}, facts)
        for file in (run / "model" / "1").iterdir():
            file.chmod(mode)
        snapshot.save(run / "private" / "0" / "1", "tables", {USERS.name: rows(USERS, 0)}, {"epoch": 1})
        for path in (run, *run.rglob("*")):
            os.chown(path, *ONE)

    def export(who: User, readers: str, *more: str) -> str:
        done = act(who, "-m", "fedps", "export", place / readers, "--out", place / f"model-{who[0]}", *more)
        assert (done.returncode == 0) == (not done.stderr)
        return done.stderr

    assert not export(ONE, "owner", "--private")
    assert not export(MATE, "group")
    assert "Permission denied; who trains lets others read" in export(MATE, "owner")
    private = export(MATE, "group", "--private")
    assert "private/0/1/tables.json" in private
    assert "what is private to a client is its owner's alone" in private


@pytest.mark.parametrize(
    "command",
    [
        "infer PLACE/job.yaml --weights PLACE/closed/model.safetensors", "run PLACE/closed/script.py -m PLACE/job.yaml",
        "data prepare movielens --source PLACE/closed/ml-1m.zip --out PLACE/prepared",
    ],
)  # fmt: skip
def test_a_path_that_a_user_may_not_enter_is_named_in_a_line(command: str, act: Act, place: Path) -> None:
    closed = place / "closed"
    (closed / "model").mkdir(mode=0o700, parents=True, exist_ok=True)
    closed.chmod(0o700)
    for part in ("train", "test"):
        (place / part).mkdir(exist_ok=True)
        (place / part / "0.csv").write_text("1,2,1\n" * 100)
    (place / "job.yaml").write_text("runner: {train_data_dir: train, test_data_dir: test}")
    done = act(ONE, "-m", "fedps", *command.replace("PLACE", str(place)).split())
    assert done.returncode == 2
    [line] = done.stderr.splitlines()[-1:]
    assert line.startswith(f"error: {closed}")
    assert "Permission denied" in line
    assert "Traceback" not in done.stderr
