"""A party's samples: in the agreed order whatever that of its files, split and cut into batches alike at all parties."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from fedps.config.vertical import VerticalJob, load_vertical
from fedps.errors import DataError
from fedps.vertical.data import batches_of, digest_of, ids_of, side_data, split, steps_of
from fedps.vertical.ids import read_ids


def job_of(folder: Path, *overrides: str, label: str = "i % 2") -> VerticalJob:
    """Return a job of 100 samples: shop's in order, bank's from the last to the first."""
    rows = range(100)
    (folder / "shop.csv").write_text("id,item,label\n" + "".join(f"{i},{i % 7},{eval(label)}\n" for i in rows))
    (folder / "bank.csv").write_text("age,id\n" + "".join(f"{i}.5,{i}\n" for i in reversed(rows)))
    features = {"item": {"kind": "id", "rows": "open"}, "label": {"kind": "label"}}
    tree = {
        "vertical": {"active": "shop", "passive": ["bank"], "train_batch_size": 32, "seed": 5},
        "parties": {
            "shop": {"data": "shop.csv", "features": features},
            "bank": {"data": "bank.csv", "features": {"age": {"kind": "number"}}},
        },
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(tree))
    return load_vertical(folder / "job.yaml", overrides)


def test_both_sides_have_the_same_samples_at_the_same_places(tmp_path: Path) -> None:
    job, common = job_of(tmp_path), np.array([40, 3, 77, 12, 55, 8, 9, 61, 90, 21])
    shop, bank = side_data(job, "shop", common), side_data(job, "bank", 99 - common)
    trained, held_out = split(job, 10)
    assert len(trained) == 8 and sorted([*trained, *held_out]) == list(range(10))
    np.testing.assert_array_equal(np.asarray(bank.train.columns["age"]), common[trained] + np.float32(0.5))
    np.testing.assert_array_equal(np.asarray(bank.test.columns["age"]), common[held_out] + np.float32(0.5))
    np.testing.assert_array_equal(shop.train.label, common[trained] % 2)
    np.testing.assert_array_equal(shop.train.ids("item"), common[trained] % 7)
    assert list(shop.keys) == ["item"] and not bank.keys


def test_batches_follow_from_seed_and_epoch_alone(tmp_path: Path) -> None:
    ours, theirs, other = (job_of(tmp_path, *more) for more in ([], ["vertical.lift=[]"], ["vertical.seed=6"]))
    first, again, next_, elsewhere = (
        [b.tolist() for b in batches_of(job, epoch, 100)]
        for job, epoch in ((ours, 0), (theirs, 0), (ours, 1), (other, 0))
    )
    assert first == again and first != next_ and first != elsewhere
    assert steps_of(ours, 100) == len(first) == 4 and [len(b) for b in first] == [32, 32, 32, 4]
    assert sorted(i for batch in first for i in batch) == list(range(100))
    assert [b.tolist() for b in batches_of(ours, 0, 100, begin=2)] == first[2:]


def test_held_out_samples_of_files_of_their_own(tmp_path: Path) -> None:
    job = job_of(tmp_path, "parties.shop.test_data=shop.csv", "parties.bank.test_data=bank.csv")
    shop = side_data(job, "shop", np.arange(60), np.arange(60, 100))
    assert len(shop.train.label) == 60 and len(shop.test.label) == 40
    assert len(side_data(job_of(tmp_path, "vertical.holdout=0"), "shop", np.arange(60)).test.label) == 0


def test_a_label_that_never_changes_is_an_error_that_names_column_and_value(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"parties\.shop\.features\.label: all 48 common samples have 1 in column"):
        side_data(job_of(tmp_path, label="1"), "shop", np.arange(60))


def test_labels_that_never_change_are_told_before_samples_are_matched(tmp_path: Path) -> None:
    job = job_of(tmp_path, label="1")
    with pytest.raises(
        DataError, match=r"features\.label: all 100 samples have 1 in column 'label', .* this is the label$"
    ):
        ids_of(job, "shop", job.parties["shop"].data)
    (tmp_path / "held.csv").write_text("id,item,label\n200,1,1\n201,1,1\n")
    assert len(ids_of(job, "shop", (tmp_path / "held.csv",))) == 2  # held-out ones may be alike


def test_what_a_party_knows_of_its_samples_has_a_digest(tmp_path: Path) -> None:
    job, common = job_of(tmp_path), np.arange(20)

    def digest(party: str) -> str:
        return digest_of(side_data(job, party, common))

    before = {party: digest(party) for party in job.order}
    assert before == {party: digest(party) for party in job.order}
    for party, old, new in (("shop", "19,5,1", "19,5,0"), ("shop", "19,5,0", "19,6,1"), ("bank", "99.5,99", "98.5,99")):
        file = tmp_path / f"{party}.csv"
        file.write_text(file.read_text().replace(old, new))
        assert digest(party) != before[party]
        before[party] = digest(party)


def test_a_file_that_lost_rows_since_its_ids_were_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"bank\.csv: changed while it was read: it has 100 rows"):
        side_data(job_of(tmp_path), "bank", np.arange(101))


def test_files_that_lost_rows_between_ids_and_features_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path)
    ids = read_ids(job.parties["bank"].data, ("id",), job.ids)
    monkeypatch.setattr("fedps.vertical.data.read_ids", lambda *_: [*ids, b"1:a"])
    with pytest.raises(
        DataError, match=r"bank\.csv: changed while it was read: it has 100 rows of features, and 101 ids"
    ):
        ids_of(job, "bank", job.parties["bank"].data)


@pytest.mark.parametrize("party", ["shop", "bank"])
def test_something_is_left_to_train_on(tmp_path: Path, party: str) -> None:
    with pytest.raises(DataError, match=r"vertical\.holdout: 0\.9: of 4 common samples none is left to train on"):
        side_data(job_of(tmp_path, "vertical.holdout=0.9"), party, np.arange(4))


def test_lines_of_two_files_of_one_name_are_not_one_sample(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    job_of(tmp_path)
    (tmp_path / "more" / "bank.csv").write_bytes((tmp_path / "bank.csv").read_bytes())
    job = job_of(
        tmp_path,
        *(f'parties.{party}.id="@line"' for party in ("shop", "bank")),
        "parties.bank.data=[bank.csv, more/bank.csv]",
    )
    with pytest.raises(DataError, match=r"/bank\.csv and .*/more/bank\.csv have one name"):
        ids_of(job, "bank", job.parties["bank"].data)
