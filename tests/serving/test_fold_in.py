"""Newcomers are recommended to about as well as users who were there in training: on MovieLens-1M, 2,000 users held out."""

import os
from pathlib import Path

import numpy as np
import pytest

from fedps.config import load_job
from fedps.config.sections.features import spaces
from fedps.data.catalogue import Catalogue
from fedps.data.prepare.movielens import prepare
from fedps.data.prepare.write import Split
from fedps.data.read.client import read_held_out, read_trained
from fedps.data.samples import ClientData
from fedps.figures import read_metric
from fedps.ranking import rank_candidates
from fedps.serving.fold_in import FoldIn
from fedps.serving.opened import Site
from fedps.training.learner import Learner, numbered
from fedps.training.plan import make_plan
from fedps.types import ClientId, Keys, Values

USERS, ITEMS, NEWCOMERS, PASSES = 6040, 3706, 2000, 6
DATA = Path(os.environ.get("FEDPS_DATA", ""))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_who_is_folded_in_is_ranked_as_well_as_who_was_trained(tmp_path: Path) -> None:
    source = next(iter(sorted(DATA.glob("ml-1m*.zip"))), None) if os.environ.get("FEDPS_DATA") else None
    if source is None:
        pytest.skip("MovieLens-1M is not here: FEDPS_DATA names its folder")
    prepare(tmp_path / "one", str(source), Split("iid", 1))
    folders = [f"runner.{side}_data_dir={tmp_path}/one/{side}" for side in ("train", "test")]
    job = load_job(Path(__file__).parents[2] / "examples" / "quickstart.yaml", folders)
    [test], [train] = [r.samples for r in read_held_out(job).values()], [*read_trained(job).values()]
    plan, new = make_plan(job), np.random.default_rng(0).permutation(USERS)[:NEWCOMERS]

    def trained(users: Keys) -> Learner:
        mine, held_out = (part.at(np.isin(part.user, users)) for part in (train, test))
        data = ClientData(
            mine, held_out, ClientId("all"), 0, True, spaces=spaces(job.inputs), num_items=ITEMS, catalogue=True
        )
        learner = Learner(plan, job, data, local_optimizer=True)
        for epoch in range(PASSES):
            learner.train(data.order(epoch), job.runner.train_batch_size)
        return learner

    groups, candidates = test.user.reshape(-1, 100)[:, 0], test.item.reshape(-1, 100)
    rows = np.flatnonzero(np.isin(groups, new))

    def hits(scores: Values) -> float:
        return rank_candidates(scores, candidates[rows], [read_metric("hr@10")])["hr@10"] / len(rows)

    due = hits(trained(np.arange(USERS)).score().reshape(-1, 100)[rows])
    without = trained(np.setdiff1d(np.arange(USERS), new))
    site = Site(
        tmp_path, job, ClientId("all"), Catalogue.numbered(USERS), Catalogue.numbered(ITEMS), without.data, plan,
        numbered(ITEMS), np.ones(ITEMS, np.bool_),
    )  # fmt: skip
    fold_in = FoldIn(site, without)
    liked = train.at(train.label > 0)
    scores = [fold_in.scores(liked.item[liked.user == groups[k]].astype(np.int64))[candidates[k]] for k in rows]
    assert hits(np.array(scores, np.float32)) > due - 0.01
