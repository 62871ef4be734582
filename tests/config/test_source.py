"""YAML and its traps: numbers that are no numbers, keys given twice, and where an error is."""

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from fedps.config.source import dump, inline, parse, read
from fedps.errors import JobError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("01234", "01234"),  # a zip code; plain YAML 1.1 makes it the octal 668
        ("12:30:45", "12:30:45"),  # plain YAML 1.1 counts it in sixties
        ("0x1F", "0x1F"),
        ("1e-3", 0.001),  # plain YAML 1.1 leaves it text
        ("-2E5", -200000.0),
        ("1.5e-3", 0.0015),
        ("0", 0),
        ("-7", -7),
        ("1_000", 1000),
        ("1.", 1.0),
        (".inf", float("inf")),
        ("1e", "1e"),
        ("off", False),
        ("'off'", "off"),
        ("2024-01-05", "2024-01-05"),  # JSON, in which jobs reach processes, has no dates
        ("=", "="),
        ("01.5", "01.5"),
        ("null", None),
        ("[a, 02, 3]", ["a", "02", 3]),
    ],
)
def test_scalars_read_as_people_mean_them(text: str, value: object) -> None:
    found = parse(text)
    assert found == value
    assert type(found) is type(value)


@given(st.integers(-(10**20), 10**20))
def test_whole_numbers_are_decimal(number: int) -> None:
    assert parse(str(number)) == number


@given(st.integers(0, 10**9))
def test_a_leading_zero_makes_text(number: int) -> None:
    assert parse(f"0{number}") == f"0{number}"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_as_python_writes_it_comes_back(number: float) -> None:
    assert float(parse(repr(number))) == number


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb:\n  c: [1\nd: 2\n", "line 4: not valid YAML"),
        ("a: 1\n\tb: 2\n", "line 2: not valid YAML: found character '\\t'"),
        ("a: 1\nb: 2\na: 3\n", "line 3: not valid YAML: 'a' is in line 1 already"),
        ("r:\n  x: {e: 1, e: 2}\n", "line 2: not valid YAML: 'e' is in line 2 already"),
        ("a: 1\nb: \x07\n", "line 2: not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "line 1: not valid YAML: could not determine a constructor"),
        ("a: 1\n--- \nb: 2\n", "line 2: not valid YAML"),
        ("{[a]: 1}", "line 1: not valid YAML"),
        ("a: 1\nb: !!int x\n", "line 2: not valid YAML: tag:yaml.org,2002:int: invalid literal for int"),
        ("a: !!bool x\n", "line 1: not valid YAML"),
        ("a: !!timestamp 2024-01-05\n", "line 1: not valid YAML: could not determine a constructor"),
        ("a:\n  1: x\n", "line 2: not valid YAML: the key 1 is not text; put keys in quotes"),
        ("a: b\non: x\n", "line 2: not valid YAML: the key on is not text"),
        ("a: 1\nb:2\nc: 3\n", "line 3: not valid YAML: could not find expected ':' (while scanning a simple key begun in line 2)"),
        ("a: &a [*a]", "not valid YAML: with aliases (*) written out it holds itself"),
        ("a: *b", "line 1: not valid YAML: found undefined alias"),
        ("[" * 5000, "not valid YAML: maximum recursion depth exceeded"),
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_an_error_names_the_line(text: str, said: str) -> None:
    with pytest.raises(JobError) as caught:
        parse(text)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_few_lines_cannot_stand_for_billions_of_values() -> None:
    levels = [f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(JobError, match="over 100,000 values"):
        parse("\n".join(["k0: &k0 [x]", *levels]))
    assert len(parse("\n".join(["k0: &k0 [x]", *levels[:3]]))["k3"]) == 10


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    max_leaves=6,
)


@given(JSON)
@example("\x85")
@example("\u2028")
@example("a\n")
def test_what_is_written_is_read_back(value: object) -> None:
    assert parse(dump(value)) == value
    assert parse(f"k: {inline(value)}  # comment") == {"k": value}
    assert len(inline(value).splitlines()) == 1


@pytest.mark.parametrize("text", ["01234", "1e-3", "12:30:45", "0x1F", "2024-01-05", "off", "", "~", "<<", "a #b"])
def test_text_that_looks_like_something_else_is_quoted_for_any_reader(text: str) -> None:
    assert parse(dump({"k": text})) == yaml.safe_load(dump({"k": text})) == {"k": text}


def test_the_same_key_in_two_sections_and_merged_keys_are_fine() -> None:
    assert parse("a: {x: 1}\nb: {x: 2}") == {"a": {"x": 1}, "b": {"x": 2}}
    merged = parse("a: &a {x: 1, y: 1}\nb: {<<: *a, x: 2}")
    assert merged["b"] == {"x": 2, "y": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty; begin with `runner:`"),
        (b"# nothing but this\n", "is empty"),
        (b"- a\n- b\n", "holds list, not sections"),
        (b"just words", "holds str, not sections"),
        (b"name: \xff\xfe", "cannot be read: it is not UTF-8 text"),
        (b"a: 1\nb: [\n", "line 3: not valid YAML"),
    ],
)
def test_a_file_that_gives_no_sections_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(JobError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none.yaml", "there is no such file"), (tmp_path, "Is a directory")):
        with pytest.raises(JobError, match=said):
            read(path)
