"""fedps: a federated parameter server for recommendation models.

What a user's own code needs is here; it is imported when first asked for, so that a server never loads torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedps.api import Run, load, run
    from fedps.client.life import FLClient
    from fedps.config import Job, load_job
    from fedps.coordinator.selectors import ClientSelectorBase, FLStrategy
    from fedps.data.scripts.multislot import MultiSlotDataGenerator, MultiSlotStringDataGenerator
    from fedps.script import Role, init
    from fedps.types import ClientInfo, ClientInfoAttr

__version__ = "0.1.0"
PLACES = {
    "ClientInfo": "fedps.types",
    "ClientInfoAttr": "fedps.types",
    "ClientSelectorBase": "fedps.coordinator.selectors",
    "FLClient": "fedps.client.life",
    "FLStrategy": "fedps.coordinator.selectors",
    "Job": "fedps.config",
    "MultiSlotDataGenerator": "fedps.data.scripts.multislot",
    "MultiSlotStringDataGenerator": "fedps.data.scripts.multislot",
    "Role": "fedps.script",
    "Run": "fedps.api",
    "init": "fedps.script",
    "load": "fedps.api",
    "load_job": "fedps.config",
    "run": "fedps.api",
}
__all__ = [
    "ClientInfo", "ClientInfoAttr", "ClientSelectorBase", "FLClient", "FLStrategy", "Job", "MultiSlotDataGenerator",
    "MultiSlotStringDataGenerator", "Role", "Run", "init", "load", "load_job", "run",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module 'fedps' has no attribute {name!r}")
    return getattr(importlib.import_module(PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
