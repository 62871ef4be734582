"""A job whose tables are bounded, whole: servers and clients keep the bounds, repeat to the bit, and say what they did."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.config import Job, TableParameters
from fedps.events.events import Entry
from fedps.events.ledger import Ledger
from fedps.launch.inprocess import run_in_process
from fedps.pages.words import facts
from fedps.storage import epochs
from fedps.storage.tables import SavedTable
from tests.conftest import MakeJob


def bounded(job: Job, **bounds: int) -> Job:
    return job.model_copy(update={"table_parameters": {"mlp_item.weight": TableParameters.model_validate(bounds)}})


def run(job: Job, folder: Path) -> tuple[SavedTable, dict[str, Any]]:
    """Return the items' rows after the last epoch, and the summary."""
    ledger = Ledger(job, 0.0)

    def take(entry: Entry) -> None:
        ledger.take(entry)

    run_in_process(job, folder, take)
    model = epochs.read_model(folder / "model" / str(job.runner.epochs))
    return model["mlp_item.weight"], ledger.summary(2e9, None)


@pytest.mark.parametrize("mode", ["sync", "geo", "round"])
def test_a_run_of_bounded_tables_repeats_to_the_bit(mode: str, make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(sync_mode=mode, geo_merge="adaptive", epochs=3, server_num=2, train_batch_size=256)
    job = bounded(job, admit_after=2, max_rows=60)
    (first, summary), (second, again) = (run(job, tmp_path / name) for name in ("one", "two"))
    assert first.keys.tobytes() == second.keys.tobytes() and first.block.tobytes() == second.block.tobytes()
    assert summary["metrics"] == again["metrics"] and summary["tables"] == again["tables"]
    table = summary["tables"]["mlp_item.weight"]
    assert 0 < table["rows"] == len(first.keys) <= 60
    assert table["made"] == table["admitted"] == table["rows"] + table["evicted"]
    assert f"mlp_item.weight: {table['rows']} rows" in facts(summary)["tables"]


@pytest.mark.parametrize("mode", ["sync", "geo"])
def test_any_number_of_servers_admits_and_expires_the_same_rows(mode: str, make_job: MakeJob, tmp_path: Path) -> None:
    """And they have the same values, to the bit."""
    found = []
    for servers in (1, 3):
        job = make_job(sync_mode=mode, geo_merge="adaptive", epochs=3, server_num=servers, train_batch_size=256)
        found.append(run(bounded(job, admit_after=3, expire_after=1), tmp_path / str(servers)))
    (one, said), (three, also) = found
    assert one.keys.tobytes() == three.keys.tobytes()
    np.testing.assert_array_equal(one.block, three.block)
    for key in ("rows", "made", "admitted", "waiting", "expired", "evicted"):
        assert said["tables"]["mlp_item.weight"][key] == also["tables"]["mlp_item.weight"][key], key
    assert said["tables"]["mlp_item.weight"]["admitted"] > 0


def test_bounds_that_bound_nothing_change_no_number(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(sync_mode="sync", epochs=2, server_num=2, train_batch_size=256)
    (plain, said), (wide, also) = run(job, tmp_path / "plain"), run(bounded(job, max_rows=10_000), tmp_path / "wide")
    pushed = np.isin(plain.keys, wide.keys)  # a table without bounds makes rows that are only pulled, too
    np.testing.assert_array_equal(plain.values[pushed], wide.values)
    assert said["metrics"] == also["metrics"]
