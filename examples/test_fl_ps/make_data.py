"""Make lines in Criteo's form, label, 13 numbers, 26 categories, in a few files of a folder: synthetic, not Criteo's.

    python examples/test_fl_ps/make_data.py examples/test_fl_ps/train_data

Clicks follow from categories and numbers alike, so that two parties together predict them better than one alone.
"""

import sys
from pathlib import Path

import numpy as np

FILES, LINES, VALUES = 2, 4000, 40


def main(folder: Path) -> None:
    """Write the files."""
    rng = np.random.default_rng(0)
    worth = rng.normal(0, 1, (26, VALUES)) * (rng.random(26) < 0.3)[:, None]
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(FILES):
        categories = (VALUES * rng.random((LINES, 26)) ** 2).astype(int)
        numbers = np.round(rng.exponential([5, 60, 20, 10, 9000, 90, 20, 10, 90, 2, 2, 2, 10], (LINES, 13))).astype(int)
        score = worth[np.arange(26), categories].sum(1) + 0.2 * numbers[:, 0] - 0.02 * numbers[:, 1] - 0.5
        labels = (rng.random(LINES) < 1 / (1 + np.exp(-score))).astype(int)
        empty = rng.random((LINES, 13)) < 0.1
        with (folder / f"part-{part}").open("w", encoding="utf-8") as file:
            for label, row, gaps, ids in zip(labels, numbers, empty, categories, strict=True):
                cells = ["" if gap else str(number) for number, gap in zip(row, gaps, strict=True)]
                print(label, *cells, *(f"{k:x}{value:06x}" for k, value in enumerate(ids)), sep="\t", file=file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
