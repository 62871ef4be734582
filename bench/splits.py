"""The same training samples in other files: for more or fewer workers, fewer samples, or clients of unequal size."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def deal(train: Path, out: Path, workers: int) -> None:
    """Make one training file a worker: files are joined for fewer workers, cut by user for more.

    A user's samples stay in one file, as they belong to one client.

    Args:
        train: the folder of `<client>.csv` files.
        out: a folder to make.
        workers: how many files to make.
    """
    files = sorted(train.glob("*.csv"))
    out.mkdir()
    if workers <= len(files):
        for number in range(workers):
            with (out / f"{number}.csv").open("wb") as target:
                for file in files[number::workers]:
                    target.write(file.read_bytes())
        return
    each, more = divmod(workers, len(files))
    at = 0
    for number, file in enumerate(files):
        pieces = each + (number < more)
        _cut(file, [out / f"{at + k}.csv" for k in range(pieces)])
        at += pieces


def shorten(train: Path, out: Path, share: int) -> None:
    """Keep one sample in so many of every file.

    Args:
        train: the folder of `<client>.csv` files.
        out: a folder to make.
        share: keep one line in `share`.
    """
    out.mkdir()
    for file in sorted(train.glob("*.csv")):
        lines = file.read_bytes().splitlines(keepends=True)
        (out / file.name).write_bytes(b"".join(lines[::share]))


def spread(data: Path, out: Path, shares: NDArray[np.float64], rng: np.random.Generator) -> None:
    """Deal the users of prepared data out to other clients, named 0, 1, …, with all their samples.

    Args:
        data: prepared data.
        out: a folder to make, with `train` and `test`.
        shares: float64[C], each client's share of the users; every client gets one at least.
        rng: says which.
    """
    lines = {part: _by_user(data / part) for part in ("train", "test")}
    users = sorted(lines["train"])
    order = rng.permutation(len(users))
    cuts = (np.cumsum(shares)[:-1] * (len(users) - len(shares))).astype(int)
    parts = np.split(order[len(shares) :], cuts)  # beside the one that each client gets
    for part, of_user in lines.items():
        (out / part).mkdir(parents=True)
        for client, more in enumerate(parts):
            mine = [users[k] for k in (order[client], *more)]
            (out / part / f"{client}.csv").write_bytes(b"".join(of_user.get(user, b"") for user in mine))


def _by_user(folder: Path) -> dict[bytes, bytes]:
    """Return all lines of each user."""
    found: dict[bytes, list[bytes]] = {}
    for file in sorted(folder.glob("*.csv")):
        for line in file.read_bytes().splitlines(keepends=True):
            found.setdefault(line.partition(b",")[0], []).append(line)
    return {user: b"".join(lines) for user, lines in found.items()}


def _cut(file: Path, pieces: list[Path]) -> None:
    parts: list[list[bytes]] = [[] for _ in pieces]
    numbers: dict[bytes, int] = {}  # users in order of appearance, dealt out in turn
    for line in file.read_bytes().splitlines(keepends=True):
        user = line.partition(b",")[0]
        parts[numbers.setdefault(user, len(numbers)) % len(parts)].append(line)
    for path, lines in zip(pieces, parts, strict=True):
        path.write_bytes(b"".join(lines))
