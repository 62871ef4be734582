"""What a federation must know of a network, without the network: its parameters, how they start and train. No torch here."""

import math

import msgspec
import numpy as np

from fedps.types import Init, Values


class EmbeddingLayer(msgspec.Struct, frozen=True):
    """An embedding that an input column looks up.

    Attributes:
        name: its parameter's.
        module: its module's.
        column: `user` or `item`.
        shape: rows, and floats of a row.
        init: how rows start.
    """

    name: str
    module: str
    column: str
    shape: tuple[int, int]
    init: Init


class Network(msgspec.Struct, frozen=True):
    """A network as it was built.

    Attributes:
        embeddings: the sparse parameters, in the network's order.
        dense: name and shape of every other parameter, in the network's order.
        aliases: the original's name → the parameter's own, for all that have one.
        tied: sentences about embeddings whose weight another parameter uses too.
        start: the dense parameters' first values, little-endian float32, end to end in the order of `dense`.
    """

    embeddings: tuple[EmbeddingLayer, ...]
    dense: tuple[tuple[str, tuple[int, ...]], ...]
    aliases: dict[str, str]
    tied: tuple[str, ...]
    start: bytes

    def starts(self) -> dict[str, Values]:
        """Return each dense parameter's first values, float32[n]."""
        every = np.frombuffer(self.start, "<f4")
        sizes = [math.prod(shape) for _, shape in self.dense]
        ends = np.cumsum(sizes)
        return {name: every[end - n : end] for (name, _), n, end in zip(self.dense, sizes, ends, strict=True)}


class Plan(msgspec.Struct, frozen=True):
    """A network made ready for clients to train.

    Attributes:
        network: its parameters.
        library: the compiled step's file in the cache; empty if training is done by torch.
        reason: why it is; empty if it is not.
        notes: what was found amiss while it was made, and mended.
    """

    network: Network
    library: str = ""
    reason: str = ""
    notes: tuple[str, ...] = ()
