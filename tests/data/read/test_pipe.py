"""Commands that make samples of a file: what they print, how they fail, and that nothing of them is left."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Timer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedps.data.read.command import BLOCK, Command, StoppedError
from fedps.data.read.pipe import read_pipe
from fedps.data.read.reader import Skipped
from fedps.errors import DataError
from fedps.types import Samples
from tests.columns import columns
from tests.data.read.processes import MARK, left

AWK = "awk -F, '{print 1,$1,1,$2,1,$3}'"


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Mark the environment of this process' commands."""
    monkeypatch.setenv(MARK, str(tmp_path))
    return str(tmp_path)


def read(
    tmp_path: Path, command: str, silence: float = 20.0, skipped: Skipped | None = None, stop: Event | None = None
) -> Samples:  # fmt: skip
    path = tmp_path / "c.csv"
    if not path.exists():
        path.write_text("1,2,1\n3,4,0\n")
    return read_pipe(path, Command(command, tmp_path, silence), 10, 20, skipped, stop)


def plain(samples: Samples) -> list[list[float]]:
    return [column.tolist() for column in columns(samples)]


@pytest.mark.parametrize(
    "command",
    [
        AWK,
        f"cat | {AWK}",
        f"{AWK} | sed 's/^/  /; s/ /   /g; s/$/  /'",
        f"{AWK} | sed 's/$/\\r/'",
        f"echo; {AWK}; echo",
        "printf '1 01 1 2 1 1\\n1 3 1 4 1 0\\n'",
        "echo noise >&2; " + AWK,
    ],
)  # fmt: skip
def test_forms_of_the_same_samples(command: str, tmp_path: Path, mark: str) -> None:
    samples = read(tmp_path, command)
    assert plain(samples) == [[1, 3], [2, 4], [1, 0]]
    assert [column.dtype.name for column in columns(samples)] == ["int64", "int64", "float32"]
    samples.user[0] = 5
    assert left(mark) == []


def test_a_command_runs_in_its_folder_by_this_python_without_proxies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://nobody:1")
    (tmp_path / "r.py").write_text(
        "import os, sys\nassert 'https_proxy' not in os.environ\n"
        f"assert sys.prefix == {sys.prefix!r}, sys.prefix\nprint(1, 1, 1, len(sys.argv), 1, 0)\n"
    )
    assert plain(read(tmp_path, "python r.py")) == [[1], [1], [0]]
    (tmp_path / "c.csv").write_text("")
    arguments = Command("python r.py", tmp_path, 20, ("a 'b'", "c"))
    assert plain(read_pipe(tmp_path / "c.csv", arguments, 10, 20)) == [[1], [3], [0]]


def test_ids_by_pythons_hash_are_the_same_in_each_process(tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text("print(1, 1, 1, hash('a category') % 20, 1, 0)\n")
    assert len({read(tmp_path, "python r.py").item[0] for _ in range(4)}) == 1


@pytest.mark.parametrize("printed", ["1 0 1 1 1 2\\n1 3 1 4 1 0\\n", "1 0 1 1 1 2\\n"])
def test_a_header_of_column_numbers_is_left_out_where_it_comes_first(printed: str, tmp_path: Path) -> None:
    if "3" in printed:
        assert plain(read(tmp_path, f"printf '{printed}'")) == [[3], [4], [0]]
    else:
        with pytest.raises(DataError, match="prints no sample"):
            read(tmp_path, f"printf '{printed}'")
    with pytest.raises(DataError, match=r"line 2 of its output.*label 2 is neither 0 nor 1"):
        read(tmp_path, f"printf '1 3 1 4 1 0\\n{printed}'")


def test_many_blocks_are_read_in_order(tmp_path: Path) -> None:
    count = 2 * BLOCK // len("1 1 1 1 1 1\n") + 7
    samples = read(tmp_path, f"yes '1 1 1 1 1 1' | head -n {count}; echo 1 2 1 3 1 0")
    assert len(samples.label) == count + 1
    assert [column[-1] for column in columns(samples)] == [2, 3, 0]
    with pytest.raises(DataError, match=f"line {count + 1} of its output: b'1 2 1 x"):
        read(tmp_path, f"yes '1 1 1 1 1 1' | head -n {count}; echo 1 2 1 x 1 0")


BAD = {
    "no-such-command": "ends with exit code 127 (there is no such command); it says:\n/bin/sh",
    "exit 3": "ends with exit code 3; it says nothing on standard error",
    AWK + "; echo woe >&2; exit 1": "ends with exit code 1; it says:\nwoe",
    "kill -TERM $$": "ends with exit code 143 (signal 15)",
    "(": "ends with exit code 2",
    "true": "prints no sample; a line is `1 <user> 1 <item> 1 <label>`",
    "cat": "line 1 of its output: b'1,2,1\\n': slot user begins with '1,2,1', which is no count",
    "yes": "line 1 of its output: b'y\\n': slot user begins with 'y'",
    "echo 1 2 1 3": "has no slot label",
    "echo 1 2 1 3 1": "slot label has no value",
    "echo 1 2 0 1 1": "slot item is empty",
    "echo 1 2 1 3 2 1 1": "slot label has 2 values",
    "echo 1 2 1 3 1 1 1 4": "goes on after the three slots with '1 4'",
    "echo 1 10 1 3 1 1": "user 10 is not in [0, 10); correct it or raise hyper_parameters.num_users",
    "echo 1 1 1 20 1 1": "item 20 is not in [0, 20)",
    "echo 1 1 1 -1 1 1": "item -1 is not in [0, 20)",
    "echo 1 1 1 1 1 2": "label 2 is neither 0 nor 1",
    "echo 1 1 1 1 1 1.0": "label '1.0' is no whole number",
    "echo 1 0x1 1 1 1 1": "user '0x1' is no whole number",
    "echo 1 99999999999999999999 1 1 1 1": "is no whole number of at most 18 digits",
    AWK + "; printf '1 1 1 1 1 1'": "line 3 of its output: b'1 1 1 1 1 1': has no line end: the output is cut off",
    "head -c 100000 /dev/urandom": "of its output",
    "head -c 9000 /dev/zero": "has 9000 characters",
}


@pytest.mark.parametrize("command", BAD)
def test_what_goes_wrong_is_told_with_file_and_command(command: str, tmp_path: Path, mark: str) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, command)
    assert BAD[command] in str(error.value)
    assert f"{tmp_path / 'c.csv'}: pipe_command " in str(error.value)
    assert left(mark) == []


@pytest.mark.parametrize(
    "command",
    ["sleep 60", "sleep 60 | cat", f"{AWK}; sleep 60", f"{AWK}; sleep 60 & sleep 60", "exec >&- 2>&-; sleep 60"],
)  # fmt: skip
def test_a_silent_command_is_killed_with_its_children(command: str, tmp_path: Path, mark: str) -> None:
    with pytest.raises(DataError, match=r"is silent for 0\.3 seconds, and was killed; raise runner\.start_timeout"):
        read(tmp_path, command, silence=0.3)
    assert left(mark) == []


def test_what_a_command_leaves_in_the_background_ends_with_it(tmp_path: Path, mark: str) -> None:
    assert plain(read(tmp_path, f"{AWK}; sleep 60 >/dev/null 2>&1 &"))[0] == [1, 3]
    assert left(mark) == []


def test_a_command_ends_when_its_reader_is_killed(tmp_path: Path, mark: str) -> None:
    (tmp_path / "c.csv").write_text("1,2,1\n")
    code = (
        "from pathlib import Path; from fedps.data.read.command import Command; from fedps.data.read.pipe import read_pipe\n"
        "read_pipe(Path('c.csv'), Command('touch up; sleep 60 | sleep 61', Path(), 60), 10, 20)"
    )
    reader = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    while not (tmp_path / "up").exists():
        time.sleep(0.01)
    reader.send_signal(signal.SIGKILL)
    reader.wait()
    assert left(mark) == []


def test_a_command_is_stopped_from_without(tmp_path: Path, mark: str) -> None:
    stop = Event()
    timer = Timer(0.2, stop.set)
    timer.start()
    with pytest.raises(StoppedError):
        read(tmp_path, "yes '1 1 1 1 1 1' | grep x; sleep 60", stop=stop)
    timer.join()
    assert left(mark) == []


def test_malformed_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    skipped = Skipped()
    lines = "x\n1 1 1 1 1 1\n1 1 1\n\n1 99 1 1 1 1\n1 2 1 2 1 0\n1 2"
    assert plain(read(tmp_path, f"printf '{lines}'", skipped=skipped)) == [[1, 2], [1, 2], [1, 0]]
    assert skipped.lines == 4
    assert "line 1 of its output: b'x\\n'" in skipped.first
    with pytest.raises(DataError, match=r"prints no sample; .*all lines were skipped, the first: .*b'1,2,1\\n'"):
        read(tmp_path, "cat", skipped=Skipped())
    with pytest.raises(DataError, match="exit code 3"):
        read(tmp_path, f"{AWK}; exit 3", skipped=Skipped())


def test_a_file_or_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.csv: cannot be read: No such file"):
        read_pipe(tmp_path / "nothing.csv", Command("cat", tmp_path, 1), 10, 20)
    with pytest.raises(DataError, match="cannot start: No such file"):
        read_pipe(Path(__file__), Command("cat", tmp_path / "nowhere", 1), 10, 20)
    with pytest.raises(DataError, match="cannot start: embedded null byte"):
        read(tmp_path, "cat \0")


@settings(max_examples=25)
@given(st.binary(max_size=40) | st.text("01 2\r\nx", max_size=60).map(str.encode))
def test_any_output_is_samples_in_range_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, payload: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(payload)
    try:
        samples = read_pipe(path, Command("cat", path.parent, 20), 2, 3)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert ((samples.user >= 0) & (samples.user < 2) & (samples.item >= 0) & (samples.item < 3)).all()
        assert len(samples.user) == len(samples.item) == len(samples.label) >= 1
