"""Which files are whose: by name, or dealt out in natural order."""

import json
import os
import shutil
from pathlib import Path

import pytest

from fedps.config import Job, Runner, files, load_job, notes_of
from fedps.config.files import ANY, client_files_of, clients_there, files_in
from fedps.config.sections.features import Feature
from fedps.config.sections.training import HyperParameters
from fedps.errors import DataError, JobError
from fedps.types import ClientId


def make(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("1,2,1\n")


def job(tmp_path: Path, **runner: object) -> Job:
    values = {"train_data_dir": tmp_path / "train", "worker_num": 1, **runner}
    return Job(name="j", folder=tmp_path, runner=Runner.model_validate(values))


def names(found: dict[ClientId, tuple[Path, ...]]) -> dict[str, list[str]]:
    return {str(client): [f.name for f in mine] for client, mine in found.items()}


def of(tmp_path: Path, **runner: object) -> dict[str, list[str]]:
    return names(client_files_of(job(tmp_path, **runner)))


def held_out(tmp_path: Path, **runner: object) -> dict[str, list[str]]:
    return names(files.test_files_of(job(tmp_path, test_data_dir=tmp_path / "test", **runner)))


def test_files_stand_in_natural_order_and_hidden_ones_are_nobodys(tmp_path: Path) -> None:
    make(tmp_path, *(f"{name}.csv" for name in ("10", "2", "b", "1", "a10", "a9", "._1", "02")), "notes.txt")
    assert [f.stem for f in files_in(tmp_path)] == ["1", "02", "2", "10", "a9", "a10", "b"]
    assert files_in(tmp_path, ANY)[-1].name == "notes.txt"


def test_the_job_and_its_checks_name_clients_in_one_order(tmp_path: Path) -> None:
    make(tmp_path / "train", "north.csv", "east-10.csv", "east-9.csv", "2.csv", "10.csv")
    (tmp_path / "job.yaml").write_text("runner: {train_data_dir: train}\n")
    loaded = load_job(tmp_path / "job.yaml")
    assert clients_there(loaded) == list(client_files_of(loaded)) == ["2", "10", "east-9", "east-10", "north"]


def test_a_client_is_the_stem_of_its_file(tmp_path: Path) -> None:
    make(tmp_path / "train", "10.csv", "2.csv", "north.csv", "notes.txt", ".2.csv")
    (tmp_path / "train" / "old.csv").mkdir()
    assert of(tmp_path) == {"2": ["2.csv"], "10": ["10.csv"], "north": ["north.csv"]}


@pytest.mark.parametrize(
    ("runner", "count"),
    [
        ({}, 1),
        ({"pipe_command": "cat"}, 1),
        ({"reader_type": "QueueDataset", "pipe_command": "cat"}, 3),
        ({"reader_type": "InmemoryDataset", "pipe_command": "cat"}, 3),
        ({"reader_type": "QueueDataset"}, 1),
        ({"reader_type": "RecDataset"}, 3),
        ({"reader_type": "DataLoader"}, 3),
    ],
)
def test_files_have_any_ending_where_the_users_own_code_reads_them(
    runner: dict[str, object], count: int, tmp_path: Path
) -> None:
    make(tmp_path / "train", "0.csv", "1.txt", "2")
    assert len(of(tmp_path, **runner)) == count


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(1, [11]), (2, [6, 5]), (3, [4, 4, 3]), (4, [3, 3, 3, 2]), (10, [2, 1, 1, 1, 1, 1, 1, 1, 1, 1])],
)
def test_files_are_dealt_in_contiguous_blocks_of_natural_order(count: int, sizes: list[int], tmp_path: Path) -> None:
    make(tmp_path / "train", *(f"part-{k}.csv" for k in range(11)))
    dealt = of(tmp_path, split_file_list=True, worker_num=count)
    assert list(dealt) == [str(k) for k in range(count)]
    assert [len(mine) for mine in dealt.values()] == sizes
    assert [f for mine in dealt.values() for f in mine] == [f"part-{k}.csv" for k in range(11)]


def test_one_file_a_client_keeps_the_clients_names(tmp_path: Path) -> None:
    make(tmp_path / "train", "a.csv", "b.csv")
    assert of(tmp_path, split_file_list=True, worker_num=2) == {"a": ["a.csv"], "b": ["b.csv"]}


def test_fewer_files_than_clients_is_an_error(tmp_path: Path) -> None:
    make(tmp_path / "train", "a.csv", "b.csv")
    with pytest.raises(DataError, match=r"runner\.worker_num: 3: .*holds only 2 files"):
        of(tmp_path, split_file_list=True, worker_num=3)


def test_two_files_of_one_stem_are_an_error_unless_they_are_dealt(tmp_path: Path) -> None:
    make(tmp_path / "train", "a.csv", "a.txt", "b.csv")
    runner: dict[str, object] = {"reader_type": "RecDataset"}
    with pytest.raises(DataError, match=r"a\.csv and a\.txt would both be of client 'a'"):
        of(tmp_path, **runner)
    assert of(tmp_path, split_file_list=True, worker_num=2, **runner) == {"0": ["a.csv", "a.txt"], "1": ["b.csv"]}


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train: cannot be read: No such file"):
        of(tmp_path)


def test_held_out_files_follow_the_training_files_of_their_stem(tmp_path: Path) -> None:
    make(tmp_path / "train", *(f"{k}.csv" for k in range(4)))
    make(tmp_path / "test", "1.csv", "3.csv", "stranger.csv")
    assert held_out(tmp_path) == {"1": ["1.csv"], "3": ["3.csv"]}
    dealt = held_out(tmp_path, split_file_list=True, worker_num=2)
    assert dealt == {"0": ["1.csv"], "1": ["3.csv"]}
    assert files.test_files_of(job(tmp_path)) == {}


def test_held_out_files_of_other_names_are_dealt_too(tmp_path: Path) -> None:
    make(tmp_path / "train", *(f"{k}.csv" for k in range(4)))
    make(tmp_path / "test", "t0.csv", "t1.csv", "t2.csv")
    assert held_out(tmp_path, split_file_list=True, worker_num=2) == {"0": ["t0.csv", "t1.csv"], "1": ["t2.csv"]}


@pytest.mark.parametrize("there", [[], ["test_data.csv"], ["t0.csv", "t1.csv", "t2.csv"]])
def test_a_held_out_folder_with_nothing_of_any_client_is_an_error(there: list[str], tmp_path: Path) -> None:
    make(tmp_path / "train", *(f"{k}.csv" for k in range(4)))
    make(tmp_path / "test", *there)
    with pytest.raises(
        DataError, match=r"runner\.test_data_dir: .*/test\': holds .*nothing of clients 0, 1, 2, …; name .*leave"
    ):
        held_out(tmp_path)


def test_a_job_file_says_so(tmp_path: Path) -> None:
    make(tmp_path / "train", "a.csv", "b.csv", "c.csv")
    (tmp_path / "job.yaml").write_text(
        "runner: {train_data_dir: train, split_file_list: true, worker_num: 2, sync_mode: geo}\n"
    )
    assert len(client_files_of(load_job(tmp_path / "job.yaml"))) == 2


def test_a_held_out_folder_with_nothing_of_any_client_is_a_mistake_of_the_job(tmp_path: Path) -> None:
    make(tmp_path / "train", "a.csv", "b.csv")
    make(tmp_path / "test", "test_data.csv")
    (tmp_path / "job.yaml").write_text("runner: {train_data_dir: train, test_data_dir: test, epochs: no}\n")
    with pytest.raises(JobError) as caught:
        load_job(tmp_path / "job.yaml")
    (number, folder) = caught.value.mistakes
    assert "runner.epochs" in number
    assert folder.startswith(
        f"runner.test_data_dir: '{tmp_path}/test': holds test_data.csv, and nothing of clients a, b; "
    )


def test_clients_without_held_out_files_and_files_of_nobody_are_noted(tmp_path: Path) -> None:
    make(tmp_path / "train", *(f"{k}.csv" for k in range(6)))
    make(tmp_path / "test", "0.csv", "1.csv", "stranger.csv")
    (tmp_path / "job.yaml").write_text("runner: {train_data_dir: train, test_data_dir: test}\n")
    assert notes_of(load_job(tmp_path / "job.yaml")) == [
        "runner.test_data_dir: has no file of 4 clients (2, 3, 4, …) which are not evaluated",
        "runner.test_data_dir: has 1 files of nobody (stranger.csv) which are not read",
    ]


def test_sizes_come_from_the_manifest_beside_the_data(small_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"runner: {{train_data_dir: {small_data / 'train'}}}\n")

    def hyper(*overrides: str) -> HyperParameters:
        return load_job(path, [f"hyper_parameters.{o}" for o in overrides]).hyper_parameters

    assert (hyper().num_users, hyper().num_items) == (120, 220)
    with pytest.raises(JobError, match=r"num_items: 219: .*manifest\.json says 220; use that, or leave the key out"):
        hyper("num_items=219")
    more = load_job(path, ["hyper_parameters.num_items=3706", "runner.geo_step=1"])
    assert (more.hyper_parameters.num_users, more.hyper_parameters.num_items) == (120, 3706)
    assert notes_of(more) == [
        "hyper_parameters.num_items: 3706: the data's manifest says 220: 3486 items have no sample"
    ]


def test_a_window_that_is_a_whole_pass_is_noted(tmp_path: Path) -> None:
    def notes(clients: object, *overrides: str) -> list[str]:
        (tmp_path / "manifest.json").write_text(json.dumps({"clients": clients}))
        return notes_of(load_job(tmp_path / "job.yaml", ["runner.train_batch_size=256", *overrides]))

    (tmp_path / "train").mkdir()
    (tmp_path / "train/a.csv").write_text("1,2,1\n")
    (tmp_path / "job.yaml").write_text("runner: {train_data_dir: train, sync_mode: geo}\n")
    frappe = {"a": {"samples": 6742}, "b": {"samples": 7046}}
    assert notes(frappe, "runner.geo_step=100") == [
        "runner.geo_step: 100: a client's pass has 27 batches, by the data's manifest: it learns from the others once a pass,"
        " or less; lower geo_step, or train_batch_size"
    ]
    assert len(notes(frappe, "runner.geo_step=27")) == 1
    for quiet in ("geo_step=26", "train_batch_size=128", "sync_mode=round", "negatives=4"):
        assert not any("once a pass" in note for note in notes(frappe, "runner.geo_step=27", f"runner.{quiet}")), quiet
    assert notes({"a": {"samples": 200}}) == [], "of one batch there is no smaller window"
    nothing: list[object] = [None, [], {"a": 7}, {"a": {"samples": "7"}}, {"a": {"samples": True}}]
    for strange in nothing:
        assert notes(strange) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"num_users": "7", "num_items": true}', '{"num_users": -1}'])
def test_a_manifest_of_something_else_says_no_sizes(text: str, small_data: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    shutil.copytree(small_data / "train", tmp_path / "train")
    (tmp_path / "job.yaml").write_text("runner: {train_data_dir: train}\n")
    hyper = load_job(tmp_path / "job.yaml").hyper_parameters
    assert (hyper.num_users, hyper.num_items) == (6040, 3706)


def loaded(tmp_path: Path) -> Job:
    (tmp_path / "job.yaml").write_text("runner: {train_data_dir: train, test_data_dir: test}\n")
    return load_job(tmp_path / "job.yaml")


@pytest.mark.parametrize("side", ["train", "test"])
@pytest.mark.parametrize(
    "kind",
    ["a folder", "a dangling link", "a copy", "another copy", "packed", "CSV", "tabs", "line end", "blank", "no UTF-8"],
)
def test_what_is_no_clients_file_is_named_at_once(kind: str, side: str, tmp_path: Path) -> None:
    make(tmp_path / "train", "1.csv", "2.csv")
    make(tmp_path / "test", "1.csv", "2.csv")
    assert loaded(tmp_path).runner.worker_num == 2
    where = tmp_path / side
    match kind:
        case "a folder":
            (where / "3.csv").mkdir()
            make(where / "3.csv", "part-0.csv")
            said = "'3.csv' is a folder; put its parts into one file of that name"
        case "a dangling link":
            (where / "3.csv").symlink_to(tmp_path / "gone.csv")
            said = "'3.csv' leads to no file; mend the link"
        case "a copy":
            make(where, "2 - Copy.csv")
            said = "'2 - Copy.csv' is a copy of 2.csv"
        case "another copy":
            make(where, "2 (1).csv")
            said = "'2 (1).csv' is a copy of 2.csv"
        case "line end" | "blank":
            name = {"line end": "a\nb.csv", "blank": "Klinik\u00a0Süd.csv"}[kind]
            make(where, name)
            said = f"{name!r} has a character in its name that cannot be seen"
        case "packed" | "CSV" | "tabs":
            name = {"packed": "3.csv.gz", "CSV": "3.CSV", "tabs": "3.tsv"}[kind]
            make(where, name, "2.csv.bak", "2.tsv", "2.csv.gz", "README.txt", "data.zip", ".3.csv.gz")
            said = f"{name!r} is no .csv file as it is: unpack it, or rename it to .csv"
        case _:
            Path(os.fsdecode(os.fsencode(where) + b"/M\xfcnchen.csv")).write_text("1,2,1\n")
            said = r"'M\udcfcnchen.csv' has a name that is no UTF-8"
    with pytest.raises(JobError) as caught:
        loaded(tmp_path)
    (mistake,) = caught.value.mistakes
    assert mistake.startswith(f"runner.{side}_data_dir: {str(where)!r}: {said}")


def test_a_name_is_one_however_its_letters_are_composed(tmp_path: Path) -> None:
    make(tmp_path / "train", "Mu\u0308nchen.csv", "2.csv")
    make(tmp_path / "test", "M\u00fcnchen.csv", "2.csv")
    assert files.test_files_of(loaded(tmp_path))[ClientId("Mu\u0308nchen")] == (tmp_path / "test" / "M\u00fcnchen.csv",)
    assert notes_of(loaded(tmp_path)) == []
    make(tmp_path / "train", "M\u00fcnchen.csv")
    with pytest.raises(DataError, match="would both be of client"):
        client_files_of(loaded(tmp_path))


def test_what_is_like_a_copy_of_nobody_is_a_client(tmp_path: Path) -> None:
    make(tmp_path / "train", "clinic (2).csv", "the copy.csv", "2.csv")
    make(tmp_path / "test", "2.csv")
    assert loaded(tmp_path).runner.worker_num == 3


def test_a_folder_whose_name_is_no_utf8_is_a_mistake_of_the_job(tmp_path: Path) -> None:
    home = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcnchen"))
    home.mkdir()
    make(home / "train", "1.csv")
    make(home / "test", "1.csv")
    with pytest.raises(JobError, match=r"folder: .*is no UTF-8, in which reports and logs are written"):
        loaded(home)


def test_held_out_files_that_fit_no_client_are_named_on_both_sides(tmp_path: Path) -> None:
    make(tmp_path / "train", "0.csv", "1.csv", "2.csv")
    make(tmp_path / "test", "0.csv", "01.csv", "02.csv")
    assert notes_of(loaded(tmp_path))[-2:] == [
        "runner.test_data_dir: has no file of 2 clients (1, 2) which are not evaluated",
        "runner.test_data_dir: has 2 files of nobody (01.csv, 02.csv) which are not read",
    ]


def test_files_of_features_have_several_endings_and_a_client_is_named_without_them(tmp_path: Path) -> None:
    make(tmp_path / "train", "0.csv", "a.tsv.gz", "b.parquet", "c.libfm", "d.docx", ".e.csv")
    features = {"x": Feature(kind="number"), "y": Feature(kind="label")}
    stating = job(tmp_path).model_copy(update={"features": features})
    assert list(client_files_of(stating)) == clients_there(stating) == ["0", "a", "b", "c"]
    assert clients_there(job(tmp_path)) == ["0"]
    make(tmp_path / "train", "0.csv.gz")
    with pytest.raises(DataError, match=r"0\.csv and 0\.csv\.gz would both be of client '0'"):
        client_files_of(stating)
