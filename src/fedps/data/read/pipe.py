"""Read samples through a shell command: a file in, MultiSlot text out, as `multislot` writes it.

A line has the slots user, item and label, each of one whole number: `1 <user> 1 <item> 1 <label>`; where the job states
features, a slot for each of them, in the job's order, of any number of values. Text is read in bulk by Arrow; what it cannot
read is gone through line by line, and the first bad line is named.
"""

import io
from array import array
from contextlib import closing
from pathlib import Path
from threading import Event

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow

from fedps.config import Job
from fedps.data.read.command import Command, run
from fedps.data.read.intake import Intake, Taken
from fedps.data.read.reader import COLUMNS, LONGEST, UNNAMED, Skipped, in_range, mistake_in, samples_of
from fedps.errors import DataError
from fedps.types import Samples

FIELDS = [f"{part}_{column}" for column in COLUMNS for part in ("count", "value")]
HEADER = b"".join(b"1 %s " % name.encode() for name in UNNAMED).rstrip()  # of a file that the command took for a sample
FORM = "a line is `1 <user> 1 <item> 1 <label>`"


def read_pipe(
    path: Path, command: Command, num_users: int, num_items: int, skipped: Skipped | None = None,
    stop: Event | None = None,
) -> Samples:  # fmt: skip
    """Read the samples that a command makes of one file.

    Args:
        path: the file.
        command: what to run on it.
        num_users: user ids must lie in [0, num_users).
        num_items: item ids must lie in [0, num_items).
        skipped: counts malformed lines; None makes them errors.
        stop: kills the command, when set.

    Raises:
        DataError: the command fails, is silent, or prints what is no sample; names file, line and command.
    """
    text = _Text(f"{path}: pipe_command {command.text!r}", num_users, num_items, skipped)
    with closing(run(command, path, stop)) as blocks:  # an error here ends the command, too
        parts = [text.read(block) for block in blocks]
    parts = [part for part in parts if len(part.label)]
    if not parts:
        first = f"; all lines were skipped, the first: {skipped.first}" if skipped and skipped.lines else ""
        raise DataError(f"{text.where}: prints no sample; {FORM}{first}")
    return Samples.joined(parts)


def read_slots(
    path: Path, command: Command, job: Job, skipped: Skipped | None = None, stop: Event | None = None
) -> Taken:
    """Read what a command makes of one file, a slot for each of the job's features; arguments and errors as for `read_pipe`."""
    where, seen = f"{path}: pipe_command {command.text!r}", 0  # lines
    intake = Intake(job, where, skipped)
    with closing(run(command, path, stop)) as blocks:
        for block in blocks:
            rows, places = [], []
            lines = block.splitlines(keepends=True)
            for line, text in enumerate((each.decode("utf-8", "surrogateescape") for each in lines), seen + 1):
                try:
                    rows += [_cells(text, intake)] if text.strip() else []
                    places += [line] if text.strip() else []
                except ValueError as error:
                    intake.reject(f"{where}, line {line} of its output: {text[:80]!r}: {error}")
            intake.add_rows(rows, lambda k, places=places: f"{where}, line {places[k]} of its output")  # type: ignore[misc]
            seen += len(lines)
    return intake.finish()


def _cells(line: str, intake: Intake) -> list[str | list[str]]:
    """Return what a line has in the slot of each feature: a value, or a list of them.

    Raises:
        ValueError: it is no such line; says why.
    """
    words, at = line.split(), 0
    cells: list[str | list[str]] = []
    for name, kind in intake.cells.items():
        count = words[at] if at < len(words) else ""
        if not (count.isascii() and count.isdecimal()):
            why = f"begins with {count[:20]!r}, which is no count of values" if count else "is missing"
            raise ValueError(f"slot {name} {why}; a line is `<count> <value> …` for each of {', '.join(intake.cells)}")
        values = words[at + 1 : at + 1 + int(count)]
        if len(values) != int(count):
            raise ValueError(f"slot {name} has {len(values)} of {count} values")
        cells.append(values if kind.has_several or len(values) != 1 else values[0])
        at += 1 + len(values)
    if at < len(words):
        raise ValueError(f"goes on after the last slot, {name}, with {' '.join(words[at:])[:40]!r}")
    if not line.endswith("\n"):
        raise ValueError("has no line end: the output is cut off")
    return cells


class _Text:
    """Parses one command's output, block by block.

    Args:
        where: file and command, for messages.
        num_users, num_items, skipped: as for `read_pipe`.
    """

    def __init__(self, where: str, num_users: int, num_items: int, skipped: Skipped | None) -> None:
        self.where, self._line = where, 0
        self._limits, self._skipped = (num_users, num_items), skipped or Skipped(allowed=False)

    def read(self, block: bytes) -> Samples:
        """Return the samples of the next block, which holds whole lines; a header comes first of all, if there is one."""
        if self._line == 0 and block.lstrip().startswith(HEADER) and block.split(b"\n", 1)[0].split() == HEADER.split():
            self._line, block = 1, block.split(b"\n", 1)[1]
        samples = self._in_bulk(block)
        if samples is None:
            samples = self._line_by_line(block)
        self._line += block.count(b"\n")
        return samples

    def _in_bulk(self, block: bytes) -> Samples | None:
        """Return the samples of a block if all of it is as it should be, else None."""
        if not block.endswith(b"\n") or b"x" in block or b"X" in block:  # Arrow reads 0x10 as 16
            return None
        try:
            table = arrow.read_csv(
                io.BytesIO(block),
                read_options=arrow.ReadOptions(column_names=FIELDS, use_threads=False, block_size=len(block)),
                parse_options=arrow.ParseOptions(delimiter=" ", quote_char=False),
                convert_options=arrow.ConvertOptions(column_types=dict.fromkeys(FIELDS, pa.int64()), null_values=[]),
            )
        except pa.ArrowInvalid:
            return None
        fields = [table[name].to_numpy() for name in FIELDS]
        counts, (user, item, label) = fields[::2], fields[1::2]
        if not len(label) or any((c != 1).any() for c in counts) or not in_range(user, item, label, *self._limits):
            return None
        return Samples.pairs(user.copy(), item.copy(), label.astype(np.float32))  # Arrow's own memory is read-only

    def _line_by_line(self, block: bytes) -> Samples:
        good = array("q")
        for number, line in enumerate(block.splitlines(keepends=True), self._line + 1):
            values, mistake = self._values(line)
            if mistake is None:
                good.extend(map(int, values))
                continue
            self._skipped.add(f"{self.where}, line {number} of its output: {line[:80]!r}: {mistake}")
        self._skipped.check()
        return samples_of(good)

    def _values(self, line: bytes) -> tuple[list[str], str | None]:
        """Return a line's user, item and label, none for a blank line, and what is wrong with it."""
        if len(line) > LONGEST:
            return [], f"has {len(line)} characters; {FORM}"
        fields, values = line.decode("utf-8", "replace").split(), []
        for name in COLUMNS if fields else ():
            if not fields:
                return [], f"has no slot {name}; {FORM}"
            count = fields.pop(0)
            if count != "1":
                return [], _wrong_count(name, count)
            if not fields:
                return [], f"slot {name} has no value; {FORM}"
            values.append(fields.pop(0))
        if fields:
            return [], f"goes on after the three slots with {' '.join(fields)[:40]!r}; {FORM}"
        if not line.endswith(b"\n"):
            return [], "has no line end: the output is cut off"
        return values, mistake_in(values, *self._limits) if values else None


def _wrong_count(name: str, count: str) -> str:
    if count == "0":
        return f"slot {name} is empty; {FORM}"
    if count.isdecimal():
        return f"slot {name} has {count[:20]} values; {FORM}"
    return f"slot {name} begins with {count[:20]!r}, which is no count of values; {FORM}"
