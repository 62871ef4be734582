"""The ids that samples are matched by, as all parties write them.

A text is taken in Unicode's form NFC, without the blanks around it (`ids.blanks: strip`), and where `ids.case` is `fold` in
small letters. A whole number of Parquet is the text of its digits, and so is a number with a point that is whole: 1 and 1.0
of Parquet, and "1" of either kind of file, are one id, while the texts "01" and "1.0" are others. An id of several columns
is each one's text, its length before it, so that no two rows are alike that differ in a column.
"""

from collections.abc import Sequence
from pathlib import Path

from fedps.config.sections.vertical import Ids


def read_ids(files: Sequence[Path], columns: Sequence[str], ids: Ids) -> list[bytes]:
    """Return the id of each row, in the order of the files and of their rows.

    Args:
        files: of one party.
        columns: by which samples are matched, in this order.
        ids: how they are written.

    Raises:
        DataError: a file cannot be read, has no such column, or an id is empty, no id, or there twice; names file, row and
            column, and the id itself: it is for the eyes of who owns the file.
    """
    raise NotImplementedError


def form_of(found: Sequence[bytes]) -> str:
    """Say how some ids look, e.g. "ids here look like 17, 18: whole numbers"; for the eyes of who owns them."""
    raise NotImplementedError
