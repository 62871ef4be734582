"""R1 at full size: ten clients of MovieLens-1M, one epoch of geo, over a hundred megabytes recorded, no hit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv

from tests.privacy import marked
from tests.privacy.runs import check_every_byte, check_shared, everything, record
from tests.privacy.search import search

USERS, ITEMS = 6040, 3706
DUE = 100_000_000  # bytes to record


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """The real samples, prepared as a user would, each user's small id drawn anew from 2^56."""
    shelf = os.environ.get("FEDPS_DATA", "")
    if not any((Path(shelf) / name).is_file() for name in ("ml-1m.zip", "ml-1m-notime.zip")):
        pytest.skip("FEDPS_DATA names no folder with ml-1m.zip or ml-1m-notime.zip")
    out = tmp_path / "ml-1m"
    done = subprocess.run(
        [sys.executable, "-m", "fedps", "data", "prepare", "movielens", "--out", str(out)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ids = np.random.default_rng(17).integers(1 << 50, marked.ID_SPACE, USERS)
    names = csv.ReadOptions(column_names=["user", "item", "label"])
    for file in out.glob("t*/*.csv"):
        table = csv.read_csv(file, names)
        user = pa.array(ids[table["user"].to_numpy()])
        csv.write_csv(table.set_column(0, "user", user), file, csv.WriteOptions(include_header=False))
    return out


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nothing_private_of_a_million_ratings_leaves_its_client(samples: Path, tmp_path: Path) -> None:
    job = marked.write_job(
        tmp_path / "geo.yaml", samples, ITEMS, sync_mode="geo", geo_step=15, epochs=1, train_batch_size=512,
    )  # fmt: skip
    recorded = record({job: tmp_path / "run"}, timeout=1200)[tmp_path / "run"]
    assert recorded.summary["status"] == "ok"
    assert recorded.summary["workers"] == len(recorded.talks) == 10
    assert sum(len(t.up) + len(t.down) for t in recorded.talks) >= DUE
    most = max(len(file.read_bytes().splitlines()) for file in samples.glob("train/*.csv"))  # of a client
    for frame in check_every_byte(recorded):
        check_shared(frame, ITEMS, USERS, most)
    needles = marked.needles_of_samples(samples, columns=False) | marked.needles_of_private(recorded.folder)
    assert len(needles) > 100 * USERS
    hay = everything(recorded)
    assert search(hay, needles) == {}
    one = next(n for n in needles if needles[n] == "id <i8")
    assert search(hay | {"planted": hay["up 0"][:-9] + one + b"."}, needles) == {"id <i8": {"planted"}}
