"""Samples against all items, by torch: where a network is two towers, each sample and each item goes through its own once."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fedps.config.sections.features import of_item
from fedps.models.inputs import Ids, by_name, example, features_of, inputs_of, output_of
from fedps.types import Column


class AllItems:
    """Scores samples with each item in the place of theirs.

    Args:
        model: as `build` makes it, in evaluation mode when this is called; its weights stand still from the first call on.
        items: the features that tell of each item, by name: columns of one length; its id at least.
        towers: whether it is two (`has_towers`).
        device: where its weights are.
    """

    def __init__(
        self, model: nn.Module, items: Mapping[str, Column], towers: bool, device: torch.device | None = None
    ) -> None:
        self._model, self._towers, self._device, names = model, towers, device, inputs_of(model)
        self._items = {names.index(name): one.to(device) for name, one in by_name(model, items).items()}
        self._rows: Tensor | None = None  # of all items, float32[items, d]

    @torch.no_grad()
    def __call__(self, inputs: Sequence[Tensor], rest: Callable[[], None] = lambda: None) -> Tensor:
        """Return logits, float32[n, items], or [n, items, tasks].

        Args:
            inputs: what the network is called with, of n samples.
            rest: called now and then.
        """
        if self._towers:
            vectors = self.vectors()
            rest()
            rows: Tensor = output_of(self._model)(*inputs)[0]
            return rows @ vectors.T
        scores = []
        for k in range(len(inputs[0])):
            scores.append(self._model(*self._beside([column[k : k + 1] for column in inputs])))
            rest()
        return torch.stack(scores)

    @torch.no_grad()
    def vectors(self) -> Tensor:
        """Return what all items come to in their tower, float32[items, d]; a score is a sample's row times an item's."""
        if self._rows is None:
            one = [column.to(self._device) for column in example(self._model, 1)]
            self._rows = output_of(self._model)(*self._beside(one))[1]
        return self._rows

    def _beside(self, one: Sequence[Tensor]) -> list[Tensor]:
        """Return what the network is called with of one sample, beside each item."""
        count = len(next(iter(self._items.values())))
        inputs = [column.expand(count, *column.shape[1:]).contiguous() for column in one]
        return [self._items.get(place, column) for place, column in enumerate(inputs)]


@torch.no_grad()
def has_towers(model: nn.Module) -> bool:
    """Tell whether a network's output is two rows a sample, one of the item alone, and one of all else.

    Args:
        model: as `build` makes it.
    """
    features, training = features_of(model), model.training
    columns = zip(inputs_of(model), example(model, 3), strict=True)
    try:
        output = output_of(model.eval())(*(Ids.of(values, name, features[name].has_ids) for name, values in columns))
    except Exception:  # whatever the user's own code raises at ids that know where they come from
        return False
    finally:
        model.train(training)
    if not isinstance(output, tuple) or not all(isinstance(rows, Ids) for rows in output[:2]):
        return False
    users, items = (rows.sources for rows in output[:2])
    of_items = {name for name, feature in features.items() if of_item(name, feature)}
    return bool(users.isdisjoint(of_items) and items <= of_items)
