"""Datasets for scripts of one's own: the same batches whether streamed or held."""

from pathlib import Path

import pytest

from fedps.data.hashing import stable_hash
from fedps.data.scripts.datasets import InmemoryDataset, QueueDataset
from fedps.errors import DataError
from fedps.types import Bags, ids_of

AWK = "awk -F, '{print 1,$1,1,$2,1,$3}'"


def files(tmp_path: Path) -> list[Path]:
    """Three files of 4, 1 and 6 samples; a sample's item is its place."""
    places, paths = iter(range(11)), []
    for name, count in (("b", 4), ("a", 1), ("c", 6)):
        paths.append(tmp_path / name)
        paths[-1].write_text("".join(f"1,{next(places)},1\n" for _ in range(count)))
    return paths


def made(dataset: QueueDataset, tmp_path: Path, **settings: object) -> QueueDataset:
    dataset.init(num_users=5, num_items=20, **settings)  # type: ignore[arg-type]
    dataset.set_filelist([str(f) for f in files(tmp_path)])
    return dataset


def items(dataset: QueueDataset) -> list[list[int]]:
    return [batch.item.tolist() for batch in dataset.batches()]


@pytest.mark.parametrize("kind", [QueueDataset, InmemoryDataset])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("command", [None, AWK])
def test_batches_run_over_files_in_their_order(
    kind: type[QueueDataset], threads: int, command: str | None, tmp_path: Path
) -> None:
    dataset = made(
        kind(), tmp_path, batch_size=3, thread_num=threads, pipe_command=command, allow_commands=command is not None
    )
    if isinstance(dataset, InmemoryDataset):
        dataset.load_into_memory()
        assert len(dataset) == 11
    assert items(dataset) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]]
    assert items(dataset) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]], "each pass is the same"


def test_a_queue_dataset_reads_anew_and_an_in_memory_one_does_not(tmp_path: Path) -> None:
    queue, held = made(QueueDataset(), tmp_path, batch_size=9), made(InmemoryDataset(), tmp_path, batch_size=9)
    assert isinstance(held, InmemoryDataset)
    held.load_into_memory()
    (tmp_path / "a").write_text("1,19,1\n")
    assert items(queue)[0][4] == 19
    assert items(held)[0][4] == 4


def test_memory_is_shuffled_by_seed_and_released(tmp_path: Path) -> None:
    dataset = made(InmemoryDataset(), tmp_path, batch_size=11)
    assert isinstance(dataset, InmemoryDataset)
    dataset.load_into_memory()
    dataset.local_shuffle([0, 1])
    (first,) = items(dataset)
    dataset.local_shuffle([0, 2])
    (second,) = items(dataset)
    assert sorted(first) == sorted(second) == list(range(11))
    assert first != second
    dataset.release_memory()
    assert len(dataset) == 0
    with pytest.raises(DataError, match="call load_into_memory first"):
        items(dataset)


def test_malformed_lines_are_counted_anew_in_each_pass(tmp_path: Path) -> None:
    dataset = made(QueueDataset(), tmp_path, batch_size=20, skip_bad_lines=True)
    (tmp_path / "a").write_text("1,4,1\nx\ny\n")
    for _ in range(2):
        assert items(dataset) == [list(range(11))]
        assert dataset.skipped.lines == 2
        assert "'x'" in dataset.skipped.first


SLOTS: dict[str, dict[str, object]] = {
    "who": {"kind": "id", "rows": "open"},
    "seen": {"kind": "ids", "rows": 9, "max": 2},
    "age": {"kind": "number", "dim": 2},
    "click": {"kind": "label"},
}
PRINT = 'awk -F, \'NR > 1 {n = split($2, s, "|"); split($3, a, "|"); '
PRINT += 'print 1, $1, n, s[1], (n > 1 ? s[2] " " : "") (n > 2 ? s[3] " " : "") 2, a[1], a[2], 1, $4}\''


@pytest.mark.parametrize("kind", [QueueDataset, InmemoryDataset])
@pytest.mark.parametrize("command", [None, PRINT])
def test_any_declared_slots_are_yielded(kind: type[QueueDataset], command: str | None, tmp_path: Path) -> None:
    rows = [f"u{k},{'|'.join(map(str, range(1, 2 + k % 3)))},{k}|0.5,{k % 2}" for k in range(7)]
    for name, part in (("a.csv", rows[:3]), ("b.csv", rows[3:])):
        (tmp_path / name).write_text("\n".join(["who,seen,age,click", *part]) + "\n")
    dataset = kind()
    dataset.init(batch_size=5, pipe_command=command, allow_commands=True, features=SLOTS, seed=3)
    dataset.set_filelist([tmp_path / "a.csv", tmp_path / "b.csv"])
    if isinstance(dataset, InmemoryDataset):
        dataset.load_into_memory()
        assert len(dataset) == 7
    first, last = dataset.batches()
    assert (len(first.label), len(last.label)) == (5, 2)
    assert list(first.columns) == ["who", "seen", "age"]
    assert ids_of(first.columns["who"]).tolist() == (stable_hash([f"u{k}" for k in range(5)], 3) & (2**63 - 1)).tolist()
    seen = first.columns["seen"]
    assert isinstance(seen, Bags)
    assert seen.padded().tolist() == [[1, -1], [1, 2], [2, 3], [1, -1], [1, 2]]
    assert ids_of(last.columns["age"]).tolist() == [[5, 0.5], [6, 0.5]]
    assert first.label.tolist() == [0, 1, 0, 1, 0]


def test_slots_without_a_label_are_positives_and_wrong_ones_are_told_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("who\nx\ny\n")
    dataset = QueueDataset()
    dataset.init(batch_size=2, features={"who": SLOTS["who"]})
    dataset.set_filelist([tmp_path / "a.csv"])
    (batch,) = dataset.batches()
    assert batch.label.tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"(?s)features\.a: give rows .*features\.b\.table: 'c': is no feature"):
        dataset.init(features={"a": {"kind": "id"}, "b": {"kind": "id", "table": "c"}})
    with pytest.raises(ValueError, match="num_items: is missing; give it, or features"):
        dataset.init(num_users=3)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size: 0: must be at least 1"):
        made(QueueDataset(), tmp_path, batch_size=0)
    with pytest.raises(ValueError, match="pipe_command: 'cat': is not run without allow_commands=True"):
        made(QueueDataset(), tmp_path, pipe_command="cat")
    with pytest.raises(DataError, match="call set_filelist first"):
        items(QueueDataset())
    (tmp_path / "bad").write_text("1,2\n")
    dataset = made(QueueDataset(), tmp_path, thread_num=4)
    dataset.set_filelist([*files(tmp_path), tmp_path / "bad"])
    with pytest.raises(DataError, match="bad, line 1: '1,2': has 2 fields"):
        items(dataset)
