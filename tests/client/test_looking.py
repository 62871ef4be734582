"""Looking never changes what is learned: however often a job evaluates and saves, its model is the same to the bit."""

from pathlib import Path

import numpy as np
import pytest

from tests.client.test_modes import ADAM, SMALL, finished, write_clients
from tests.conftest import MakeJob

TOGETHER = [
    {"sync_mode": "sync"},
    {"sync_mode": "sync", "pace": "own"},
    {"sync_mode": "sync", "local_sparse": []},
    {"sync_mode": "geo"},
    {"sync_mode": "geo", "pace": "own"},
    {"sync_mode": "geo", "geo_merge": "heat"},
    {"sync_mode": "geo", "geo_overlap": 2},
    {"sync_mode": "round"},
    {"sync_mode": "geo", "compiled_step": False},
]  # clients wait for each other, so that any number of them gives the same numbers
ALONE = [
    {"sync_mode": "async"},
    {"sync_mode": "geo", "geo_merge": "sum"},
    {"sync_mode": "geo", "geo_merge": "mean", "geo_overlap": 2},
    {"sync_mode": "geo", "geo_merge": "original"},
    {"sync_mode": "geo", "geo_merge": "buffered", "buffer": 2},
]


@pytest.mark.parametrize(("runner", "clients"), [*((mode, 3) for mode in TOGETHER), *((mode, 1) for mode in ALONE)])
def test_evaluating_and_saving_change_nothing_that_is_learned(
    runner: dict[str, object], clients: int, make_job: MakeJob, tmp_path: Path
) -> None:
    data = write_clients(tmp_path, *(190, 110, 70)[:clients])
    models = []
    for eval_every, save_every in ((1, 1), (3, 2), (0, 0)):
        looks = {"eval_every": eval_every, "save_every": save_every, "epochs": 4, "server_num": 2}
        folder = tmp_path / f"{eval_every}-{save_every}"
        job = make_job(
            {**SMALL, **ADAM}, train_data_dir=str(data), test_data_dir=None, train_batch_size=8, geo_step=3,
            **{**looks, **runner},
        )  # fmt: skip
        models.append(finished(job, folder))
    first, *others = models
    for other in others:
        for name, weight in first.items():
            np.testing.assert_array_equal(weight.numpy(), other[name].numpy(), err_msg=name)
