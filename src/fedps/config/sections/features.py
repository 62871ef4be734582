"""What a sample is made of: each feature by its name, and how a network gets it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from fedps.config.sections import Count, Finite, Positive, Section, Word, word

OPEN = "open"


def counted(value: Any) -> Any:
    """Refuse what is neither a count of rows, nor the word that says that nobody counts them."""
    if value is None or value == OPEN or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"must be a whole number of at least 1, or the word {OPEN}")


class Feature(Section):
    """One column of the data.

    A feature of kind `id` or `ids` has an id space: its own, of `rows` ids or open, or that of the feature `table` names,
    whose embeddings look it up too.
    """

    kind: Annotated[Literal["id", "ids", "number", "label"], BeforeValidator(word)] = Field(
        description="one id a sample, several, a number (or a vector of them), or what is to be learned"
    )
    rows: Annotated[Count | Literal["open"] | None, BeforeValidator(counted)] = Field(
        None, description="id, ids: ids run from 0 to this, exclusive; open: any whole number, and any text by its hash"
    )
    table: Word | None = Field(None, description="id, ids: the feature whose id space and tables it shares")
    pooling: Annotated[Literal["sum", "mean"], BeforeValidator(word)] | None = Field(
        None, description="ids: rows are added up, or their mean is taken; left out: they stay a sequence"
    )
    max: Count | None = Field(None, description="ids: of a longer list the last so many count; needed for a sequence")
    dim: Count = Field(1, description="number: how many it is")
    missing: Finite | None = Field(None, description="number: what an empty cell counts as; left out: it is a mistake")
    side: Annotated[Literal["user", "item"], BeforeValidator(word)] | None = Field(
        None,
        description="whom it describes; tables of the user's side are private, unless local_sparse or remote_sparse is given",
    )
    of: Annotated[Literal["binary", "real"], BeforeValidator(word)] = Field(
        "binary", description="label: 0 or 1, or any number"
    )
    weight: Positive = Field(1.0, description="label: of its loss, where there are several")
    separator: Word = Field(
        "|", min_length=1, description="ids, and number of several: what stands between the values of a cell"
    )
    column: Word | None = Field(
        None, description="its name in the data files; left out: the feature's; '' of a label: none, as it is always 1"
    )
    optional: bool = Field(False, description="a network may leave it; set where the data's manifest states it")

    @property
    def has_ids(self) -> bool:
        """Whether it is looked up in a table."""
        return self.kind in ("id", "ids")

    @property
    def implied(self) -> bool:
        """Whether it is a label that stands in no file: all samples are positives."""
        return self.column == ""


def with_label(features: Mapping[str, Feature]) -> dict[str, Feature]:
    """Return features with a label: the implied one, if none is stated."""
    there = labels(features) or "label" in features
    return dict(features) if there else {**features, "label": Feature(kind="label", column="")}


def classic(num_users: int, num_items: int) -> dict[str, Feature]:
    """Return the features of lines user,item,label."""
    return {
        "user": Feature(kind="id", rows=num_users, side="user"),
        "item": Feature(kind="id", rows=num_items, side="item"),
        "label": Feature(kind="label"),
    }


def spaces(features: Mapping[str, Feature]) -> dict[str, str]:
    """Return each feature of ids with its id space, which is named as the feature that has the rows."""
    return {name: feature.table or name for name, feature in features.items() if feature.has_ids}


def of_user(name: str, feature: Feature) -> bool:
    """Tell whether a feature's tables are private by default: it describes the user, or is the user."""
    return feature.side == "user" or (name == "user" and feature.side is None)


def of_item(name: str, feature: Feature) -> bool:
    """Tell whether a feature describes the item, or is the item; all others describe the user, or what the two meet in."""
    return feature.side == "item" or (name == "item" and feature.side is None)


def beside_item(features: Mapping[str, Feature]) -> list[str]:
    """Return the features that may tell of a sample's item beside its id: with another item in its place they would be wrong.

    What is of the user's side does not, nor do items that are not said to describe the item: they are a history.
    """
    others = {n: f for n, f in features.items() if n != "item" and f.kind != "label" and not of_user(n, f)}
    return [name for name, feature in others.items() if feature.table != "item" or feature.side == "item"]


def undrawable(features: Mapping[str, Feature]) -> str:
    """Say why no other items can be drawn in place of a sample's own; empty if they can."""
    for name in ("user", "item"):
        if name not in features or features[name].kind != "id":
            return f"there is no feature {name} of kind id"
    if features[features["item"].table or "item"].rows == OPEN:
        return "nobody has counted the items (features.item.rows)"
    others = beside_item(features)
    return f"features {', '.join(others)} could tell of the item" if others else ""


def sequences(features: Mapping[str, Feature]) -> dict[str, str]:
    """Return each sequence of ids that shares the table of a feature of one id, with that feature."""
    of_items = {name for name, feature in features.items() if feature.kind == "id"}
    plain = {n: f.table for n, f in features.items() if f.kind == "ids" and f.pooling is None}
    return {name: table for name, table in plain.items() if table is not None and table in of_items}


def labels(features: Mapping[str, Feature]) -> dict[str, Feature]:
    """Return what is to be learned."""
    return {name: feature for name, feature in features.items() if feature.kind == "label"}


def first_binary(labels: Mapping[str, Feature]) -> tuple[int, bool]:
    """Return which label stands for all where one number is due, and whether it is a binary one."""
    kinds = [label.of for label in labels.values()] or ["binary"]
    return (kinds.index("binary"), True) if "binary" in kinds else (0, False)
