"""Whether cells are read many at once or one by one, they are the same numbers, and the same are mistakes."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedps.config.sections.features import Feature
from fedps.data.read.cells import Cells
from fedps.types import Bags

KINDS: dict[str, tuple[dict[str, Any], Any]] = {
    "counted": ({"kind": "id", "rows": 50}, 50),
    "many": ({"kind": "id", "rows": 2**40}, 2**40),
    "open": ({"kind": "id", "rows": "open"}, "open"),
    "bag": ({"kind": "ids", "rows": 50, "pooling": "sum"}, 50),
    "open bag": ({"kind": "ids", "rows": "open", "pooling": "sum"}, "open"),
    "number": ({"kind": "number"}, None),
    "filled": ({"kind": "number", "missing": -2}, None),
    "vector": ({"kind": "number", "dim": 2}, None),
    "binary": ({"kind": "label"}, None),
    "real": ({"kind": "label", "of": "real"}, None),
}
TEXTS = st.one_of(
    st.text("0123456789+-.eExX_ nainf|\t\u00a0\u0663\x1cé", max_size=8),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(repr),
    st.lists(st.integers(0, 60).map(str), max_size=4).map("|".join),
)


def flat(column: Any) -> list[Any]:
    values = column.ids if isinstance(column, Bags) else column
    return [None if np.isnan(v) else v for v in values.reshape(-1).tolist()]


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS)
@example(text="9223372036854775807")
@example(text="9223372036854775808")
@example(text=" 7 ")
@example(text="")
@example(text="|")
def test_a_text_is_the_same_at_once_and_alone(kind: str, text: str) -> None:
    written, rows = KINDS[kind]
    cells = Cells("f", Feature.model_validate(written), rows, 3)
    try:
        alone = cells.join([cells.one(text)])
    except ValueError as error:
        assert cells.bulk(pa.array([text])) is None, f"{text!r} is taken at once, though alone it {error}"
        return
    at_once = cells.bulk(pa.array([text]))
    if at_once is None:  # what is taken alone need not be taken at once
        return
    if written["kind"] in ("id", "ids"):
        assert flat(at_once) == flat(alone)
    else:
        assert flat(at_once) == pytest.approx(flat(alone), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@given(
    values=st.one_of(
        st.lists(st.integers(-(2**63), 2**63 - 1) | st.none(), min_size=1, max_size=3),
        st.lists(st.floats() | st.none(), min_size=1, max_size=3),
        st.lists(st.booleans(), min_size=1, max_size=3),
        st.lists(st.lists(st.integers(0, 60), max_size=3) | st.none(), min_size=1, max_size=3),
        st.lists(st.lists(st.floats(), max_size=3), min_size=1, max_size=3),
    )
)
def test_values_of_other_types_are_the_same_at_once_and_alone(kind: str, values: list[Any]) -> None:
    written, rows = KINDS[kind]
    cells, array = Cells("f", Feature.model_validate(written), rows, 3), pa.array(values)
    at_once = cells.bulk(array)
    try:
        alone = cells.join([cells.one(value) for value in array.to_pylist()])
    except ValueError as error:
        assert at_once is None, f"{values!r} are taken at once, though alone one {error}"
        return
    if at_once is not None:
        assert flat(at_once) == pytest.approx(flat(alone), rel=1e-6)
        if isinstance(at_once, Bags) and isinstance(alone, Bags):
            assert at_once.starts.tolist() == alone.starts.tolist()
