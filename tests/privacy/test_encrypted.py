"""What passes between the processes of a run under mutual TLS: nothing that can be read.

The control is the same job in the clear, all of whose parameters are shared: its rows, ids and labels must be found.
"""

import pytest
import yaml

from tests.authorities import authority
from tests.privacy import marked
from tests.privacy.runs import Recorded, record
from tests.privacy.search import search

WORDS = (b"item.weight", b"north", b"RoundReport")  # of a table, a client and a message
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recorded]:
    folder = tmp_path_factory.mktemp("encrypted")
    marked.write_samples(folder)
    authority(folder / "certs", "north", "south", servers=2, coordinator=True)
    jobs = {}
    for name in ("clear", "mtls"):
        job = marked.write_job(
            folder / f"{name}.yaml", folder, sync_mode="async", server_num=2, with_coordinator=True, local_sparse=[],
            local_dense=[],
        )  # fmt: skip
        if name == "mtls":
            job.write_text(yaml.safe_dump(yaml.safe_load(job.read_text()) | {"security": {"certs": "certs"}}))
        jobs[job] = folder / name
    return {run.name: recorded for run, recorded in record(jobs, timeout=360).items()}


def test_no_row_no_id_no_label_and_no_word_of_ours_can_be_read_on_the_way(runs: dict[str, Recorded]) -> None:
    folder = runs["mtls"].folder.parent
    needles = marked.needles_of_samples(folder)
    found = {name: search(recorded.streams, needles) for name, recorded in runs.items()}
    assert all(recorded.summary["status"] == "ok" for recorded in runs.values())
    assert found["mtls"] == {}
    assert {"id <i8"} <= set(found["clear"]), "the control"
    for word in WORDS:
        assert any(word in stream for stream in runs["clear"].streams.values()), "the control"
        assert not any(word in stream for stream in runs["mtls"].streams.values())
    sizes = {name: sum(map(len, recorded.streams.values())) for name, recorded in runs.items()}
    assert sizes["mtls"] > sizes["clear"] > 100_000
