"""Networks that score a user with an item by the product of two rows: MF and TwoTower."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedps.config.sections.features import of_item
from fedps.config.sections.training import HyperParameters
from fedps.models.ctr import Features, Tables, stacked


class MF(Tables):
    """Matrix factorization with biases: user row times item row, plus what each is worth alone (Koren et al., Computer 42(8)).

    With loss `bpr` it is BPR-MF (Rendle et al., UAI 2009, section 4.3.1). The biases are tables of one float a row.

    Args:
        features: `user` and `item`; others are left.
        hyper: `embedding_dim`.
    """

    takes = ("user", "item")

    def __init__(self, features: Features, hyper: HyperParameters, tasks: int = 1) -> None:
        super().__init__(features)
        self.add_tables("embedding", hyper.embedding_dim, self.takes)
        self.add_tables("bias", 1, self.takes)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, **columns: Tensor) -> Tensor:
        """Return logits, or ratings, float32[B]."""
        user, item = (self.look_up("embedding", name, columns[name]) for name in self.takes)
        biases = [self.look_up("bias", name, columns[name]).squeeze(1) for name in self.takes]
        return (user * item).sum(1) + sum(biases) + self.bias


class TwoTower(Tables):
    """Layers for all that is known of the user, layers for the item, and the cosine of what they come to (Yi et al., RecSys 2019).

    Features of the item's side go into one tower, all others (the user, the history, the hour) into the other. Their
    outputs have length 1, and the cosine is divided by `temperature` (section 3). Loss `in_batch_softmax` trains it as there.

    Args:
        features: the inputs; numbers go in as they are.
        hyper: `embedding_dim`, `hidden_units` of each tower, `dropout`, `temperature`.
    """

    candidates = ("item",)

    def __init__(self, features: Features, hyper: HyperParameters, tasks: int = 1) -> None:
        super().__init__(features)
        self.sides = {
            "item": [name for name, feature in features.items() if of_item(name, feature)],
            "user": [name for name, feature in features.items() if not of_item(name, feature)],
        }
        self.add_tables("embedding", hyper.embedding_dim, features)
        for side, names in self.sides.items():
            sizes = [self.width(names, hyper.embedding_dim), *hyper.hidden_units]
            self.add_module(f"{side}_tower", stacked(sizes[:-1], sizes[-1], hyper.dropout))
        self.temperature = hyper.temperature

    def forward(self, **columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows of users, divided by the temperature, and of items, float32[B, hidden_units[-1]] each, and items' ids."""
        users, items = (self.tower(side, columns) for side in ("user", "item"))
        return users / self.temperature, items, columns["item"]

    def tower(self, side: str, columns: dict[str, Tensor]) -> Tensor:
        """Return what a side's features come to, rows of length 1."""
        rows = self.fields({name: columns[name] for name in self.sides[side]})
        return functional.normalize(self.get_submodule(f"{side}_tower")(rows), dim=1)
