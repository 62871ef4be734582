"""How a coordinator's selector chooses clients, as a job says it."""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from fedps.config.kinds import Count, Positive, Seconds, Section, Word, number


def _names_of_tags(value: Any) -> Any:
    """Take one name for a list of one."""
    if not isinstance(value, dict):
        return value
    return {tag: (names,) if isinstance(names, str) else names for tag, names in value.items()}


class SelectorSettings(Section):
    """How clients are selected; each key tells which selectors heed it."""

    candidates: Count | None = Field(
        None, description="power_of_choice: clients drawn to choose among; left out: twice those that join"
    )
    over_selection: Annotated[float, Field(ge=1, le=10, allow_inf_nan=False), BeforeValidator(number)] = Field(
        1.0, description="join this many times clients_per_round; the round goes on when clients_per_round are done"
    )
    deadline: Seconds | None = Field(
        None, description="seconds a round may take: fedcs picks who fits in; who reports later is left behind"
    )
    timeout: Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(number)] = Field(
        60.0, description="seconds a selector may take to decide, then the run stops; 0: no limit, for debugging"
    )
    exploration: Annotated[float, Field(ge=0, le=1), BeforeValidator(number)] = Field(
        0.9, description="oort: share of picks that go to clients that never trained, in the first round"
    )
    exploration_decay: Annotated[Positive, Field(le=1)] = Field(
        0.98, description="oort: the share is multiplied by this each round"
    )
    exploration_floor: Annotated[float, Field(ge=0, le=1), BeforeValidator(number)] = Field(
        0.2, description="oort: and does not fall below this"
    )
    alpha: Annotated[float, Field(ge=0, le=100), BeforeValidator(number)] = Field(
        2.0, description="oort: how hard clients slower than the preferred duration are penalised"
    )
    cutoff: Annotated[Positive, Field(le=1)] = Field(
        0.95, description="oort: clients of at least this share of the last pick's utility are drawn from; 1: the best"
    )
    pacer_step: Seconds | None = Field(
        None, description="oort: seconds that the preferred duration starts at and grows by; left out: the median"
    )
    pacer_window: Count = Field(20, description="oort: rounds whose utility is compared with those before them")
    max_picks: Count | None = Field(
        None, description="oort: picks after which a client makes room for others; left out: it never has to"
    )
    upload_mib: Positive | None = Field(
        None, description="fedcs: MiB that a client sends a round; left out: its tables, 0 with a network of your own"
    )
    tags: Annotated[dict[str, tuple[Word, ...]], BeforeValidator(_names_of_tags)] = Field(
        {}, description='tags and the clients that carry them: {fast: ["0", "1"], europe: ["1"]}'
    )
    only: tuple[Word, ...] = Field((), description="with any selector: train only clients with one of these tags")
    never: tuple[Word, ...] = Field((), description="with any selector: never train clients with one of these tags")
    options: dict[str, Any] = Field({}, description="free keys for a selector of your own")

    def picks(self, wanted: int) -> int:
        """Return how many clients to pick, for `wanted` to report."""
        return math.ceil(round(wanted * self.over_selection, 6))
