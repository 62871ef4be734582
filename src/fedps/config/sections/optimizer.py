"""How gradients change parameters, as a job says it; `client.rules` makes the rules of tables of it."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from fedps.config.kinds import Count, Positive, Rate, Section, Share, lower, number, word

OptimizerName = Literal["adam", "lazy_adam", "sgd", "adagrad", "row_adagrad", "shared_adam"]


class Optimizer(Section):
    """How gradients change parameters, on clients and on servers alike."""

    name: Annotated[OptimizerName, BeforeValidator(lower)] = Field(
        "adam", alias="class", description="adam is torch.optim.Adam of the whole table, computed lazily"
    )
    learning_rate: Rate = Field(0.001, description="step size")
    shared_learning_rate: Rate | None = Field(
        None,
        description="step size of shared values; left out: learning_rate, for adam × √clients (at most √10) where they are averaged",
    )
    private_learning_rate: Rate | None = Field(
        None, description="step size of private values; left out: learning_rate, for adam times √workers"
    )
    beta1: Share = Field(0.9, description="Adam: decay of the mean gradient")
    beta2: Share = Field(0.999, description="Adam: decay of the mean squared gradient")
    epsilon: Annotated[Positive, Field(lt=1)] = Field(1e-8, description="added to the denominator")
    initial_g2: Positive = Field(3.0, description="row_adagrad: squared gradient that a row starts with")
    weight_decay: Share = Field(
        0.0, description="this share of a value is added to its gradient (L2), where it has one"
    )
    proximal: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False), BeforeValidator(number)] = Field(
        0.0, description="geo, round: this share of a shared value's way since it was pulled is added to its gradient"
    )
    schedule: Annotated[Literal["constant", "linear", "cosine", "step"], BeforeValidator(word)] = Field(
        "constant", description="how learning rates change over the job's epochs"
    )
    warmup: Share = Field(0.0, description="share of the job in which learning rates rise from 0")
    final: Annotated[float, Field(ge=0, le=1), BeforeValidator(number)] = Field(
        0.0, description="linear, cosine: share of the rates left at the end"
    )
    step_epochs: Count = Field(5, description="step: epochs between two changes of the rates")
    step_factor: Annotated[Positive, Field(le=1)] = Field(
        0.5, description="step: what the rates are multiplied with then"
    )

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class TableOptimizer(Section):
    """What one table has otherwise; what is left out is that of `hyper_parameters.optimizer`."""

    name: Annotated[OptimizerName | None, BeforeValidator(lower)] = Field(
        None, alias="class", description="how gradients change this table's rows"
    )
    learning_rate: Rate | None = Field(None, description="step size; taken as it stands for private rows too")
    beta1: Share | None = Field(None, description="Adam: decay of the mean gradient")
    beta2: Share | None = Field(None, description="Adam: decay of the mean squared gradient")
    epsilon: Annotated[Positive, Field(lt=1)] | None = Field(None, description="added to the denominator")
    initial_g2: Positive | None = Field(None, description="row_adagrad: squared gradient that a row starts with")
    weight_decay: Share | None = Field(None, description="this share of a value is added to its gradient (L2)")

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
