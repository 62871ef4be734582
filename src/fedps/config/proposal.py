"""A first job for prepared data: a commented file that runs as it stands.

Its network follows from what the data has (`choose`), its batches, windows and passes from how much there is (`pace`).
"""

import math
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from fedps.config.files import MANIFEST, features_of_data, is_utf8, manifest_of
from fedps.config.job import Job
from fedps.config.loading import resolve
from fedps.config.original import Remarks
from fedps.config.sections.features import OPEN, Feature, classic, labels, sequences, undrawable
from fedps.config.sections.runner import Runner
from fedps.config.sections.training import Mode
from fedps.config.source import inline, parse
from fedps.errors import JobError

COMMENTS_AT = 48  # the column at which comments stand, unless a value is longer
BATCHES = 100  # of a pass of the mean client, for which batches are made smaller
SMALLEST, LARGEST = 32, 512  # samples of a batch
WINDOWS = 4  # of a pass, at least: a window that were a whole pass would make a round of it
DRAWN = 4  # negatives for each positive, where the data has none, as `runner.negatives` says
MOST_PROCESSES = 64  # clients, beyond which one machine plays them in one process
HISTORY = 50  # items of a sequence: more cost time, and rarely tell more
LENGTHS = {"NCF": (2000, 2, 20), "SASRec": (400, 10, 30), "DIN": (400, 2, 20)}  # batches due, fewest, most epochs
DRAWN_LENGTH = (1500, 3, 8)  # of networks of features, where items are told from drawn ones
SHORT = (600, 3, 4)  # of all others: they learn faster, and what is clicked too much by heart
DEEP = "embedding_dim: 16", "hidden_units: [64, 64]"
SETTINGS: Mapping[str, tuple[str, ...]] = {
    "NCF_MLP": ("fc_layers: [64, 32, 16, 8]",),
    "NCF_GMF": ("mf_dim: 16",),
    "NCF_NeuMF": ("fc_layers: [64, 32, 16, 8]", "mf_dim: 8"),
    "MF": ("embedding_dim: 16",),
    "TwoTower": ("embedding_dim: 32", "hidden_units: [64, 32]", "temperature: 0.1"),
    "DeepFM": DEEP,
    "DCNv2": (*DEEP, "num_cross_layers: 3"),
    "DIN": ("embedding_dim: 16", "hidden_units: [32, 16]", "attention_hidden_units: [16]"),
    "SASRec": ("embedding_dim: 50", "num_blocks: 2", "num_heads: 1", "dropout: 0.2"),
}
RATES = {"MF": 0.005, "TwoTower": 0.002, "DIN": 0.002}  # learning rates; of all others 0.001
LOSSES = {"MF": "bpr", "TwoTower": "in_batch_softmax", "SASRec": "in_batch_softmax"}  # of binary labels; else bce
ABOUT = {
    "NCF_MLP": "neural collaborative filtering; or MF, see below",
    "MF": "matrix factorization",
    "DeepFM": "takes features of any kind; so does DCNv2",
    "DIN": "compares an item with the history; takes all other features too",
    "SASRec": "tells the next item from those before",
}
Line = tuple[str, str]  # what is said, and the comment


class Prepared(NamedTuple):
    """Prepared data, as its manifest tells of it.

    Attributes:
        folder: with a folder for each side.
        features: what a sample has; of pairs user, item and label.
        stated: whether the manifest says so, and files have a header.
        clients: how many there are.
        samples: to train on, all clients together.
        users: those of all clients; 0 where nobody counted them.
        drawn: negatives that training draws for each sample, of data that holds positives alone.
        candidates: whether 99 negatives stand beside each held-out positive.
        site: it is one organisation's part; others prepare theirs elsewhere.
    """

    folder: Path
    features: dict[str, Feature]
    stated: bool
    clients: int
    samples: int
    users: int
    drawn: int = 0
    candidates: bool = False
    site: bool = False

    @property
    def real(self) -> bool:
        """Whether what is to be learned is any number."""
        return all(label.of == "real" for label in labels(self.features).values())

    @property
    def pair(self) -> bool:
        """Whether a sample is a user, an item and one label."""
        return set(self.features) == {"user", "item", *list(labels(self.features))[:1]}


class Proposal(NamedTuple):
    """A job file's text, and the command that runs it."""

    text: str
    command: str


class Pace(NamedTuple):
    """How samples are cut: in a batch, in the batches of the mean client's pass and of a window, and in passes."""

    batch: int
    batches: int
    window: int
    epochs: int


def propose(folder: Path, file: Path, mode: str | None = None) -> Proposal:
    """Return a job for prepared data.

    Args:
        folder: of the data.
        file: where the job will lie; its paths count from there.
        mode: the network; None chooses it by what the data has.

    Raises:
        JobError: the folder holds no prepared data, or the network does not take what it has.
    """
    data = look_at(folder)
    if not is_utf8(f"{folder.resolve()}{file}"):
        raise JobError(f"{str(folder)!r}: has a name that is no UTF-8, in which jobs are written; rename it")
    if mode is not None and mode not in SETTINGS:
        raise JobError(f"--model {mode}: there is no such network; there are {', '.join(get_args(Mode))}")
    command = f"fedps run {shlex.quote(str(file))}{' --in-process' * (data.clients > MOST_PROCESSES)}"
    text = "".join(_aligned(_lines(data, file, mode or choose(data), command)))
    resolve(file, parse(text), Remarks([], []))
    return Proposal(text, command)


def look_at(folder: Path) -> Prepared:
    """Return what a folder of prepared data holds.

    Raises:
        JobError: it holds none.
    """
    job = Job(name="job", folder=folder, runner=Runner(train_data_dir=folder / "train"))
    manifest = manifest_of(job)
    try:
        clients = manifest["clients"].values()
        samples, users = (sum(int(facts.get(key, 0)) for facts in clients) for key in ("samples", "users"))
        features = features_of_data(job)
        stated = bool(features)
        features = features or classic(int(manifest["num_users"]), int(manifest["num_items"]))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        lacking = "none whose clients and sizes can be read" if (folder / MANIFEST).exists() else "none"
        what = lacking if folder.is_dir() else "no folder"
        raise JobError(
            f"{folder}: holds no prepared data: of its {MANIFEST} there is {what}; make such a folder by `fedps data prepare`"
        ) from None
    if samples < 1:
        raise JobError(f"{folder}: has no samples to train on, says its {MANIFEST}; prepare the data anew")
    drawn = DRAWN if manifest.get("negatives") == 0 and not undrawable(features) else 0
    candidates = manifest.get("test_negatives", "none" if stated else "drawn") != "none"
    site = manifest.get("partition") == "site"
    return Prepared(folder, features, stated, len(clients), samples, users, drawn, candidates, site)


def choose(data: Prepared) -> str:
    """Return the network for some data: by sequences, else by features, else by pairs."""
    features, found = data.features, sequences(data.features)
    if found and not data.real:
        alone = set(features) <= {"user", "item", *found, *labels(features)} and list(found.values()) == ["item"]
        return "SASRec" if alone else "DIN"
    if not data.pair:
        return "DeepFM"
    return "MF" if data.real or any(feature.rows == OPEN for feature in features.values()) else "NCF_MLP"


def pace(data: Prepared, mode: str) -> Pace:
    """Return batches, windows and passes for so many samples."""
    drawn = data.drawn * (LOSSES.get(mode) != "in_batch_softmax")
    mean = math.ceil(data.samples * (1 + drawn) / data.clients)
    batch = min(max(1 << (max(mean // BATCHES, 1)).bit_length() - 1, SMALLEST), LARGEST)
    if mode == "SASRec":
        batch = SMALLEST  # of users: each of their items is told from all others of the batch
    batches = math.ceil(mean / batch)
    others = DRAWN_LENGTH if data.candidates and mode not in LOSSES else SHORT
    due, fewest, most = LENGTHS.get(mode.partition("_")[0], others)
    epochs = min(max(round(due / batches), fewest), most)
    return Pace(batch, batches, min(max(batches // WINDOWS, 1), 10), epochs)


def _lines(data: Prepared, file: Path, mode: str, command: str) -> Iterator[Line]:
    """Yield the file's lines; a head has no comment beside it."""
    users = f"{data.users:,} users, " * bool(data.users)
    clients = f"{data.clients:,} client{'s' * (data.clients > 1)}"
    yield f"# {clients}, {users}{data.samples:,} samples to train on. Written by `fedps init`.", ""
    yield f"#   {command}", ""
    yield f"# All other keys, what they are set to and what they mean: fedps config show {shlex.quote(str(file))}", ""
    yield "", ""
    if file.stem == "job":  # which would name all runs of all data alike
        yield f"name: {inline(data.folder.resolve().name)}", "runs are named so"
        yield "", ""
    yield "runner:", ""
    yield from _runner(data, file, mode)
    yield "", ""
    yield "hyper_parameters:", ""
    yield f"  mode: {mode}", ABOUT.get(mode, "")
    yield from _network(data, mode)
    if mode == "NCF_MLP":
        yield "  # Or matrix factorization, by these lines in place of those above, in fewer epochs, e.g. 4", ""
        yield "  # mode: MF", ""
        yield from ((f"  # {said.strip()}", comment) for said, comment in _network(data, "MF"))
    yield from _features(data, mode)


def _runner(data: Prepared, file: Path, mode: str) -> Iterator[Line]:
    size = pace(data, mode)
    held_out = next((side for side in ("valid", "test") if (data.folder / side).is_dir()), None)
    train, said = _path(data.folder / "train", file), "a file a client; paths count from this file's folder"
    yield f"  train_data_dir: {train}", said
    if held_out:
        said = "held out, to choose settings by; test, beside it, is for the end" if held_out == "valid" else "held out"
        yield f"  test_data_dir: {_path(data.folder / held_out, file)}", said
    yield "  sync_mode: geo", "after geo_step batches clients send what changed; or sync, async, round"
    yield f"  geo_step: {size.window}", f"of some {size.batches:,} batches that a client has a pass"
    unit = "samples" if mode != "SASRec" else "users, each with a sequence"
    yield f"  train_batch_size: {size.batch}", unit
    yield f"  epochs: {size.epochs}", "passes over each client's data"
    every = max(1, size.epochs // 10)
    yield f"  eval_every: {every}", "epochs between two evaluations, and saves"
    if held_out and (metrics := _metrics(data, mode)):
        said = "among all items that a user has not taken" if metrics[0].startswith("full") else "of held-out samples"
        yield f"  metrics: {inline(metrics)}", said


def _metrics(data: Prepared, mode: str) -> list[str]:
    """Return what is measured; nothing where the usual is right."""
    if data.real or len(labels(data.features)) > 1 or (data.candidates and not data.stated):
        return []
    if data.candidates:
        return ["hr@10", "ndcg@10", "auc"]
    if (data.pair or mode in ("SASRec", "TwoTower", "DIN")) and not undrawable(data.features):
        return ["full_hr@10", "full_ndcg@10"]
    user = data.features.get("user")
    return ["auc", *["gauc"] * bool(user and user.kind == "id"), "logloss"]


def _network(data: Prepared, mode: str) -> Iterator[Line]:
    """Yield a network's own keys, its loss and its optimizer."""
    if mode in LOSSES and not data.real:
        pairs = {
            "bpr": "a taken item is to stand above one that was not",
            "in_batch_softmax": "told from the batch's others",
        }
        yield f"  loss: {LOSSES[mode]}", pairs[LOSSES[mode]]
    if mode == "SASRec" and data.samples > data.users > 0:
        yield "  train_positions: last", "a sample for each item of a user: the last of a sequence is learned"
    yield from ((f"  {key}", "") for key in SETTINGS[mode])
    yield f"  optimizer: {{class: adam, learning_rate: {RATES.get(mode, 0.001)}}}", ""


def _features(data: Prepared, mode: str) -> Iterator[Line]:
    """Yield the section of features, where the manifest's sequences are longer than needed, or a server cannot read it."""
    found = [name for name in sequences(data.features) if mode in ("SASRec", "DIN")]
    if not data.site and all((data.features[name].max or 0) <= HISTORY for name in found):
        return
    yield "", ""
    yield (
        "features:",
        "of all sites: machines without data know them from here" if data.site else f"a sequence: its last {HISTORY}",
    )
    for name, feature in data.features.items():
        taken = feature.kind == "label" or name == "item" or name in found  # all other a network may leave
        facts: dict[str, Any] = feature.model_dump(exclude_defaults=True, exclude={"optional"} if taken else None)
        if name in found:
            facts["max"] = min(facts["max"], HISTORY)
        yield f"  {name}: {inline(facts)}", ""


def _path(path: Path, file: Path) -> str:
    return inline(os.path.relpath(path.resolve(), file.resolve().parent))


def _aligned(lines: Iterator[Line]) -> Iterator[str]:
    for said, comment in lines:
        yield f"{said:<{COMMENTS_AT}}  # {comment}\n" if comment else f"{said}\n"
