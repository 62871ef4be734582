"""A tiny data set in the form of ML-1M: six users, each with 25 movies of their own, and movie 7, which all rate last."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.prepare.ratings import Prepare, preparing, write_ratings

MakeArchive = Callable[..., Path]
USERS = range(1, 7)
RATINGS = [f"{u}::{m}::4::{m}" for u in USERS for m in range(100 * u, 100 * u + 25)] + [
    f"{u}::7::5::900" for u in USERS
]
FILES = {
    "ratings.dat": "".join(f"{line}\n" for line in RATINGS),
    "users.dat": "".join(f"{u}::F::25::3::{u}0042\n" for u in USERS),
    "movies.dat": "7::Léon (1994)::Crime\n" + "".join(f"{100 * u}::First of {u}::Drama\n" for u in USERS),
}
FIRST = [25 * k for k in range(6)]  # the item of each user's first movie; movie 7 appears last, as item 150


def rating_text() -> str:
    """Test positives as published, by user each one's first movie."""
    return "".join(f"{u}\t{item}\t4\t{100 * (u + 1)}\n" for u, item in enumerate(FIRST))


def negative_text() -> str:
    """Test negatives as published: by user 99 items of the others'."""
    rows = [[i for i in range(150) if i // 25 != u][:99] for u in range(6)]
    return "".join(f"({u},{FIRST[u]})\t" + "\t".join(map(str, row)) + "\n" for u, row in enumerate(rows))


@pytest.fixture
def archive(tmp_path: Path) -> MakeArchive:
    """Return a function that zips the tiny set; `changes` replaces or, by None, leaves out files."""

    def make(changes: dict[str, str | bytes | None] | None = None, name: str = "tiny.zip") -> Path:
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as out:
            for file, text in {**FILES, **(changes or {})}.items():
                if text is not None:
                    out.writestr(f"ml-1m/{file}", text.encode("latin-1") if isinstance(text, str) else text)
        return tmp_path / name

    return make


@pytest.fixture
def files() -> dict[str, str]:
    """The texts of the tiny set and of its published test files."""
    return {**FILES, "test.rating": rating_text(), "test.negative": negative_text()}


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    """A file of ratings in a form of its own (see `ratings`)."""
    return write_ratings(tmp_path)


@pytest.fixture
def prepare(ratings: Path, tmp_path: Path) -> Prepare:
    """A function that prepares them into the folder `out`."""
    return preparing(ratings, tmp_path)
