"""Whole runs whose clients pack what they push: fewer bytes, the same run each time, and a model that learns."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from fedps.launch.inprocess import run_in_process
from fedps.serving.export import export_run
from tests.conftest import MakeJob
from tests.events.kept import into

Found = tuple[dict[str, bytes], int, int]


def run(make_job: MakeJob, folder: Path, **runner: object) -> Found:
    """Run a geo job with two servers; return its model, and the bytes that all clients sent and received."""
    events: list[dict[str, Any]] = []
    run_in_process(make_job(server_num=2, **runner), folder / "run", into(events))
    done = [e for e in events if e["event"] == "done" and e["role"] == "worker"]
    assert len(done) == 10
    model = load_file(export_run(folder / "run", folder / "out", private=True))
    weights = {name: tensor.tobytes() for name, tensor in model.items()}
    return weights, sum(e["bytes_sent"] for e in done), sum(e["bytes_received"] for e in done)


@pytest.fixture(scope="module")
def kept() -> dict[str, Found]:
    return {}


@pytest.mark.parametrize(("form", "share"), [("bf16", 0.8), ("int8", 0.7), ("topk", 0.7), ("low_rank", 0.8)])
def test_a_run_sends_less_and_repeats(
    form: str, share: float, make_job: MakeJob, tmp_path: Path, kept: dict[str, Found]
) -> None:
    if not kept:
        kept["plain"] = run(make_job, tmp_path / "plain")
    settings = {"compression": form, "compression_rank": 1, "pull_compression": "bf16"}
    once, again = (run(make_job, tmp_path / name, **settings) for name in ("once", "again"))
    assert once == again
    assert once[0] != kept["plain"][0]
    assert once[1] < share * kept["plain"][1]
    assert once[2] < 0.8 * kept["plain"][2]
