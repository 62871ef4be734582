"""The same training samples in other files: for more or fewer workers, or fewer samples."""

from pathlib import Path


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


def _cut(file: Path, pieces: list[Path]) -> None:
    parts: list[list[bytes]] = [[] for _ in pieces]
    numbers: dict[bytes, int] = {}  # users in order of appearance, dealt out in turn
    for line in file.read_bytes().splitlines(keepends=True):
        user = line.partition(b",")[0]
        parts[numbers.setdefault(user, len(numbers)) % len(parts)].append(line)
    for path, lines in zip(pieces, parts, strict=True):
        path.write_bytes(b"".join(lines))
