"""Tables as the original's servers write them, taken over: rows by key in any of its rules, dense parameters end to end."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from fedps.config import Job
from fedps.errors import DataError, JobError
from fedps.serving.export import export_run
from fedps.serving.original_tables import import_original
from tests.conftest import MakeJob

pytest.importorskip("torch")
from safetensors.numpy import load_file

STATES = {
    "sgd": (0, 0),
    "adagrad": (1, 1),
    "std_adagrad": (1, 7),
    "adam": (4, 16),
}  # of rows of 8: the first float's, the others'
ITEMS, DIM = 420, 8
SHAPES = {"mlp.0.weight": (8, 16), "mlp.0.bias": (8,), "mlp.2.weight": (4, 8), "mlp.2.bias": (4,), "predict.weight": (1, 4), "predict.bias": (1,)}  # fmt: skip


def value(row: np.ndarray, rule: str) -> list[float]:
    """A feature's value as the original's accessor writes it."""
    first, rest = STATES[rule]
    return [0, 3, 0.5, 1, 1, row[0], *[7.0] * first, *row[1:], *[9.0] * rest]


def write(
    folder: Path, rows: np.ndarray, weights: dict[str, np.ndarray], rule: str = "adam", packed: bool = False
) -> None:
    for part in range(3):
        lines = [f"{k} {' '.join(f'{x:.9g}' for x in value(rows[k], rule))}" for k in range(part, len(rows), 3)]
        path = folder / "001" / f"part-000-{part:05d}{'.gz' * packed}"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "\n".join(lines) + "\n"
        path.write_bytes(gzip.compress(text.encode())) if packed else path.write_text(text)
    flat = np.concatenate([(w.T if w.ndim == 2 else w).ravel() for w in weights.values()])
    (folder / "002").mkdir()
    (folder / "002" / "part-000").write_text("".join(f"{x:.9g} 0 0.1 0.2\n" for x in flat))


@pytest.fixture
def job(make_job: MakeJob) -> Job:
    return make_job({"num_users": 120, "num_items": ITEMS, "fc_layers": [16, 8, 4]}, local_sparse=["embedding_0.w_0"], remote_sparse=["embedding_1.w_0"])  # fmt: skip


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ITEMS, DIM)).astype(np.float32)


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("rule", STATES)
def test_rows_and_layers_come_over_whatever_the_rule(rule: str, job: Job, rows: np.ndarray, weights: dict[str, np.ndarray], tmp_path: Path) -> None:  # fmt: skip
    write(tmp_path / "2", rows, weights, rule, packed=rule == "adam")
    told = import_original(job, tmp_path / "2", tmp_path / "out")
    assert told.keys() == {"mlp_item.weight", *SHAPES}
    found = load_file(export_run(tmp_path / "out", tmp_path / "exported"))
    np.testing.assert_allclose(found["mlp_item.weight"], rows, rtol=1e-6)
    for name, weight in weights.items():
        np.testing.assert_allclose(found[name], weight, rtol=1e-6)


def test_a_row_that_has_not_grown_has_its_first_float(job: Job, rows: np.ndarray, weights: dict[str, np.ndarray], tmp_path: Path) -> None:  # fmt: skip
    write(tmp_path / "2", rows[:3], weights)
    (tmp_path / "2" / "001" / "part-000-00009").write_text("7 0 0 0 0 0 0.5 1 1 1 1\n")
    import_original(job, tmp_path / "2", tmp_path / "out")
    found = load_file(export_run(tmp_path / "out", tmp_path / "exported"))
    assert found["mlp_item.weight"][7].tolist() == [0.5, *[0.0] * 7]


def test_a_row_that_has_not_grown_is_told_from_a_whole_one_of_another_rule(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job({"num_users": 120, "num_items": ITEMS, "fc_layers": [10, 1]}, local_sparse=["embedding_0.w_0"], remote_sparse=["embedding_1.w_0"])  # fmt: skip
    for name, lines in (
        ("001/part-000-00000", f"3 0 0 0 0 0 0.5 {'7 ' * 4}1 2 3 4 {'9 ' * 10}\n5 0 0 0 0 0 0.25 7 7 7 7\n"),  # Adam's
        ("002/part-000", "1\n" * 13),
    ):
        (tmp_path / "2" / name).parent.mkdir(parents=True)
        (tmp_path / "2" / name).write_text(lines)
    import_original(job, tmp_path / "2", tmp_path / "out")
    found = load_file(export_run(tmp_path / "out", tmp_path / "exported"))["mlp_item.weight"]
    assert found[3].tolist() == [0.5, 1, 2, 3, 4]
    assert found[5].tolist() == [0.25, 0, 0, 0, 0], "ten numbers are a whole row of SGD's too"


def test_an_order_of_ones_own_is_taken(job: Job, rows: np.ndarray, weights: dict[str, np.ndarray], tmp_path: Path) -> None:  # fmt: skip
    turned = dict(reversed(weights.items()))
    write(tmp_path / "2", rows, turned)
    names = ["linear_2.b_0", "linear_2.w_0", "linear_1.b_0", "linear_1.w_0", "linear_0.b_0", "linear_0.w_0"]
    import_original(job, tmp_path / "2", tmp_path / "out", {"001": "embedding_1.w_0"}, names)
    found = load_file(export_run(tmp_path / "out", tmp_path / "exported"))
    np.testing.assert_allclose(found["mlp.0.weight"], weights["mlp.0.weight"], rtol=1e-6)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("001/part-000-00000", "3 0 0 0\n", "line 1: 3 numbers behind a key are no row of 8"),
        ("001/part-000-00000", "420 0 0 0 0 0 1\n", r"line 1: key 420 is outside \[0, 420\)"),
        ("001/part-000-00000", "1 0 0 0 0 0 1\n", "key 1 stands there twice"),
        ("001/part-000-00000", "x 0 0 0 0 0 1\n", "line 1: 'x' holds what is no number"),
        ("001/part-000-00000", "3 0 0 0 0 0 nan\n", "line 1: holds NaN"),
        ("001/part-000-00000.gz", "no gzip", "is torn, or no table"),
        ("002/part-000", "1 0\n", "holds 1 values, and the network's dense parameters have 177"),
    ],
)
def test_what_does_not_fit_is_told_by_file_and_line(file: str, text: str, said: str, job: Job, rows: np.ndarray, weights: dict[str, np.ndarray], tmp_path: Path) -> None:  # fmt: skip
    write(tmp_path / "2", rows, weights)
    (tmp_path / "2" / file).write_text(text)
    with pytest.raises(DataError, match=said):
        import_original(job, tmp_path / "2", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_packed_file_of_which_a_byte_is_wrong_is_told(job: Job, rows: np.ndarray, weights: dict[str, np.ndarray], tmp_path: Path) -> None:  # fmt: skip
    write(tmp_path / "2", rows, weights)
    packed = bytearray(gzip.compress(b"3 0 0 0 0 0 1\n" * 99))
    packed[10] |= 0b110  # of a kind of block that there is not
    (tmp_path / "2" / "001" / "part-000-00000.gz").write_bytes(packed)
    with pytest.raises(DataError, match=r"part-000-00000.gz: is torn, or no table"):
        import_original(job, tmp_path / "2", tmp_path / "out")


def test_what_is_not_there_is_told(job: Job, rows: np.ndarray, weights: dict[str, np.ndarray], tmp_path: Path) -> None:  # fmt: skip
    with pytest.raises(JobError, match="holds no tables of the original's"):
        import_original(job, tmp_path, tmp_path / "out")
    write(tmp_path / "2", rows, weights)
    for named, dense, said in (
        ({"007": "embedding_1.w_0"}, (), "--table 007: there is no such sparse table; there are 001"),
        ({"001": "embedding_0.w_0"}, (), "embedding_0.w_0: is none of the shared parameters mlp_item.weight"),
        (None, ("linear_0.w_0",), "--dense: .* is missing"),
    ):  # fmt: skip
        with pytest.raises(JobError, match=said):
            import_original(job, tmp_path / "2", tmp_path / "out", named, dense)
    import_original(job, tmp_path / "2", tmp_path / "out")
    with pytest.raises(JobError, match="holds an epoch already"):
        import_original(job, tmp_path / "2", tmp_path / "out")
