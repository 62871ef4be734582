"""Class paths: found beside the job file or among installed packages, and told where. (More in tests/models/test_build.)"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedps
from fedps.config import load_job
from fedps.config.classes import is_class_path, load_class
from fedps.errors import JobError
from tests.config.conftest import MINIMAL, Write

CODE = """
from pathlib import Path

class Mine:
    pass

def function():
    pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a module, which is forgotten afterwards."""
    (tmp_path / "mine.py").write_text(CODE)
    paths, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = paths
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_a_class_is_found_and_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_class("mine.Mine", folder, "runner.client_selector").__name__ == "Mine"
    assert capsys.readouterr().err == f"client_selector: mine.Mine of {folder / 'mine.py'}\n"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("Mine", "runner.reader: 'Mine': write module.Class, e.g. mine.MyClass"),
        ("mine.", "write module.Class"),
        (".mine.Mine", "write module.Class"),
        ("mine.Yours", "mine.py has no class Yours; there are Mine"),
        ("mine.function", "mine.py has no class function; there are Mine"),
        ("yours.Mine", "no module 'yours' in .* \\(there: mine.py\\), nor among installed packages"),
        ("sys.Mine", "no module .sys. in .*nor among installed packages"),
    ],
)
def test_a_wrong_path_says_what_there_is(path: str, said: str, folder: Path) -> None:
    with pytest.raises(JobError, match=said):
        load_class(path, folder, "runner.reader")


def test_the_form_of_a_path() -> None:
    assert [is_class_path(p) for p in ("a.B", "a.b.C", "a", "", "a..B", "a/b.C", "a.B\n")] == [True] * 2 + [False] * 5


def test_the_package_shows_its_public_names() -> None:
    names = {name for name in dir(fedps) if not name.startswith("_")}
    assert set(fedps.__all__) == set(fedps.PLACES) <= names
    assert all(getattr(fedps, name) is not None for name in fedps.__all__)


def test_a_file_of_the_same_size_and_second_as_one_that_was_compiled_is_read_as_it_is(tmp_path: Path) -> None:
    """As when a script writes a network and runs it, again and again; nothing is left beside it either."""
    (tmp_path / "parts").mkdir()
    files = tmp_path / "mine.py", tmp_path / "parts" / "__init__.py", tmp_path / "beside.py"
    files[0].write_text("import beside\nfrom .parts import DEPTH\nclass Mine:\n    facts = beside.WIDTH, DEPTH\n")
    program = (
        "import sys; from pathlib import Path; from fedps.config.classes import load_class;"
        "print(load_class('mine.Mine', Path(sys.argv[1]), 'runner.model').facts)"
    )
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    for width in (4, 8):
        files[1].write_text(f"DEPTH = {width}\n")
        files[2].write_text(f"WIDTH = {width}\n")
        for file in files:
            os.utime(file, (1e9, 1e9))
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], env=environ, capture_output=True, text=True, check=True
        )
        assert done.stdout == f"({width}, {width})\n"
    assert not list(tmp_path.rglob("__pycache__"))


@pytest.mark.parametrize(
    "code",
    [
        "model: net.Net", "fl_client: mine.Mine", "client_selector: mine.Mine", "pipe_command: cat", "train_reader_path: mine",
        "infer_reader_path: mine",
    ],
)  # fmt: skip
def test_code_comes_from_the_job_files_own_folder_alone(write: Write, tmp_path: Path, code: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    text = f"folder: {elsewhere}\nrunner:\n  train_data_dir: {tmp_path / 'train'}\n  {code}\n"
    with pytest.raises(JobError, match=f"folder: '{elsewhere}': '.*' is code, which is taken from the job file's own"):
        load_job(write(text))
    assert load_job(write(text.replace(str(elsewhere), str(tmp_path)))).folder == tmp_path


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", "a\\\\b"])
def test_a_name_leads_nowhere_else(write: Write, name: str) -> None:
    with pytest.raises(JobError, match="is part of the name of folders"):
        load_job(write(f'name: "{name}"\n{MINIMAL}'))
