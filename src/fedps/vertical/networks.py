"""The network of a vertical job, cut in two: what each party computes of its features, and what joins these at the active party.

| `vertical.network` | a party sends of each sample | the active party makes of it |
| --- | --- | --- |
| MLP | layers of `bottom_units` | layers of `hidden_units` |
| DeepFM | what it adds to the machine's sums, and to the first layer | `models.ctr.DeepFM` of all features |
| DCNv2 | its features' rows end to end | `models.ctr.DCNv2` of all features |
| TwoTower | layers of `hidden_units`, scaled to length 1 | their product, divided by `temperature` |
| own | what its `bottom` returns, float32[B, width] | what its `top` makes of all these, by the parties' names |

DeepFM and DCNv2 are exact: with the same weights they compute what the same network computes of joined features. Where a
network is trained without some parties, to see what the others are worth, and cannot do without them (TwoTower, own), layers
of `hidden_units` join what is left.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedps.config import Job
from fedps.config.sections.features import Feature
from fedps.config.sections.training import HyperParameters
from fedps.config.vertical import VerticalJob, side_job
from fedps.errors import JobError
from fedps.models.build import build_part, check_logits, seeded
from fedps.models.ctr import DCNv2, Features, Machine, Tables, layers, stacked
from fedps.models.inputs import adapt, example, inputs_of

TOP = ""  # stands for a party's name where the active party's top is meant


def make_bottom(job: VerticalJob, party: str) -> nn.Module | None:
    """Make a party's part; the same job gives the same weights.

    Returns:
        A module that maps the features of `inputs_of` it to float32[B, width]; None if the party has no features.

    Raises:
        JobError: its features do not fit the network, or its own class cannot be made or called.
    """
    own = part_job(job, party)
    features = {name: feature for name, feature in own.inputs.items() if feature.kind != "label"}
    if not features:
        return None
    if job.vertical.network == "own":
        with _told_of(f"parties.{party}.bottom"):
            bottom = build_part(own.runner.model or "", own, own.inputs, {})
            width_of(bottom)
        return bottom
    with seeded(own.runner.seed):
        bottom = BOTTOMS[job.vertical.network](features, job)
        adapt(job.vertical.network, bottom, own.inputs, classic=False)
    return bottom


def width_of(bottom: nn.Module) -> int:
    """Return how many floats a party sends of a sample.

    Raises:
        JobError: its network returns no such floats.
    """
    training = bottom.training
    with torch.no_grad():
        made = bottom.eval()(*example(bottom, 2))
    bottom.train(training)
    if not isinstance(made, Tensor) or made.dim() not in (1, 2) or len(made) != 2 or made.dtype != torch.float32:
        what = f"{made.dtype} {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
        raise JobError(
            f"runner.model: forward({', '.join(inputs_of(bottom))}) returns {what} of two samples; float32 of shape"
            " [B, width] is due"
        )
    return made[0].numel()


def make_top(job: VerticalJob, widths: Mapping[str, int]) -> nn.Module:
    """Make what joins the parties' parts; the same job gives the same weights.

    Args:
        job: the job.
        widths: of each party that has features, in the order of `job.order`.

    Returns:
        A module that maps these parties' float32[B, width] (of a width of 1 float32[B]), in this order, to float32[B]:
        logits, or numbers.

    Raises:
        JobError: the network does not take so many parties, or its own class cannot be made or called.
    """
    network, own = job.vertical.network, part_job(job, TOP)
    cuts = {party: Feature(kind="number", dim=width) for party, width in widths.items()}
    if not cuts:
        raise JobError("parties: none of those that are to be trained has features")
    whole = _is_whole(job, widths)
    if network == "own" and whole:
        with _told_of(f"parties.{job.vertical.active}.top"):
            return _own_top(own, cuts, widths)
    if network == "TwoTower" and whole and len(cuts) != 2:
        raise JobError(f"vertical.network: TwoTower: is of two parties that have features; here are {', '.join(cuts)}")
    with seeded(own.runner.seed):
        top = TOPS[network if whole or network in ANY else "MLP"](cuts, job.hyper_parameters)
        adapt(network, top, cuts, classic=False)
    return top


def part_job(job: VerticalJob, party: str) -> Job:
    """Return what makes a party's part, or the `TOP`: its features and hyperparameters, its class, and a seed of its own.

    With a secret the seed is one of 2^63, so that nobody can try them all.
    """
    active = job.vertical.active
    side, mine = side_job(job, party or active), job.parties[party or active]
    seed = zlib.crc32(f"{job.vertical.seed} {party}".encode())
    if mine.secret is not None:
        told = f"{job.vertical.seed} {party} {mine.secret}".encode()
        seed = int.from_bytes(hashlib.blake2b(told, digest_size=8, person=b"fedps weights").digest()) >> 1
    of = {"seed": seed, "model": mine.bottom if party else mine.top}
    hyper = side.hyper_parameters.model_copy(update={"loss": job.vertical.loss})
    return side.model_copy(update={"runner": side.runner.model_copy(update=of), "hyper_parameters": hyper})


def _is_whole(job: VerticalJob, widths: Mapping[str, int]) -> bool:
    """Say whether all parties that have features are there."""
    own = job.parties[job.vertical.active].features.values()
    active = {job.vertical.active} if any(feature.kind != "label" for feature in own) else set()
    return widths.keys() >= active | set(job.vertical.passive)


def _own_top(own: Job, cuts: Features, widths: Mapping[str, int]) -> nn.Module:
    path = own.runner.model or ""
    top = build_part(path, own, cuts, {"widths": dict(widths)})
    made = top.eval()(*example(top, 2))
    top.train()
    if not isinstance(made, Tensor) or made.shape != (2,) or not made.is_floating_point():
        what = f"{made.dtype} {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
        raise JobError(
            f"runner.model: {path}: forward({', '.join(cuts)}) returns {what} of two samples; float32 of shape [B] is due"
        )
    if own.hyper_parameters.loss == "bce":
        check_logits(path, top, own)
    return top


@contextmanager
def _told_of(key: str) -> Iterator[None]:
    """Let what is wrong with a network be told of the key that names it here."""
    try:
        yield
    except JobError as error:
        raise JobError([mistake.replace("runner.model", key, 1) for mistake in error.mistakes]) from error


class Rows(Tables):
    """Features' rows, and numbers as they are, end to end.

    Args:
        features: the inputs.
        hyper: `embedding_dim`.
    """

    def __init__(self, features: Features, hyper: HyperParameters) -> None:
        super().__init__(features)
        self.add_tables("embedding", hyper.embedding_dim, features)

    def forward(self, **columns: Tensor) -> Tensor:
        """Return float32[B, width]."""
        return self.fields(columns)


class Layers(Rows):
    """Layers on features' rows, with a last one that has no ReLU if `last` says how wide it is."""

    def __init__(self, features: Features, hyper: HyperParameters, sizes: tuple[int, ...], last: int = 0) -> None:
        super().__init__(features, hyper)
        self.mlp = stacked([self.width(features, hyper.embedding_dim), *sizes], last, hyper.dropout)

    def forward(self, **columns: Tensor) -> Tensor:
        """Return float32[B, the last size]."""
        made: Tensor = self.mlp(self.fields(columns))
        return made


class Tower(Layers):
    """One side of two towers: layers of `hidden_units` (Yi et al., RecSys 2019, section 3)."""

    def __init__(self, features: Features, hyper: HyperParameters) -> None:
        super().__init__(features, hyper, hyper.hidden_units[:-1], hyper.hidden_units[-1])

    def forward(self, **columns: Tensor) -> Tensor:
        """Return rows of length 1, float32[B, hidden_units[-1]]."""
        return functional.normalize(super().forward(**columns), dim=1)


class Addends(Machine):
    """What one party's features add to each sum of a DeepFM.

    With v a feature's row and w its weight, a machine's second order over all features is ½ (‖Σ v‖² - Σ ‖v‖²), and the
    first layer is W x + b with x the rows end to end. So a party sends, side by side: Σ v, of W x the part of its own
    features, and Σ w - ½ Σ ‖v‖².
    """

    def __init__(self, features: Features, hyper: HyperParameters) -> None:
        super().__init__(features, hyper)
        self.first = nn.Linear(len(features) * hyper.embedding_dim, hyper.hidden_units[0], bias=False)

    def forward(self, **columns: Tensor) -> Tensor:
        """Return float32[B, embedding_dim + hidden_units[0] + 1]."""
        weight, total, squares, rows = self.sums(columns)
        return torch.cat((total, self.first(rows), weight - 0.5 * squares.sum(1, keepdim=True)), 1)


class Machines(nn.Module):
    """What remains of a DeepFM once the parties' `Addends` are there."""

    def __init__(self, cuts: Features, hyper: HyperParameters) -> None:
        super().__init__()
        self.dim = hyper.embedding_dim
        self.bias = nn.Parameter(torch.zeros(hyper.hidden_units[0]))
        first = [nn.ReLU(), *([nn.Dropout(hyper.dropout)] if hyper.dropout else [])]
        self.mlp = nn.Sequential(*first, *stacked(hyper.hidden_units, 1, hyper.dropout))

    def forward(self, **cuts: Tensor) -> Tensor:
        """Return logits float32[B, 1]."""
        sums = reduce(torch.add, cuts.values())
        total, hidden, alone = sums[:, : self.dim], sums[:, self.dim : -1], sums[:, -1:]
        logits: Tensor = alone + 0.5 * (total * total).sum(1, keepdim=True) + self.mlp(hidden + self.bias)
        return logits


class Joining(nn.Module):
    """Layers of `hidden_units` on what the parties sent, end to end."""

    def __init__(self, cuts: Features, hyper: HyperParameters) -> None:
        super().__init__()
        self.mlp = layers(sum(cut.dim for cut in cuts.values()), hyper, 1)

    def forward(self, **cuts: Tensor) -> Tensor:
        """Return logits float32[B, 1]."""
        logits: Tensor = self.mlp(torch.cat([cut.reshape(len(cut), -1) for cut in cuts.values()], 1))
        return logits


class Product(nn.Module):
    """The product of two parties' rows, divided by `temperature`; as each has length 1, their cosine."""

    def __init__(self, cuts: Features, hyper: HyperParameters) -> None:
        super().__init__()
        self.temperature = hyper.temperature

    def forward(self, **cuts: Tensor) -> Tensor:
        """Return logits float32[B]."""
        one, other = (cut.reshape(len(cut), -1) for cut in cuts.values())
        return (one * other).sum(1) / self.temperature


BOTTOMS: Mapping[str, Callable[[Features, VerticalJob], nn.Module]] = {
    "MLP": lambda features, job: Layers(features, job.hyper_parameters, job.vertical.bottom_units),
    "DeepFM": lambda features, job: Addends(features, job.hyper_parameters),
    "DCNv2": lambda features, job: Rows(features, job.hyper_parameters),
    "TwoTower": lambda features, job: Tower(features, job.hyper_parameters),
}
TOPS: Mapping[str, Callable[[Features, HyperParameters], nn.Module]] = {
    "MLP": Joining,
    "DeepFM": Machines,
    "DCNv2": DCNv2,
    "TwoTower": Product,
}
ANY = ("MLP", "DeepFM", "DCNv2")  # these join as many parties as there are
ADDING = ("DeepFM",)  # of these the top needs the sum alone of what parties sent
