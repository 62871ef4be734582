"""What a finished run recommends: in the source's ids, by the client's own rows, and as full rankings have it."""

import json
import shutil
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

from fedps.config import Job
from fedps.data.catalogue import Catalogue
from fedps.data.read.client import read_trained
from fedps.errors import DataError, FedpsError, JobError
from fedps.launch.inprocess import run_in_process
from fedps.serving.recommend import Recommender
from fedps.serving.saved_network import SavedNetwork
from fedps.storage import epochs
from fedps.types import ClientId, Samples, Values
from tests.conftest import MakeJob
from tests.launch.runs import fedps

ITEMS = 220


@pytest.fixture(scope="module")
def named_data(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data with the source's ids of its items, and of its users, beside it."""
    data = tmp_path_factory.mktemp("named") / "data"
    shutil.copytree(small_data, data)
    titles = [f"Film, the {k}th" for k in range(ITEMS)]
    Catalogue(np.arange(ITEMS), [f"f{k:03}" for k in range(ITEMS)], titles).write(data / "items.csv")
    (data / "users").mkdir(exist_ok=True)
    for file in sorted((data / "train").glob("*.csv")):
        ids = np.unique(np.loadtxt(file, delimiter=",", usecols=0, dtype=np.int64))
        Catalogue(ids, [f"user {k}" for k in ids]).write(data / "users" / file.name, "user")
    return data


@pytest.fixture(scope="module")
def finished(named_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs, started by the command."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "job.yaml").write_text(
        f"runner: {{train_data_dir: '{named_data}/train', test_data_dir: '{named_data}/test', train_batch_size: 32,"
        " geo_step: 5, local_sparse: [mlp_user.weight], epochs: 2}\n"
        f"hyper_parameters: {{num_users: 120, num_items: {ITEMS}, fc_layers: [16, 8, 4]}}\n"
    )
    done = fedps("run", folder / "job.yaml", "--run_dir", folder / "run", "--in-process", timeout=110)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def torchs(run: Path, job: Job, client: str, user: int, epoch: int = 2) -> Values:
    """Return the logits of all items for a user by the whole network."""
    network, every = SavedNetwork(job), np.arange(ITEMS)
    network.load(run / "model" / str(epoch))
    one = Samples.pairs(np.full(ITEMS, user), every, np.zeros(ITEMS, np.float32))
    network._take_on(one, epochs.private_save(run / "private" / client, epoch))  # type: ignore[arg-type]
    with torch.inference_mode():
        found: Values = network._model(torch.full((ITEMS,), user), torch.arange(ITEMS)).numpy()
    return found


def test_the_best_items_are_those_of_the_whole_network_without_what_was_seen(finished: Path) -> None:
    recommender = Recommender.open(finished, "3")
    job, train = recommender.site.job, read_trained(recommender.site.job)[ClientId("3")]
    for user in np.unique(train.user)[:4].tolist():
        due = torchs(finished, job, "3", user)
        seen = set(train.item[(train.user == user) & (train.label > 0)].tolist())
        order = [item for item in np.argsort(-due).tolist() if item not in seen][:10]
        found = recommender.recommend(f"user {user}")
        assert [one.item for one in found] == [f"f{item:03}" for item in order]
        assert found[0].title == f"Film, the {order[0]}th"
        np.testing.assert_allclose([one.score for one in found], 1 / (1 + np.exp(-due[order])), rtol=1e-4)
        best = recommender.recommend(f"user {user}", ITEMS, seen=True)
        assert [one.item for one in best] == [f"f{item:03}" for item in np.argsort(-due).tolist()]
        assert len(recommender.recommend(f"user {user}", ITEMS)) == ITEMS - len(seen)
        assert recommender.score(f"user {user}", ["f007"]) == pytest.approx([1 / (1 + np.exp(-due[7]))], rel=1e-4)


def test_everybody_of_a_client_gets_what_each_gets_alone(finished: Path, tmp_path: Path) -> None:
    recommender = Recommender.open(finished, "3")
    table = recommender.recommend_all(5)
    assert table.column_names == ["user", "rank", "item", "title", "score"]
    users = table["user"].unique().to_pylist()
    assert users == recommender.site.users.keys, "those of the client, and no others"
    for user in users[:3]:
        rows = [row for row in table.to_pylist() if row["user"] == user]
        assert [(row["rank"], row["item"]) for row in rows] == [
            (rank, one.item) for rank, one in enumerate(recommender.recommend(user, 5), 1)
        ]
    for ending, read in (("parquet", pyarrow.parquet.read_table), ("csv", pyarrow.csv.read_csv)):
        out = tmp_path / f"best.{ending}"
        done = fedps("recommend", finished, "--client", "3", "--all", "-k", 5, "--out", out)
        assert done.returncode == 0, done.stderr
        assert read(out)["item"].to_pylist() == table["item"].to_pylist()
        assert out.stat().st_mode & 0o077 == 0, "what users are recommended is theirs"


def test_a_user_is_found_in_its_client_and_the_answer_is_the_same_each_time(finished: Path) -> None:
    user = Recommender.open(finished, "7").site.users.keys[0]
    said = [fedps("recommend", finished, "--user", user, "-k", 3) for _ in range(2)]
    assert said[0].returncode == 0, said[0].stderr
    assert said[0].stdout == said[1].stdout and "Film, the" in said[0].stdout
    assert len(said[0].stdout.splitlines()) == 3
    told = json.loads(fedps("recommend", finished, "--user", user, "-k", 3, "--json").stdout)
    assert told["client"] == "7" and told["epoch"] == 2
    assert told["items"][0]["item"] in said[0].stdout


def test_many_threads_get_the_answers_of_one(finished: Path) -> None:
    recommender = Recommender.open(finished, "3")
    users = recommender.site.users.keys
    due, found = [recommender.recommend(user) for user in users], dict[int, list[object]]()

    def ask(number: int) -> None:
        found[number] = [recommender.recommend(user) for user in users]

    threads = [Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(4)] == [due] * 4


def test_another_epoch_is_opened_on_the_same_data(finished: Path) -> None:
    last = Recommender.open(finished, "3")
    first = last.reopened(1)
    assert (first.epoch, last.epoch, first.site) == (1, 2, last.site)
    user = last.site.users.keys[0]
    assert first.recommend(user) == Recommender.open(finished, "3", 1).recommend(user) != last.recommend(user)


def test_scores_that_are_no_numbers_are_told(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender = Recommender.open(finished, "3")
    rank, user = recommender._rank, recommender.site.users.keys[0]
    monkeypatch.setattr(recommender, "_rank", lambda *facts: rank(*facts) * np.float32("nan"))
    for ask in (lambda: recommender.recommend(user), recommender.recommend_all):
        with pytest.raises(DataError, match="epoch 2: a score is NaN or infinite"):
            ask()


def test_somebody_new_is_folded_in_and_nobody_else_moves(finished: Path) -> None:
    recommender = Recommender.open(finished, "3")
    user = recommender.site.users.keys[0]
    before, weights = recommender.recommend(user), {n: t.raw.copy() for n, t in recommender._learner.tables.items()}
    found = recommender.fold_in(["f010", "f020", "f030"])
    other = recommender.fold_in(["f111", "f200"])
    assert found == recommender.fold_in(["f010", "f020", "f030"]) != other, "the same items, the same answer"
    assert not {"f010", "f020", "f030"} & {one.item for one in found}
    assert len(recommender.fold_in(["f010"], ITEMS, seen=True)) == ITEMS
    assert recommender.recommend(user) == before
    for name, table in recommender._learner.tables.items():
        np.testing.assert_array_equal(table.raw, weights[name])
    again = Recommender.open(finished, "3").fold_in(["f010", "f020", "f030"])
    assert again == found, "in another process, too"


def test_a_newcomer_with_the_items_of_a_user_gets_much_of_what_that_user_gets(finished: Path) -> None:
    recommender, shared = Recommender.open(finished, "3"), []
    train = recommender.site.data.train
    for user in recommender.site.users.ids[:8].tolist():
        mine = train.item[(train.user == user) & (train.label > 0)]
        items = {one.item for one in recommender.fold_in([f"f{item:03}" for item in mine.tolist()], 40)}
        shared.append(len(items & {one.item for one in recommender.recommend(f"user {user}", 40)}) / 40)
    assert np.mean(shared) > 0.5, "by chance it would be 0.2"


def test_similar_items_are_those_of_like_rows(finished: Path) -> None:
    recommender = Recommender.open(finished, "3")
    rows = recommender._learner.tables["mlp_item.weight"].values
    cosine = rows @ rows[7] / np.linalg.norm(rows, axis=1) / np.linalg.norm(rows[7])
    due = [item for item in np.argsort(-cosine).tolist() if item != 7][:4]
    assert [one.item for one in recommender.similar("f007", 4)] == [f"f{item:03}" for item in due]


def test_items_of_a_catalogue_that_has_grown_start_as_in_training(finished: Path, tmp_path: Path) -> None:
    known = Recommender.open(finished, "3")
    items = known.site.items
    grown = Catalogue(np.arange(ITEMS + 2), [*items.keys, "new a", "new b"], [*items.titles, "A", "B"])
    grown.write(tmp_path / "new.csv")
    recommender = Recommender.open(finished, "3", items=tmp_path / "new.csv")
    user = recommender.site.users.keys[0]
    scores = recommender.score(user, ["f007", "new a", "new b"])
    assert scores[0] == pytest.approx(known.score(user, ["f007"])[0], rel=1e-6)
    assert len({*scores}) == 3 and len(recommender.recommend(user, ITEMS + 2, seen=True)) == ITEMS + 2
    Catalogue(np.arange(ITEMS), ["other", *items.keys[1:]]).write(tmp_path / "other.csv")
    with pytest.raises(
        DataError, match=r"other.csv: lacks item 0, which was 'f000' in training, or calls it otherwise"
    ):
        Recommender.open(finished, "3", items=tmp_path / "other.csv")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--user", "user 9999"], "no client in"),
        (["--client", "3", "--user", "User 9x"], "client 3 has no such user; near it are user"),
        (["--client", "33", "--user", "a"], "--client 33: there is no such client"),
        (["--client", "3", "--from-items", "f010,f99"], "item f99: there is no such item; near it are f"),
        (["--client", "3", "--from-items", ","], "--from-items: is empty"),
        (["--from-items", "f010"], "--client: is missing: whose users?"),
        (["--client", "3", "--from-items", "f010", "-k", "221"], "-k 221: must be from 1 to 220"),
        (["--client", "3", "--from-items", "f010", "--epoch", "7"], "--epoch 7: "),
        (["--client", "3", "--all"], "with --all name a file .parquet or .csv"),
        (["--client", "3"], "name one of --user, --from-items and --all"),
        (["--client", "3", "--all", "--user", "a"], "--user and --all: name one of"),
    ],
)
def test_what_cannot_be_answered_is_told_with_the_remedy(finished: Path, words: list[str], said: str) -> None:
    done = fedps("recommend", finished, *words)
    assert (done.returncode, done.stdout) == (2, "") and said in done.stderr, done.stderr


def test_folders_that_hold_no_model_are_told(finished: Path, tmp_path: Path) -> None:
    def told(folder: Path, kind: type[FedpsError], said: str) -> None:
        with pytest.raises(kind, match=said):
            Recommender.open(folder, "3")

    told(tmp_path / "none", JobError, "is no run's folder")
    (tmp_path / "empty").mkdir()
    told(tmp_path / "empty", JobError, "is no run's folder")
    for name in ("old", "bare", "torn", "away"):
        shutil.copytree(finished, tmp_path / name)
    (tmp_path / "old" / "job.yaml").write_text((finished / "job.yaml").read_text() + "\nlater: 1\n")
    told(tmp_path / "old", JobError, "is no job of this version")
    shutil.rmtree(tmp_path / "bare" / "model")
    told(tmp_path / "bare", DataError, "holds no whole save")
    (tmp_path / "torn" / "items.csv").write_text("item,key\n0,a\n")
    told(tmp_path / "torn", DataError, r"items.csv: lacks item 2\d\d, which client 3 has")
    shutil.rmtree(tmp_path / "away" / "private" / "3")
    told(tmp_path / "away", JobError, "private to client 3, and is not there")


def test_whole_epochs_of_a_run_that_failed_serve_and_that_is_said(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"status": "failed", "error": "worker 3 is gone"}))
    for record in (run / "model" / "2").glob("*.json"):
        record.unlink()
    recommender = Recommender.open(run, "3")
    assert recommender.epoch == 1
    assert recommender.note == "the run failed (worker 3 is gone): what follows is of epoch 1, the last that is whole"
    (run / "summary.json").unlink()
    assert "the run goes on, or was killed" in Recommender.open(run, "3").note
    assert not Recommender.open(finished, "3").note


def test_data_without_names_is_spoken_of_by_numbers(make_job: MakeJob, tmp_path: Path) -> None:
    run_in_process(
        make_job({"mode": "MF", "loss": "bpr", "embedding_dim": 8}, local_sparse=None), tmp_path / "run", lambda _: None
    )
    shutil.copy(tmp_path / "job.yaml", tmp_path / "run" / "job.yaml")
    make_job({"mode": "MF", "loss": "bpr", "embedding_dim": 8}, local_sparse=None).save(tmp_path / "run" / "job.yaml")
    recommender = Recommender.open(tmp_path / "run", "3")
    user = recommender.site.users.keys[0]
    best = recommender.recommend(user, 3)
    assert user.isdecimal() and [one.item.isdecimal() and not one.title for one in best] == [True] * 3
    assert best[0].score >= best[1].score, "no probability: the network's own number"
    assert len(recommender.fold_in(["5", "9"], 3)) == 3
    (tmp_path / "grown.csv").write_text("item,key\n")
    with pytest.raises(
        DataError, match=r"grown\.csv: lacks item 2\d\d, which client 3 has: copy items.csv of the data and"
    ):
        Recommender.open(tmp_path / "run", "3", items=tmp_path / "grown.csv")
