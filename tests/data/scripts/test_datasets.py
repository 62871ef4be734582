"""Datasets for scripts of one's own: the same batches whether streamed or held."""

from pathlib import Path

import pytest

from fedps.data.scripts.datasets import InmemoryDataset, QueueDataset
from fedps.errors import DataError

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
