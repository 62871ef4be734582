"""A program against all items: what is computed for each pair of a sample and an item, and what is not."""

from fedps.native import program as op
from fedps.native.halves import apart, sides
from fedps.native.program import Program

USER, ITEM = 0, 1  # features; tables too


def layered(*parts: op.Operation) -> Program:
    """Return values side by side through two layers."""
    width, count = sum(part.width for part in parts), len(parts)
    layers = (
        op.Concat(tuple(range(count)), width), op.Linear(count, 0, 1, True, 32),
        op.Unary("relu", count + 1, 32), op.Linear(count + 2, 2, 3, True, 1),
    )  # fmt: skip
    return Program((8, 8), (32 * width, 32, 32, 1), (*parts, *layers))


def test_a_first_layer_is_computed_once_a_sample_and_once_an_item() -> None:
    program = layered(op.Lookup(0, USER, 8), op.Lookup(1, ITEM, 8), op.Number(2, 3))
    cut = apart(program, {ITEM})
    of = sides(cut, {ITEM})
    products = [(o.start, o.total, o.bias, of[k]) for k, o in enumerate(cut.operations) if isinstance(o, op.Linear)]
    assert products[:3] == [(0, 19, 1, "user"), (8, 19, -1, "item"), (16, 19, -1, "user")], "the bias counts once"
    assert products[3:] == [(0, 0, 3, "pair")]
    pairs = [o for k, o in enumerate(cut.operations) if of[k] == "pair"]
    assert [type(o) for o in pairs] == [op.Binary, op.Unary, op.Linear], "a sum, and what follows"


def test_neighbours_of_one_side_stay_one_product() -> None:
    cut = apart(layered(op.Lookup(0, USER, 8), op.Number(2, 3), op.Lookup(1, ITEM, 8)), {ITEM})
    assert [o.width for o in cut.operations if isinstance(o, op.Concat)] == [11]
    assert len([o for o in cut.operations if isinstance(o, op.Linear)]) == 3


def test_what_depends_on_one_side_alone_is_still_written_for_pairs() -> None:
    for feature in (USER, ITEM):
        cut = apart(layered(op.Lookup(0, feature, 8)), {ITEM})
        assert sides(cut, {ITEM})[:-1] == ["user" if feature == USER else "item"] * (len(cut.operations) - 1)
        assert cut.operations[-1] == op.Unary("affine", len(cut.operations) - 2, 1, (1.0, 0.0))
