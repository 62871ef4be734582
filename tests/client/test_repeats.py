"""What "to the bit" means: in gated modes a run repeats, whatever was cached and however many servers there are."""

from pathlib import Path

import numpy as np
import pytest

from tests.client.test_modes import SMALL, finished, write_clients
from tests.conftest import MakeJob

GATED = [
    {"sync_mode": "sync"},
    {"sync_mode": "geo", "geo_step": 3, "geo_merge": "adaptive"},
    {"sync_mode": "geo", "geo_step": 3, "geo_merge": "heat", "geo_overlap": 1},
    {"sync_mode": "round"},
    {"sync_mode": "round", "with_coordinator": True},
]


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "torch"])
@pytest.mark.parametrize("mode", GATED, ids=lambda mode: "-".join(str(v) for v in mode.values()))
def test_a_run_repeats_to_the_bit_with_a_warm_cache_and_with_three_servers(
    mode: dict[str, object], compiled: bool, make_job: MakeJob, tmp_path: Path
) -> None:
    train = write_clients(tmp_path / "data", 150, 70, 110)
    found = []
    for name, servers in (("cold", 1), ("warm", 1), ("three", 3)):
        job = make_job(
            {**SMALL, "optimizer": {"class": "adam", "learning_rate": 0.01}}, train_data_dir=str(train), test_data_dir=None,
            epochs=2, negatives=2, server_num=servers, compiled_step=compiled, **mode,
        )  # fmt: skip
        (tmp_path / name).mkdir()
        found.append(finished(job, tmp_path / name))
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for weight, tensor in other.items():
            np.testing.assert_array_equal(tensor.numpy(), found[0][weight].numpy(), err_msg=weight)
