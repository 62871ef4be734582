"""The servers' own optimizer, as a job names it; `client.rules` makes the rule of tables of it.

Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2; momentum is FedAvgM (Hsu et al.,
arXiv:1909.06335). See `table.rules` for the formulas.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from fedps.config.kinds import Positive, Rate, Section, Share, lower


class ServerOptimizer(Section):
    """How servers apply what the clients' changes were merged to."""

    name: Annotated[Literal["none", "momentum", "adagrad", "adam", "yogi"], BeforeValidator(lower)] = Field(
        "none", alias="class", description="geo, round: none adds the merged change; the others take it for a gradient"
    )
    learning_rate: Rate | None = Field(
        None, description="step size; left out: 0.1 for momentum and adagrad, 0.01 for adam and yogi"
    )
    beta1: Share | None = Field(None, description="decay of the mean change; left out: 0.9, 0 for adagrad")
    beta2: Share = Field(0.99, description="adam, yogi: decay of the mean squared change")
    tau: Annotated[Positive, Field(ge=1e-30, lt=1)] = Field(
        1e-3, description="adagrad, adam, yogi: added to the root of it; its square is where it starts"
    )

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
