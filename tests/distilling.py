"""Jobs whose clients share no weights and distill, for tests of every room that has a part in it."""

from pathlib import Path
from typing import Any

from fedps.config import Job
from fedps.config.sections.rounds import Distillation
from tests.conftest import MakeJob

ALL_LOCAL = {
    "local_sparse": ["mlp_user.weight", "mlp_item.weight"],
    "local_dense": [f"linear_{k}.{kind}_0" for k in range(3) for kind in ("w", "b")],
}
USERS, ITEMS = 4, 25  # of the public samples


def public_file(folder: Path) -> Path:
    """Write public samples: of all pairs in order every other one, and every fourth is a positive."""
    pairs = [(u, i) for u in range(USERS) for i in range(ITEMS)]
    path = folder / "public.csv"
    path.write_text("".join(f"{u},{i},{int(k % 4 == 0)}\n" for k, (u, i) in enumerate(pairs) if k % 2 == 0))
    return path


def distilling(make_job: MakeJob, folder: Path, settings: dict[str, Any] | None = None, **runner: Any) -> Job:
    """Return a job that distills by these settings."""
    job = make_job(**{"sync_mode": "round", "with_coordinator": True, **ALL_LOCAL, **runner})
    found = Distillation.model_validate({"public_data": public_file(folder), **(settings or {})})
    return job.model_copy(update={"distillation": found})
