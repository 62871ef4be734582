"""What a coordinator does beside opening rounds: it selects clients, simulates devices, and distills predictions."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from fedps.config.sections import Count, Fraction, Positive, Seconds, Section, Word, number, word

LARGEST = 1 << 17  # samples: as many rows as an array of a message may have


def _names_of_tags(value: Any) -> Any:
    """Take one name for a list of one."""
    if not isinstance(value, dict):
        return value
    return {tag: (names,) if isinstance(names, str) else names for tag, names in value.items()}


class SelectorSettings(Section):
    """How clients are selected; each key says which selectors use it."""

    candidates: Count | None = Field(
        None, description="power_of_choice: clients sampled to choose among; left out: twice those that are picked"
    )
    over_selection: Annotated[float, Field(ge=1, le=10, allow_inf_nan=False), BeforeValidator(number)] = Field(
        1.0, description="pick this many times clients_per_round; the round closes when clients_per_round have reported"
    )
    deadline: Seconds | None = Field(
        None, description="seconds a round may take: fedcs picks who fits in, and stragglers are left behind"
    )
    timeout: Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(number)] = Field(
        60.0, description="seconds a selector may take to decide, then the run stops; 0: no limit, for debugging"
    )
    exploration: Fraction = Field(
        0.9, description="oort: share of picks that go to clients that never trained, in the first round"
    )
    exploration_decay: Annotated[Positive, Field(le=1)] = Field(
        0.98, description="oort: that share is multiplied by this each round"
    )
    exploration_floor: Fraction = Field(0.2, description="oort: and does not fall below this")
    alpha: Annotated[float, Field(ge=0, le=100), BeforeValidator(number)] = Field(
        2.0, description="oort: exponent of the penalty on clients slower than the preferred duration"
    )
    cutoff: Annotated[Positive, Field(le=1)] = Field(
        0.95, description="oort: clients of at least this share of the last pick's utility are sampled; 1: the best"
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


class Simulation(Section):
    """Simulated devices: clients train for real, and report what it would have taken on devices of given traces."""

    traces: Path | None = Field(
        None, description="file of devices by client, made by `fedps data traces`; left out: nothing is simulated"
    )


class Distillation(Section):
    """Clients that share no weights learn from each other's predictions of public users and items."""

    public_data: Path | None = Field(
        None, description="file of lines user,item,label that all clients may know; left out: no distillation"
    )
    samples: Annotated[Count, Field(le=LARGEST)] = Field(
        100_000, description="pairs of a public user and a public item to score a round, 4 bytes each up and 4 down"
    )
    passes: Count = Field(
        3, description="epochs a round on public samples and on soft targets, before a client's own data"
    )
    teacher: Annotated[Literal["mean", "weighted", "stacked"], BeforeValidator(word)] = Field(
        "mean", description="mean of the clients' logits, weighted by their samples, or stacked to fit public labels"
    )
    temperature: Positive = Field(1.0, description="the teacher's logits are divided by it; over 1 softens them")
