"""R1: what is private never leaves the client. Real runs, every byte between workers, servers and coordinator recorded.

Private rows, a private layer, user ids and raw samples are marked, and all that passed and all that lies in the run
folder is searched for them in every plain form. The control is the same job with the same parameters shared, which must
be found: a search that cannot hit proves nothing (`test_search` has the controls of each form).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.storage import snapshot
from fedps.wire.frame import Limits, decode
from fedps.wire.messages import Assignment, Hello, Join, Pull, Push, RoundReport, Seed, Values
from tests.privacy import marked
from tests.privacy.runs import Recorded, check_every_byte, check_shared, everything, record
from tests.privacy.search import Needles, search

SETTINGS: dict[str, dict[str, Any]] = {
    "async": {"sync_mode": "async"},
    "sync": {"sync_mode": "sync"},
    "geo": {"sync_mode": "geo", "server_num": 2},
    "round": {"sync_mode": "round"},
    "packed": {"sync_mode": "geo", "server_num": 2, "compression": "int8", "pull_compression": "bf16"},
    "coordinated": {"sync_mode": "geo", "with_coordinator": True},
}
MODES = tuple(SETTINGS)
OPEN = "shared"  # the control
pytestmark = pytest.mark.timeout(300)  # the first test waits for all runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Marked samples, and one run in each mode and of the control; recorded together."""
    folder = tmp_path_factory.mktemp("marked")
    marked.write_samples(folder)
    for mode in MODES:
        marked.write_job(folder / f"{mode}.yaml", folder, **SETTINGS[mode])
    marked.write_job(folder / f"{OPEN}.yaml", folder, sync_mode="async", local_sparse=[], local_dense=[])
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, Recorded]:
    found = record({folder / f"{name}.yaml": folder / name for name in (*MODES, OPEN)}, timeout=240)
    return {run.name: recorded for run, recorded in found.items()}


@pytest.fixture(scope="module")
def samples(folder: Path) -> Needles:
    return marked.needles_of_samples(folder)


@pytest.mark.parametrize("mode", MODES)
def test_no_private_row_no_layer_no_id_and_no_sample_leaves_a_client(
    mode: str, runs: dict[str, Recorded], samples: Needles
) -> None:
    recorded = runs[mode]
    assert recorded.summary["status"] == "ok"
    assert recorded.summary["rounds"][-1]["auc"] is not None, "evaluation was part of the run"
    rows = marked.needles_of_private(recorded.folder)
    assert len(samples) > 3_000
    assert len(rows) > 2_000
    hay = everything(recorded)
    for file in ("events.jsonl", "summary.json", "report.html", "log/workerlog.0", "model/3/server-0.safetensors"):
        assert file in hay
    assert search(hay, samples | rows) == {}


@pytest.mark.parametrize("mode", MODES)
def test_marks_stand_in_every_state_of_what_is_private_and_learns(mode: str, runs: dict[str, Recorded]) -> None:
    for client in (runs[mode].folder / "private").iterdir():
        first, last = (snapshot.load(client / str(e), "tables")[0] for e in (1, marked.EPOCHS))
        for begun, ended in (
            (first["user.weight"][2].T, last["user.weight"][2].T),
            (first["own.weight"][2].reshape(8, 8), last["own.weight"][2].reshape(8, 8)),
        ):
            assert np.array_equal(begun[4:8], ended[4:8]), "the half that the network does not use"
            assert np.abs(begun[:4] - ended[:4]).max() > 0.01


@pytest.mark.parametrize("mode", MODES)
def test_every_byte_is_a_message_about_shared_parameters(mode: str, runs: dict[str, Recorded]) -> None:
    recorded = runs[mode]
    answering = 2 if mode in ("geo", "packed", "coordinated") else 1
    assert len(recorded.talks) == 2 * answering, "two clients, and no connection but to servers and coordinator"
    frames = check_every_byte(recorded)
    for frame in frames:
        check_shared(frame, marked.ITEMS)
    said = {type(f.message) for f in frames}
    assert said >= {Hello, Join, Seed, Pull, Push, Values}
    assert (said >= {RoundReport, Assignment}) == (mode == "coordinated")


def test_the_control_the_same_parameters_shared_are_found(runs: dict[str, Recorded], samples: Needles) -> None:
    recorded = runs[OPEN]
    assert recorded.summary["status"] == "ok"
    marks = marked.needles_of_private(runs["async"].folder)  # the same seed: the same marks
    hits = search(everything(recorded), samples | marks)
    assert {"id <i8", "private row <f4", "private layer <f4"} <= set(hits)
    for form, where in (("id <i8", "up"), ("private row <f4", "down"), ("private layer <f4", "up")):
        assert any(name.startswith(where) and "message" not in name for name in hits[form]), "in the raw bytes too"
        assert "model/3/server-0.safetensors" in hits[form]
    frames = [decode(m, Limits()) for m in recorded.messages("up")]
    named = {t for f in frames if isinstance(f.message, Push) for t in f.message.tables}
    assert named == marked.SHARED | marked.PRIVATE
    with pytest.raises(AssertionError):
        for frame in frames:
            check_shared(frame, marked.ITEMS)
