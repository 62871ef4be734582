"""What a federation must know of a network, without the network: its parameters, how they start and train. No torch here."""

import math
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedps.config.sections.training import HyperParameters
from fedps.types import Init, Values


class EmbeddingLayer(msgspec.Struct, frozen=True):
    """An embedding that features look up.

    Attributes:
        name: its parameter's.
        module: its module's.
        features: which look it up.
        space: the id space that its rows are numbered by.
        shape: rows, 0 where the space is open, and floats of a row.
        init: how rows start.
    """

    name: str
    module: str
    features: tuple[str, ...]
    space: str
    shape: tuple[int, int]
    init: Init


class Network(msgspec.Struct, frozen=True):
    """A network as it was built.

    Attributes:
        embeddings: the sparse parameters, in the network's order.
        dense: name and shape of every other parameter, in the network's order.
        aliases: the original's name → the parameter's own, for all that have one.
        faults: sentences about embeddings that can be no tables.
        start: the dense parameters' first values, little-endian float32, end to end in the order of `dense`.
        frozen: names of parameters that stay as they start.
        given: by embedding whose start is data all its rows, little-endian float32 end to end.
        inputs: the features that the network takes.
        computed: by parameter of which rows are taken by ids, and which is no table, the features that these come from.
    """

    embeddings: tuple[EmbeddingLayer, ...]
    dense: tuple[tuple[str, tuple[int, ...]], ...]
    aliases: dict[str, str]
    faults: tuple[str, ...]
    start: bytes
    frozen: tuple[str, ...] = ()
    given: dict[str, bytes] = {}
    inputs: tuple[str, ...] = ("user", "item")
    computed: dict[str, tuple[str, ...]] = {}

    def given_rows(self, name: str) -> Values:
        """Return all rows of an embedding whose start is data, float32[rows, dim]."""
        [shape] = [e.shape for e in self.embeddings if e.name == name]
        return np.frombuffer(self.given[name], "<f4").reshape(shape)

    def starts(self) -> dict[str, Values]:
        """Return each dense parameter's first values, float32[n]."""
        every = np.frombuffer(self.start, "<f4")
        sizes = [math.prod(shape) for _, shape in self.dense]
        ends = np.cumsum(sizes)
        return {name: every[end - n : end] for (name, _), n, end in zip(self.dense, sizes, ends, strict=True)}


def built_in(hyper: HyperParameters) -> Network | None:
    """Describe NCF as `models.ncf` makes it, without making it: all but the dense parameters' start; None for other modes."""
    parts = {"NCF_MLP": ("mlp",), "NCF_GMF": ("mf",), "NCF_NeuMF": ("mf", "mlp")}.get(hyper.mode)
    if parts is None:
        return None
    widths = {"mlp": hyper.fc_layers[0] // 2, "mf": hyper.mf_dim}
    rows = {"user": hyper.num_users, "item": hyper.num_items}
    tables = [
        EmbeddingLayer(
            f"{part}_{of}.weight", f"{part}_{of}", (of,), of, (rows[of], widths[part]), Init("normal", 0.0, 0.01)
        )
        for part in parts
        for of in rows
    ]
    shapes: dict[str, tuple[int, ...]] = {}
    if "mlp" in parts:
        for k, (inputs, outputs) in enumerate(pairwise(hyper.fc_layers)):
            shapes |= {f"mlp.{2 * k}.weight": (outputs, inputs), f"mlp.{2 * k}.bias": (outputs,)}
    last = sum({"mlp": hyper.fc_layers[-1], "mf": hyper.mf_dim}[part] for part in parts)
    shapes |= {"predict.weight": (1, last), "predict.bias": (1,)}
    aliases = {f"embedding_{k}.w_0": table.name for k, table in enumerate(tables)}
    for k, name in enumerate(list(shapes)[::2]):
        aliases |= {f"linear_{k}.w_0": name, f"linear_{k}.b_0": name.replace("weight", "bias")}
    return Network(tuple(tables), tuple(shapes.items()), aliases, (), b"")


class Plan(msgspec.Struct, frozen=True):
    """A network made ready for clients to train.

    Attributes:
        network: its parameters.
        library: the compiled step's file in the cache; empty if training is done by torch.
        reason: why it is; empty if it is not.
        notes: what was found amiss while it was made, and mended.
        items: features, of one id space, that the network takes items from.
    """

    network: Network
    library: str = ""
    reason: str = ""
    notes: tuple[str, ...] = ()
    items: tuple[str, ...] = ()


def log_shares(counts: NDArray[np.int64]) -> Values:
    """Return the logarithms of how often items occur among all, float32[n]; what never does counts once."""
    shares = np.maximum(counts, 1) / max(1, counts.sum())
    logs: Values = np.log(shares).astype(np.float32)
    return logs
