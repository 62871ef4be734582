"""R1 of vertical training: no raw feature, no label and no id passes between parties. Whole runs, every byte recorded.

Features, labels and ids are marked, and all that passed, and all that a party keeps, is searched for the marks of the others.
The controls: DCNv2 sends numbers as they are, which must be found; so must labels and ids where messages hold them.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml

from fedps.config.vertical import VerticalJob, load_vertical
from fedps.types import Values
from fedps.vertical.data import batches_of, ids_of, side_data
from fedps.vertical.finding import OwnIds
from fedps.wire.frame import Frame, Limits, decode, encode
from fedps.wire.messages import Alive, Begin, Blind, Cut, Double, EndEpoch, Gradient, Hello, Leave
from tests.privacy.http2 import unwrap
from tests.privacy.search import (
    Needles,
    forms_of_column,
    forms_of_floats,
    forms_of_hashes,
    forms_of_ids,
    merged,
    search,
)
from tests.privacy.tap import Talk, Tap
from tests.vertical.meetings import train, write

SAMPLES, LACKING = 400, 60  # of each party; of these the other lacks some
WORD = "a word that both know"
EPOCHS = 2
NUMBERS = "abcd"  # features that are numbers, whose marks stand side by side in a row


class Run(NamedTuple):
    """A run that was recorded, and the marks of each party's data."""

    job: VerticalJob
    folder: Path
    talks: list[Talk]
    marks: dict[str, Needles]

    def messages(self, way: str) -> list[bytes]:
        return [message for talk in self.talks for message in unwrap(getattr(talk, way)).messages]

    @property
    def line(self) -> dict[str, bytes]:
        """All that passed: the raw streams, and the messages in them."""
        found = {f"{way} {k}": getattr(talk, way) for k, talk in enumerate(self.talks) for way in ("up", "down")}
        for way in ("up", "down"):
            found |= {f"{way} message {k}": message for k, message in enumerate(self.messages(way))}
        return found

    def kept(self, party: str) -> dict[str, bytes]:
        """All files that a party keeps."""
        files = [file for file in (self.folder / "parties" / party).rglob("*") if file.is_file()]
        return {str(file): file.read_bytes() for file in files}


def marked(folder: Path, network: str, protection: str = "none") -> VerticalJob:
    """Write a job, and marked samples of two parties: ids and users of 2^56, and numbers that nobody else has."""
    folder.mkdir()
    rng = np.random.default_rng(11)
    ids = rng.integers(1 << 50, 1 << 56, SAMPLES + LACKING)
    users, items = rng.integers(1 << 50, 1 << 56, (2, 40))
    numbers = rng.standard_normal((SAMPLES + LACKING, 8)).astype(np.float32)
    liked = (numbers.sum(1) > 0).astype(int)
    header = ",".join(NUMBERS)
    shop = [(ids[i], items[i % 40], *numbers[i, :4], liked[i]) for i in range(SAMPLES)]
    bank = [(ids[i], users[i % 37], *numbers[i, 4:]) for i in rng.permutation(np.arange(LACKING, len(ids)))]
    write(folder / "shop.csv", f"id,item,{header},label", shop)
    write(folder / "bank.csv", f"id,user,{header}", bank)
    same = {name: {"kind": "number"} for name in NUMBERS}
    entity = {"kind": "id", "rows": "open"}
    tree = {
        "vertical": {
            "active": "shop", "passive": ["bank"], "network": network, "bottom_units": [8, 4], "epochs": EPOCHS,
            "train_batch_size": 64, "lift": [], "start_timeout": 20, "step_timeout": 20,
        },
        "hyper_parameters": {"embedding_dim": 4, "hidden_units": [8]},
        "ids": {"psi_key": WORD},
        "protection": {"labels": protection},
        "parties": {
            "shop": {"data": "shop.csv", "features": {"item": entity, **same, "label": {"kind": "label"}}},
            "bank": {"data": "bank.csv", "features": {"user": entity, **same}},
        },
    }  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(tree))
    return load_vertical(folder / "job.yaml")


def record(folder: Path, network: str, protection: str = "none") -> Run:
    """Train such a job through a tap; nothing is compiled."""
    job, run = marked(folder, network, protection), folder / "run"
    taps: list[Tap] = []

    def through(address: str) -> str:
        taps.append(Tap(address))
        return taps[0].address

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", "no-compiler")
        outcome = train(job, run, through)
    talks = taps[0].talks()
    assert outcome.samples + outcome.held_out == SAMPLES - LACKING
    return Run(job, run, talks, {party: marks_of(job, run, party) for party in job.order})


def marks_of(job: VerticalJob, run: Path, party: str) -> Needles:
    """Return all forms of a party's ids, numbers and labels."""
    found = OwnIds(job, party, run / "parties" / party).recall()
    assert found is not None
    data = side_data(job, party, found.rows, found.test_rows)
    texts = ids_of(job, party, job.parties[party].data)
    plain = np.sort([int(text.split(b":")[1]) for text in texts])
    entities = np.unique(data.train.columns["item" if party == "shop" else "user"])
    rows = np.column_stack([np.ravel(data.train.columns[name]) for name in NUMBERS])
    parts = [forms_of_ids(plain), forms_of_ids(entities), forms_of_hashes([str(one).encode() for one in plain], WORD)]
    parts += [forms_of_floats(row, "numbers") for row in rows]
    for epoch in range(EPOCHS):
        for batch in batches_of(job, epoch, len(rows)):
            label = data.train.label[batch].astype(np.int64)
            parts += [forms_of_column(label, "labels")] if party == "shop" else []
    return merged(parts)


@pytest.fixture(scope="module", params=[("MLP", "none"), ("DeepFM", "label_dp")], ids=str)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return record(tmp_path_factory.mktemp("tapped") / "job", *request.param)


def test_no_id_no_feature_and_no_label_passes(run: Run) -> None:
    assert min(map(len, run.marks.values())) > 20_000
    assert sum(map(len, run.line.values())) > 50_000
    for party, marks in run.marks.items():
        assert search(run.line, marks) == {}, f"of {party}"


def test_a_party_keeps_nothing_of_the_others(run: Run) -> None:
    own = set(run.marks["shop"]) & set(run.marks["bank"])  # what is common is known to both
    for party, other in (("shop", "bank"), ("bank", "shop")):
        assert run.kept(party)
        assert search(run.kept(party), {n: name for n, name in run.marks[other].items() if n not in own}) == {}


def test_every_byte_is_a_message_of_a_stated_size(run: Run) -> None:
    frames: list[Frame] = []
    for way in ("up", "down"):
        for talk in run.talks:
            found = unwrap(getattr(talk, way))
            assert found.size == len(getattr(talk, way))
            assert found.around["HEADERS"] < 1_000
        frames += [decode(message, Limits()) for message in run.messages(way)]
    said = {type(frame.message) for frame in frames}
    assert said >= {Hello, Blind, Double, Begin, Cut, Gradient, EndEpoch}
    for frame in frames:
        match frame.message:
            case Hello() | Alive() | Begin() | EndEpoch() | Leave():
                assert not frame.arrays
            case Cut() | Gradient():
                (sent,) = frame.arrays
                assert sent.dtype == np.float32
                assert len(sent) <= 64 or not isinstance(frame.message, Gradient)


def test_the_control_numbers_that_dcnv2_sends_as_they_are_are_found(tmp_path: Path) -> None:
    run = record(tmp_path / "job", "DCNv2")
    hits = search(run.line, run.marks["bank"])
    assert set(hits) == {"numbers <f4"}
    assert any(name.startswith("up message") for name in hits["numbers <f4"])
    assert search(run.line, run.marks["shop"]) == {}


def test_the_control_labels_and_ids_in_messages_are_found(run: Run) -> None:
    samples = next(iter(batches_of(run.job, 0, 272)))
    found = OwnIds(run.job, "shop", run.folder / "parties" / "shop").recall()
    assert found is not None
    label: Values = side_data(run.job, "shop", found.rows).train.label[samples]
    told = encode(1, Gradient(0), [label[:, None]])
    assert "labels <f4" in search({"line": told}, run.marks["shop"])
    texts = ids_of(run.job, "bank", run.job.parties["bank"].data)
    bare = np.array([int(text.split(b":")[1]) for text in texts[:64]])
    assert "id <i8" in search({"line": encode(1, Double("train", 0, 1), [bare])}, run.marks["bank"])
