"""What many tests need: a small synthetic data set, and a job on it."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import settings

from fedps.config import Job, load_job
from fedps.data.prepare.synth import synthesize
from fedps.data.samples import ClientData, Order

settings.register_profile("untimed", deadline=None)  # machines are shared: no test asserts times
settings.load_profile("untimed")

MakeJob = Callable[..., Job]


def batches_of(data: ClientData, epoch: int, size: int) -> Iterator[Order]:
    """Yield an epoch's batches of `size` samples; the last may be shorter."""
    order = data.order(epoch)
    for start in range(0, len(order), size):
        yield order[start : start + size]


@pytest.fixture(autouse=True, scope="module")
def small_numbers() -> None:
    """Let each file of tests begin with the processor as it is: torch's engine has it take the smallest floats for 0."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session", autouse=True)
def step_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Compiled steps are made anew for the tests, once for all their processes, and leave nothing in the user's own cache."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDPS_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A twin of 120 users and 220 items over ten clients."""
    out = tmp_path_factory.mktemp("data") / "small"
    synthesize(out, users=120, items=220, per_user=30, seed=1)
    return out


@pytest.fixture
def make_job(small_data: Path, tmp_path: Path) -> MakeJob:
    """Return a function that loads a job on the small data; keyword arguments are runner keys."""

    def make(hyper: dict[str, object] | None = None, folder: Path = tmp_path, **runner: object) -> Job:
        tree = {
            "runner": {
                "train_data_dir": str(small_data / "train"),
                "test_data_dir": str(small_data / "test"),
                "train_batch_size": 32,
                "geo_step": 5,
                "local_sparse": ["mlp_user.weight"],
                "epochs": 1,
                **runner,
            },
            "hyper_parameters": {
                "num_users": 120,
                "num_items": 220,
                "fc_layers": [16, 8, 4],
                **(hyper or {}),
            },
        }
        path = folder / "job.yaml"
        path.write_text(yaml.safe_dump(tree))
        return load_job(path)

    return make
