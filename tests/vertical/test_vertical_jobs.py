"""A vertical job file: what it may hold, and every mistake in it at once, each with key, value and remedy."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fedps.config.shared import first_difference
from fedps.config.vertical import describe, load_vertical, notes_of, shared_part
from fedps.errors import JobError

WHOLE = """
vertical: {active: shop, passive: [bank]}
parties:
  shop:
    data: shop.csv
    features:
      item: {kind: id, rows: 10}
      label: {kind: label}
  bank:
    data: [bank.csv]
    features: {age: {kind: number}}
"""
SHOP = """
vertical: {active: shop, passive: [bank]}
parties:
  shop:
    data: shop.csv
    features: {label: {kind: label}}
"""
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a job beside the files of two parties."""
    for name in ("shop", "bank"):
        (tmp_path / f"{name}.csv").write_text("id\n1\n")

    def write(text: str = WHOLE) -> Path:
        path = tmp_path / "job.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_partys_own_file_has_its_own_part_alone(write: Write, tmp_path: Path) -> None:
    job = load_vertical(write(SHOP), party="shop")
    assert job.order == ("shop", "bank") and list(job.parties) == ["shop"]
    assert job.parties["shop"].data == (tmp_path / "shop.csv",) and job.parties["shop"].id == ("id",)
    with pytest.raises(
        JobError, match="bank: is missing: add its data and features, or start the party where they are"
    ):
        load_vertical(write(SHOP), whole=True)
    with pytest.raises(JobError, match=r"parties\.bank: is missing: add its data and features$"):
        load_vertical(write(SHOP), party="bank")
    with pytest.raises(JobError, match="party 'bang': the parties of this job are shop, bank"):
        load_vertical(write(SHOP), party="bang")


def test_what_is_described_or_saved_is_the_same_job(write: Write, tmp_path: Path) -> None:
    job = load_vertical(write(), ["vertical.epochs=7"])
    for path in (tmp_path / "described.yaml", tmp_path / "saved.yaml"):
        if path.stem == "saved":
            job.save(path)
        else:
            path.write_text(describe(tmp_path / "job.yaml", ["vertical.epochs=7"]))
            assert "  # override; passes over the common samples, at most\n" in path.read_text()
        assert load_vertical(path, ["name=job"]) == job


def test_parties_compare_what_they_share_and_no_secret(write: Write) -> None:
    ours, theirs = (load_vertical(write(), ["ids.psi_key=secret", *more]) for more in ([], ["ids.psi_key=other"]))
    assert "secret" not in str(shared_part(ours))
    again = load_vertical(write(), ["ids.psi_key=secret", "name=again"])
    hints = [shared_part(job)["ids.psi_key"] for job in (ours, theirs, again)]
    assert len(set(hints)) == 3 and {len(hint) for hint in hints} == {4}  # too short to try words by
    assert (first_difference(shared_part(ours), shared_part(theirs)) or "").startswith("ids.psi_key")
    assert shared_part(ours) == shared_part(load_vertical(write(SHOP), ["ids.psi_key=secret", "vertical.address=a:1"]))
    two = load_vertical(write(), ["parties.shop.id=[name, born]", "parties.bank.id=[name, born]"])
    assert "parties.NAME.id: " in (first_difference(shared_part(load_vertical(write())), shared_part(two)) or "")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["vertical.actve=a"], "vertical.actve: 'a': there is no such key; did you mean 'active'?"),
        (["vertical.network=deepfm"], "vertical.network: 'deepfm': must be one of MLP, DeepFM, DCNv2, TwoTower, own (did you mean 'DeepFM'?)"),
        (["vertical.lift=[alone]"], "vertical.lift[0]: 'alone': must be one of active, passive, joined"),
        (["vertical.in_flight=0"], "vertical.in_flight: 0: must be at least 1; it means: batches under way at once"),
        (["vertical.passive=[]"], "vertical.passive: []: must have at least 1 entries"),
        (["vertical.passive=[a, b, c]"], "vertical.passive: ['a', 'b', 'c']: "),
        (["vertical.address=here"], "vertical.address: 'here': is no host:port"),
        (["runner.epochs=3"], "runner: {'epochs': 3}: there is no such key; there are name, folder, vertical"),
        (["parties.shop.dada=x"], "parties.shop.dada: 'x': there is no such key; did you mean 'data'?"),
        (["parties.shop.data=null"], "parties.shop.data[0]: None: must be a path"),
        (["parties.shop.features.item.rowss=3"], "parties.shop.features.item.rowss: 3: there is no such key; did you mean"),
        (["parties.shop.features.item.rows=-1"], "parties.shop.features.item.rows: -1: must be a whole number of at least 1, or the word open"),
        (["parties.shop.features.item.kind=word"], "parties.shop.features.item.kind: 'word': must be one of id, ids, number, label"),
        (["vertical.active=bank"], "vertical.passive: 'bank': is the active party already"),
        (["vertical.active=a/b"], "vertical.active: 'a/b': is part of the names of folders"),
        (["vertical.passive=[bank, bank]"], "vertical.passive: 'bank': is named twice"),
        (["vertical.passive=[banc]"], "parties.bank: is no party of vertical.active and vertical.passive: did you mean 'banc'?"),
        (["vertical.active=bank", "vertical.passive=[shop]"], "parties.bank.features: has no label, and bank is the active party"),
        (["vertical.active=bank", "vertical.passive=[shop]"], "parties.shop.features.label: is of kind label, and shop is a passive party"),
        (["parties.shop.features.rating={kind: label}"], "parties.shop.features: has labels label, rating: one is learned"),
        (["parties.shop.features.label.column=''"], "parties.shop.features.label.column: '': the label stands in no file"),
        (["vertical.loss=mse"], "vertical.loss: mse: parties.shop.features.label is binary: use bce, or set the label's of: real"),
        (["parties.shop.features.label.of=real"], "vertical.loss: bce: parties.shop.features.label is real: use mse"),
        (["vertical.loss=mse", "parties.shop.features.label.of=real", "protection.labels=marvell"], "protection.labels: marvell: hides which"),
        (["protection.labels=frozen", "hyper_parameters.optimizer.weight_decay=0.1"], "protection.labels: frozen: passive parties stay"),
        (["vertical.network=own"], "parties.bank.bottom: is missing: vertical.network is own; name its class"),
        (["vertical.network=own"], "parties.shop.top: is missing: vertical.network is own"),
        (["vertical.network=own", "parties.bank.top=n.Top"], "parties.bank.top: 'n.Top': the top is the active party's, shop"),
        (["vertical.network=own", "parties.bank.bottom=Top"], "parties.bank.bottom: 'Top': write module.Class"),
        (["parties.bank.bottom=n.B"], "parties.bank.bottom: 'n.B': vertical.network is MLP, which is built in"),
        (["vertical.network=TwoTower", "vertical.passive=[bank, post]"], "vertical.network: 'TwoTower': has two towers, and there are 3 parties"),
        (["vertical.network=TwoTower", "parties.shop.features={label: {kind: label}}"], "parties.shop.features: has no input, and network TwoTower"),
        (["parties.bank.features={}"], "parties.bank.features: is missing: a passive party has features"),
        (["parties.bank.features.age.rows=3"], "parties.bank.features.age.rows: a feature of kind number has no such key"),
        (["parties.bank.features.of={kind: id, table: age}"], "parties.bank.features.of.table: 'age': is no feature with rows"),
        (["parties.bank.data=gone.csv"], "gone.csv': there is no such file"),
        (["parties.bank.data=[.]"], "is a folder, in a list or without files"),
        (["parties.bank.id=[a, b]"], "parties.shop.id: bank has more columns: samples are matched by as many"),
        (["parties.bank.test_data=bank.csv"], "parties.shop.test_data: is missing: bank has files of held-out samples"),
        (["vertical.patience=2", "vertical.holdout=0"], "vertical.patience: 2: nothing is held out to measure by"),
        (["hyper_parameters.mode=DeepFM"], "hyper_parameters.mode: 'DeepFM': says nothing of a vertical job; vertical.network does"),
        (["hyper_parameters.hiden_units=[3]"], "hyper_parameters.hiden_units: [3]: the built-in networks have no such key; did you mean"),
        (["hyper_parameters.optimizer.beta1=0.9999"], "hyper_parameters.optimizer.beta1: 0.9999: must be below"),
        (["protection.labels=off"], "protection.labels: False: put the word in quotes"),
        (["nonsense"], "-o 'nonsense': write key=value"),
    ],
    ids=lambda value: ", ".join(value)[:70] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistake_names_key_value_and_remedy(write: Write, overrides: list[str], said: str) -> None:
    with pytest.raises(JobError) as told:
        load_vertical(write(), overrides)
    assert [line for line in told.value.mistakes if said in line], told.value.mistakes


@pytest.mark.parametrize(
    ("overrides", "party", "said"),
    [
        ([], None, []),
        (["vertical.network=DCNv2", "vertical.address=localhost:7070"], None, []),
        (["vertical.address=10.0.0.1:7070"], "bank", []),
        (["vertical.address=0.0.0.0:7070"], "shop", ["protection.labels: none: bank can read each sample's label"]),
        (["vertical.address=0.0.0.0:7070", "protection.labels=label_dp", "vertical.network=DCNv2"], "shop", []),
        (
            ["vertical.address='[fe80::1]:7070'", "vertical.network=DCNv2"],
            "bank",
            ["shop is sent age of bank as they are"],
        ),
        (["vertical.address=a:1", "vertical.network=DCNv2"], None, ["protection.labels: none", "shop is sent age"]),
    ],
)
def test_what_parties_elsewhere_can_read_is_noted(
    write: Write, overrides: list[str], party: str | None, said: list[str]
) -> None:
    path = write()
    notes = notes_of(path, load_vertical(path, overrides, party), party)
    assert len(notes) == len(said) and all(part in note for part, note in zip(said, notes, strict=True))
    assert not [note for note in notes_of(path, load_vertical(path, overrides), party, trains=False) if "label" in note]


def test_all_mistakes_are_told_at_once(write: Write) -> None:
    with pytest.raises(JobError) as told:
        load_vertical(
            write(),
            ["vertical.epochs=no", "vertical.network=own", "parties.bank.data=gone.csv", "parties.bank.features.age.kind=no",
             "parties.shop.features.label.of=real", "ids.case=upper"],
        )  # fmt: skip
    said = "\n".join(told.value.mistakes)
    for key in (
        "vertical.epochs: False", "ids.case: 'upper'", "parties.bank.features.age.kind: False", "gone.csv'",
        "parties.shop.top: is missing", "vertical.loss: bce",
    ):  # fmt: skip
        assert key in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runner: {epochs: 1}", "has no section vertical, so it is of no vertical training: `fedps run` trains it"),
        ("vertical:\nparties:\n", "vertical.active: is missing"),
        ("vertical: {active: a, passive: [b]}", "parties: is missing"),
        ("vertical: {active: a, passive: b}\nparties: {}", "parties.a: is missing"),
        ("vertical: {active: a, passive: b}\nparties: [a]", "parties: ['a']: must be a section"),
        ("vertical: {active: a, passive: b}\nparties: {a: 3}", "parties.a: 3: must be a section"),
        ("vertical: 3\nparties: {a: {features: {x: 3}}}", "vertical: 3: must be a section"),
    ],
)
def test_a_file_of_another_shape_is_told(write: Write, text: str, said: str) -> None:
    with pytest.raises(JobError) as told:
        load_vertical(write(text))
    assert said in str(told.value)
