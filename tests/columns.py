"""Samples of a user, an item and a label, as their three columns."""

from typing import Any

from numpy.typing import NDArray

from fedps.types import Samples


def columns(samples: Samples) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return users, items and labels."""
    return samples.user, samples.item, samples.label
