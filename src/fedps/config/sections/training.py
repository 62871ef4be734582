"""What is trained, and how: the network, and the rules by which gradients and merged changes move its parameters.

`training.rules` makes the rules of tables of what the job says here; `table.rules` has their formulas.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from fedps.config.sections import Count, Fraction, Positive, Rate, Section, Share, lower, number, word

if TYPE_CHECKING:
    from fedps.types import Bounds

OptimizerName = Literal["adam", "lazy_adam", "sgd", "adagrad", "row_adagrad", "shared_adam"]  # of `types.RuleName`
ADAMS: tuple[OptimizerName, ...] = ("adam", "lazy_adam", "shared_adam")
MOST_ADMIT_AFTER, MOST_EXPIRE_AFTER, MOST_ROWS = 255, 250, 1 << 40  # as in `types.MOST_BOUNDS`
Epsilon = Annotated[Positive, Field(lt=1)]
Mode = Literal["NCF_MLP", "NCF_GMF", "NCF_NeuMF", "MF", "TwoTower", "DeepFM", "DCNv2", "DIN", "SASRec"]
LossName = Literal["bce", "mse", "bpr", "in_batch_softmax", "sampled_softmax"]
DEEP: tuple[Mode, ...] = ("TwoTower", "DeepFM", "DCNv2", "DIN")  # those with layers of `hidden_units`
TOWERS: tuple[Mode, ...] = ("TwoTower", "SASRec")  # those that can learn by in_batch_softmax
USED_BY: dict[str, tuple[Mode, ...]] = {  # keys that some built-in networks alone have
    "mf_dim": ("NCF_GMF", "NCF_NeuMF"),
    "fc_layers": ("NCF_MLP", "NCF_NeuMF"),
    "embedding_dim": ("MF", *DEEP, "SASRec"),
    "hidden_units": DEEP,
    "dropout": (*DEEP, "SASRec"),
    "num_cross_layers": ("DCNv2",),
    "low_rank": ("DCNv2",),
    "attention_hidden_units": ("DIN",),
    "num_heads": ("SASRec",),
    "num_blocks": ("SASRec",),
    "train_positions": ("SASRec",),
    "temperature": ("TwoTower",),
}
OF_NETWORKS = frozenset(USED_BY) - {"mf_dim", "fc_layers"}  # a network of one's own gets those that the job gives it


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
        None, description="step size of private values; left out: learning_rate, for adam × √workers"
    )
    beta1: Share = Field(0.9, description="Adam: decay of the first moment, the mean gradient")
    beta2: Share = Field(0.999, description="Adam: decay of the second moment, the mean squared gradient")
    epsilon: Epsilon = Field(1e-8, description="added to the denominator")
    initial_g2: Positive = Field(3.0, description="row_adagrad: sum of squared gradients that a row starts with")
    weight_decay: Share = Field(
        0.0, description="L2: this share of a value is added to its gradient, at steps where it has one"
    )
    proximal: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False), BeforeValidator(number)] = Field(
        0.0, description="geo, round: FedProx µ, which pulls shared values back towards what was last received"
    )
    schedule: Annotated[Literal["constant", "linear", "cosine", "step"], BeforeValidator(word)] = Field(
        "constant", description="how learning rates change over the job's epochs"
    )
    warmup: Share = Field(0.0, description="share of the job in which learning rates rise from 0")
    final: Fraction = Field(0.0, description="linear, cosine: share of the learning rates left at the end")
    step_epochs: Count = Field(5, description="step: epochs between two changes of the learning rates")
    step_factor: Annotated[Positive, Field(le=1)] = Field(
        0.5, description="step: what the learning rates are multiplied with then"
    )


class TableOptimizer(Section):
    """What one table has otherwise; what is left out is that of `hyper_parameters.optimizer`."""

    name: Annotated[OptimizerName | None, BeforeValidator(lower)] = Field(
        None, alias="class", description="how gradients change this table's rows"
    )
    learning_rate: Rate | None = Field(None, description="step size; taken as it stands for private rows too")
    beta1: Share | None = Field(None, description="Adam: decay of the first moment")
    beta2: Share | None = Field(None, description="Adam: decay of the second moment")
    epsilon: Epsilon | None = Field(None, description="added to the denominator")
    initial_g2: Positive | None = Field(
        None, description="row_adagrad: sum of squared gradients that a row starts with"
    )
    weight_decay: Share | None = Field(None, description="L2: this share of a value is added to its gradient")


class TableParameters(Section):
    """What one embedding has of its own."""

    optimizer: TableOptimizer = Field(TableOptimizer(), description="how gradients change this table's rows")
    initial_range: Positive | None = Field(
        None, description="rows start uniform in ±this; left out: as the network says"
    )
    admit_after: Annotated[Count, Field(le=MOST_ADMIT_AFTER)] = Field(
        1,
        description="shared rows: an id gets a row at its so-many-th push; until then one default row serves all such",
    )
    expire_after: Annotated[Count, Field(le=MOST_EXPIRE_AFTER)] | None = Field(
        None, description="shared rows: epochs without a push after which a row leaves; left out: none does"
    )
    max_rows: Annotated[Count, Field(le=MOST_ROWS)] | None = Field(
        None, description="shared rows: so many on all servers together; the least used make room; left out: no bound"
    )

    @property
    def bounds(self) -> "Bounds":
        """What keeps the table's rows few."""
        from fedps.types import Bounds  # noqa: PLC0415  (who only looks at a job needs no numpy)

        return Bounds(self.admit_after, self.expire_after or 0, self.max_rows or 0)


class HyperParameters(Section):
    """The model and its optimizer. With `runner.model`, further keys are passed to the user's class by name."""

    model_config = ConfigDict(extra="allow", ser_json_inf_nan="constants")

    optimizer: Optimizer = Field(Optimizer(), description="how gradients change parameters")
    num_users: Count = Field(
        6040, description="user ids run from 0 to this, exclusive; left out: as manifest.json beside the data says"
    )
    num_items: Count = Field(3706, description="item ids run from 0 to this, exclusive; left out: as num_users")
    mf_dim: Count = Field(8, description="NCF: size of a user's or item's embedding in matrix factorization")
    mode: Annotated[Mode, BeforeValidator(word)] = Field("NCF_MLP", description="the built-in network")
    fc_layers: tuple[Count, ...] = Field(
        (64, 32, 16, 8), min_length=2, description="NCF: sizes of the MLP, input first"
    )
    loss: Annotated[LossName, BeforeValidator(word)] = Field(
        "bce",
        description="cross-entropy or squared error of each sample (left out: as its labels are), a positive above a negative of"
        " its user, or the right item among those of the batch, or among runner.negatives drawn ones",
    )
    embedding_dim: Count = Field(16, description="size of every embedding")
    hidden_units: tuple[Count, ...] = Field((64, 32), min_length=1, description="sizes of the MLP, without its input")
    dropout: Share = Field(0.0, description="share of values that training leaves out after each layer")
    num_cross_layers: Count = Field(3, description="DCNv2: how many cross layers")
    low_rank: Count | None = Field(None, description="DCNv2: rank of a cross layer's weights; left out: full")
    attention_hidden_units: tuple[Count, ...] = Field(
        (64,), min_length=1, description="DIN: sizes of the attention's MLP"
    )
    num_heads: Count = Field(1, description="SASRec: heads of attention; they share embedding_dim evenly")
    num_blocks: Count = Field(2, description="SASRec: how many blocks of attention")
    train_positions: Annotated[Literal["all", "last"], BeforeValidator(word)] = Field(
        "all",
        description="SASRec with in_batch_softmax: learn what follows each item of a sequence, or the whole of it alone",
    )
    temperature: Positive = Field(0.05, description="TwoTower: what the cosine of user and item is divided by")


class ServerOptimizer(Section):
    """How servers apply what the clients' changes were merged to.

    Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2; momentum is FedAvgM (Hsu et al.,
    arXiv:1909.06335).
    """

    name: Annotated[Literal["none", "momentum", "adagrad", "adam", "yogi"], BeforeValidator(lower)] = Field(
        "none", alias="class", description="geo, round: none adds the merged change; the others take it for a gradient"
    )
    learning_rate: Rate | None = Field(
        None, description="step size; left out: 0.1 for momentum and adagrad, 0.01 for adam and yogi"
    )
    beta1: Share | None = Field(
        None, description="decay of the first moment, the mean change; left out: 0.9, 0 for adagrad"
    )
    beta2: Share = Field(0.99, description="adam, yogi: decay of the second moment, the mean squared change")
    tau: Annotated[Positive, Field(ge=1e-30, lt=1)] = Field(
        1e-3, description="adagrad, adam, yogi: added to the root of the second moment, which starts at its square"
    )
