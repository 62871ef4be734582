"""The generator of MultiSlot text, as the original's readers use it."""

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fedps.data.scripts.multislot import MultiSlotDataGenerator, MultiSlotStringDataGenerator


class Words(MultiSlotDataGenerator):
    """Yields whatever `make` says of each line."""

    def __init__(self, make: Callable[[str | None], Any]) -> None:
        super().__init__()
        self.make = make

    def generate_sample(self, line: str | None) -> Any:
        return self.make(line)


def text(generator: MultiSlotDataGenerator, given: str, monkeypatch: pytest.MonkeyPatch) -> str:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdin", io.StringIO(given))
    monkeypatch.setattr("sys.stdout", out)
    generator.run_from_stdin()
    return out.getvalue()


def test_a_generator_function_yields_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(line: str | None) -> Callable[[], Iterator[Any]]:
        def reader() -> Iterator[Any]:
            assert line is not None
            yield [("words", [int(w) for w in line.split()]), ("label", [1])]
            yield None
            yield zip(["words", "label"], [[7], [0.5]], strict=True)

        return reader

    assert text(Words(make), "3 4\n5\n", monkeypatch) == "2 3 4 1 1\n1 7 1 0.5\n1 5 1 1\n1 7 1 0.5\n"


def test_an_iterator_will_do_and_a_line_may_have_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(line: str | None) -> Iterator[Any]:
        return iter([(("x", (1, 2)),)] if line == "a\n" else [])

    assert text(Words(make), "a\nb\na\n", monkeypatch) == "2 1 2\n2 1 2\n"
    assert text(Words(make), "", monkeypatch) == ""


def test_values_that_are_texts_are_written_as_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    class Strings(MultiSlotStringDataGenerator):
        def generate_sample(self, line: str | None) -> Any:
            return iter([[("words", (line or "").split()), ("label", ["1"])]])

    assert text(Strings(), "1926 08 17\n", monkeypatch) == "3 1926 08 17 1 1\n"
    with pytest.raises(ValueError, match=r"slot 'words': .*at least one"):
        text(Strings(), "\n", monkeypatch)


def test_a_script_may_write_its_own_text(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(Words):
        def _gen_str(self, sample: list[Any]) -> str:
            return f"{len(sample)}!\n"

    assert text(Own(lambda line: iter([[("a", [1])]])), "x\n", monkeypatch) == "1!\n"


def test_batches_are_handed_over_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Padded(Words):
        def generate_batch(self, samples: list[Any]) -> Any:
            def local() -> Iterator[Any]:
                sizes.append(len(samples))
                longest = max(len(s[0][1]) for s in samples)
                for ((name, values),) in samples:
                    yield [(name, values + [0] * (longest - len(values)))]

            return local

    generator = Padded(lambda line: [[("x", [1] * int(line or 0))]] * 2)
    generator.set_batch(3)
    assert text(generator, "1\n2\n", monkeypatch) == "2 1 0\n2 1 0\n2 1 1\n2 1 1\n"
    assert sizes == [3, 1]


def test_from_memory_there_is_no_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Words(lambda line: [[("x", [4])]] if line is None else []).run_from_memory()
    assert capsys.readouterr().out == "1 4\n"


@pytest.mark.parametrize(
    ("sample", "named"),
    [
        ([("x", [])], "slot 'x': [] must be a list of at least one number; pad"),
        ([("x", 3)], "must be a list of at least one number"),
        ([("x", ["3"])], "slot 'x': '3' is neither int nor float"),
        ([3], "must be [(name, [number, …]), …]"),
        ([("y", [1])], "its slots are not those of the first one"),
        ([("x", [1]), ("y", [1])], "its slots are not those of the first one"),
        ([], "its slots are not those of the first one"),
    ],
)
def test_what_is_no_sample_is_told_with_its_line(
    sample: Any, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    generator = Words(lambda line: [sample] if line == "bad\n" else [[("x", [1])]])
    generator.set_batch(1)
    with pytest.raises(ValueError) as error:
        text(generator, "good\nbad\n", monkeypatch)
    assert named.replace("[] must", "[]: must") in str(error.value)
    assert error.value.__notes__ == ["in line 2 of the input: 'bad\\n'"]


def test_a_subclass_that_says_nothing_and_a_batch_of_none_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotImplementedError, match="write generate_sample"):
        text(MultiSlotDataGenerator(), "1\n", monkeypatch)
    with pytest.raises(ValueError, match=r"set_batch\(0\): must be at least 1"):
        MultiSlotDataGenerator().set_batch(0)


def test_a_command_loads_nothing_heavy() -> None:
    code = "import sys, fedps; fedps.MultiSlotDataGenerator; print([m for m in ('numpy', 'torch', 'pyarrow', 'yaml', 'pydantic') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
