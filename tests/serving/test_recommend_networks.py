"""What networks of features recommend: by the user's history, by what is known of the user, whoever takes their steps."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from fedps.config import Allow, load_job
from fedps.config.files import client_files_of
from fedps.config.sections.features import spaces
from fedps.data.catalogue import Catalogue
from fedps.data.read.by_job import read_by_job
from fedps.data.samples import ClientData
from fedps.errors import UnknownIdError
from fedps.launch.inprocess import run_in_process
from fedps.serving.opened import described
from fedps.serving.recommend import Recommender
from fedps.types import Bags, ClientId, Samples, ids_of, taken

ITEMS, USERS = 40, 24
FEATURES = {
    "user": {"kind": "id", "rows": USERS, "optional": True},
    "group": {"kind": "id", "rows": 2, "side": "user", "optional": True},
    "age": {"kind": "number", "side": "user", "optional": True},
    "item": {"kind": "id", "rows": ITEMS},
    "history": {"kind": "ids", "table": "item", "max": 5, "optional": True},
    "label": {"kind": "label"},
}
OF_ITEM = {
    "genres": {"kind": "ids", "rows": 7, "pooling": "mean", "side": "item", "optional": True},
    "price": {"kind": "number", "side": "item", "optional": True},
}
NETWORKS: dict[str, dict[str, object]] = {
    "SASRec": {"loss": "in_batch_softmax", "num_heads": 1},
    "TwoTower": {"loss": "in_batch_softmax"},
    "DIN": {"attention_hidden_units": [6]},
    "DeepFM": {},
    "MF": {"loss": "bpr"},
}


def finished(folder: Path, mode: str, of_item: bool = False) -> Path:
    """Run a job of two clients whose users walk up the items one by one; return the run's folder.

    Of items more may be known than their id.
    """
    rng = np.random.default_rng(4)
    for side in ("train", "test"):
        (folder / side).mkdir(parents=True)
    for client in range(2):
        lines: dict[str, list[str]] = {"train": [], "test": []}
        for user in range(client, USERS, 2):
            at, age = int(rng.integers(ITEMS)), rng.random()
            walk = [(at + k) % ITEMS for k in range(8)]
            for k in range(1, 8):
                history = "|".join(map(str, walk[max(0, k - 5) : k]))
                more = f",{walk[k] % 7}|{walk[k] % 3},{walk[k] / ITEMS}" if of_item else ""
                lines["test" if k == 7 else "train"].append(f"{user},{user % 2},{age:.2f},{walk[k]},{history},1{more}")
        for side, rows in lines.items():
            text = f"user,group,age,item,history,label{',genres,price' * of_item}\n" + "\n".join(rows) + "\n"
            (folder / side / f"{client}.csv").write_text(text)
    runner = {
        "train_data_dir": "train",
        "test_data_dir": "test",
        "train_batch_size": 32,
        "epochs": 1,
        "metrics": ["auc" if of_item else "full_hr@10"],
    }
    small = {
        "embedding_dim": 8,
        "hidden_units": [8],
        "optimizer": {"learning_rate": 0.01},
        "mode": mode,
        **NETWORKS[mode],
    }
    if mode == "SASRec":
        runner["remote_sparse"] = ["embedding_item.weight"]
    job = {"runner": runner, "hyper_parameters": small, "features": FEATURES | (OF_ITEM if of_item else {})}
    (folder / "job.yaml").write_text(yaml.safe_dump(job, sort_keys=False))
    resolved = load_job(folder / "job.yaml")
    run_in_process(resolved, folder / "run", lambda _: None)
    resolved.save(folder / "run" / "job.yaml")
    return folder / "run"


@pytest.mark.parametrize("mode", NETWORKS)
def test_any_network_recommends_to_its_users_and_to_somebody_new(tmp_path: Path, mode: str) -> None:
    recommender = Recommender.open(finished(tmp_path, mode), "1")
    user = recommender.site.users.keys[0]
    best = recommender.recommend(user, ITEMS)
    train = recommender.site.data.train
    seen = set(map(str, train.item[train.user == int(user)].tolist()))
    assert {one.item for one in best} == set(map(str, range(ITEMS))) - seen
    scores = [one.score for one in best]
    assert scores == sorted(scores, reverse=True) and np.std(scores) > 0
    assert recommender.score(user, [best[0].item]) == pytest.approx([best[0].score], rel=1e-5)
    found = recommender.fold_in(["3", "4", "5"], 10)
    assert found == recommender.fold_in(["3", "4", "5"], 10)
    assert {one.item for one in found}.isdisjoint({"3", "4", "5"})
    assert recommender.recommend(user, ITEMS) == best, "nobody else has moved"
    table = recommender.recommend_all(3)
    assert table["item"].to_pylist()[:3] == [one.item for one in best[:3]]


def test_a_history_goes_on_with_what_the_user_liked_last(tmp_path: Path) -> None:
    recommender = Recommender.open(finished(tmp_path, "SASRec"), "1")
    user = int(recommender.site.users.keys[0])
    train = recommender.site.data.train
    walk = train.item[train.user == user].tolist()
    newcomer = recommender.fold_in([*map(str, walk)], 5, seen=True)
    known = recommender.recommend(str(user), 5, seen=True)
    assert [one.item for one in newcomer] == [one.item for one in known], "its last five films are its history"
    np.testing.assert_allclose([one.score for one in newcomer], [one.score for one in known], rtol=1e-5)


@pytest.mark.parametrize(
    ("mode", "loss"),
    [("DeepFM", "bce"), ("TwoTower", "in_batch_softmax"), pytest.param("DIN", "bce", marks=pytest.mark.slow)],
)
def test_what_is_known_of_items_counts_and_items_of_which_nothing_is_known_are_left_out(
    tmp_path: Path, mode: str, loss: str
) -> None:
    recommender = Recommender.open(finished(tmp_path, mode, of_item=True), "1")
    train, user = recommender.site.data.train, recommender.site.users.keys[0]
    best = recommender.recommend(user, ITEMS, seen=True)
    assert {one.item for one in best} == set(map(str, train.item.tolist())), "those that this client has samples of"
    data, [row] = recommender.site.data, np.flatnonzero(train.user == int(user))[-1:]
    item = int(train.item[row])
    other = np.flatnonzero(train.item == int(best[0].item))[:1]
    columns = {n: taken(c, other if n in ("item", *OF_ITEM) else np.array([row])) for n, c in train.columns.items()}
    slots = {n: taken(c, other if n in ("item", *OF_ITEM) else np.array([row])) for n, c in data.slots.items()}
    grown = Bags(np.append(ids_of(taken(train.columns["history"], np.array([row]))), item)[-5:], np.array([0, 5]))
    columns["history"], slots["history"] = grown, Bags(grown.ids.astype(np.int32), grown.starts)
    [logit] = recommender._learner.engine.score(Samples(columns, np.zeros(1, np.float32)), slots)
    due = 1 / (1 + np.exp(-logit)) if loss == "bce" else logit
    assert best[0].score == pytest.approx(due, rel=1e-4), "as a sample of this user and this item is scored"
    unknown = next(key for key in map(str, range(ITEMS)) if key not in {one.item for one in best})
    for ask in (lambda: recommender.score(user, [unknown]), lambda: recommender.fold_in([unknown])):
        with pytest.raises(UnknownIdError, match=f"item {unknown}: neither samples of client 1 nor the catalogue tell"):
            ask()
    found = recommender.fold_in(["3", "4", "5"] if {"3", "4", "5"} <= {one.item for one in best} else [best[0].item], 5)
    assert len(found) == 5


def test_items_that_a_client_has_not_met_are_known_by_the_words_of_the_catalogue(tmp_path: Path) -> None:
    of_item = {
        "genres": {"kind": "ids", "rows": 3, "pooling": "mean", "side": "item"},
        "maker": {"kind": "id", "rows": 2, "side": "item"},
    }
    features = {name: FEATURES[name] for name in ("user", "item", "label")} | of_item
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "0.csv").write_text("user,item,genres,maker,label\n1,0,0|2,1,1\n1,1,1,0,1\n")
    values = {"genres": ["drama", "war", "western"], "maker": ["north", "south"]}
    (tmp_path / "manifest.json").write_text(json.dumps({"values": values}))
    tree = {"runner": {"train_data_dir": "train"}, "hyper_parameters": {"mode": "DeepFM"}, "features": features}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(tree))
    job = load_job(tmp_path / "job.yaml")
    words = {
        "genres": ["war", "war", "western; drama", "opera", "war", "war"],
        "maker": ["", "", "south", "north", "", "west"],
    }
    catalogue = Catalogue(np.arange(6), [*"abcdef"], more=words)
    [(_, files)] = client_files_of(job).items()
    data = ClientData(
        read_by_job(job, "train", files, Allow()).samples, None, ClientId("0"), 0, shuffle=False, num_items=6,
        spaces=spaces(job.inputs), catalogue=True,
    )  # fmt: skip
    (items, _), known = described(job, data, catalogue)
    genres = items.columns["genres"]
    assert isinstance(genres, Bags)
    found = [ids.tolist() for ids in np.split(genres.ids, genres.starts[1:-1])]
    assert found[:4] == [[0, 2], [1], [2, 0], []], "as in the client's own samples, then by their words"
    assert np.asarray(items.columns["maker"])[:4].tolist() == [1, 0, 1, 0]
    assert known.tolist() == [True, True, True, True, False, False], "of the last two the catalogue says too little"
