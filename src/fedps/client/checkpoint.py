"""A client's checkpoints on its own disk: all that it needs to go on from a moment as if nothing had happened since.

They lie in `private/<client>/checkpoint/`, each whole or not at all (see `storage.snapshot`), and are called by their
moment: `3-0` is the end of epoch 3, `3-500` is 500 batches into the next. The last `KEPT` stay, and the last ends of epochs:
of these there is one that all clients have, however the others fall.

Of two processes of one client only the newer may write, also if the older one was frozen in the middle of a save and
wakes: each takes a number in that folder as it begins, and no file takes its name while there is a larger one.
"""

import re
import time
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TextIO, cast

import numpy as np

from fedps.config import Job
from fedps.config.shared import first_difference, lasting_part
from fedps.errors import DataError, JobError
from fedps.events.events import Report, Unsaved
from fedps.storage import snapshot
from fedps.storage.claims import Claim
from fedps.storage.whole import make_folder
from fedps.types import ClientId, State, Values, within

FORMAT = 1
SELDOM, SHARE = 5.0, 0.01  # seconds between two checkpoints at least, and of the time that writing them may take
KEPT = 3  # so that there is one moment of which all have one: who is slow may still write that before the newest
ENDINGS = ("json", "safetensors")  # records first, so that there is never one without its arrays
NEWEST = "newest"


class Moment(NamedTuple):
    """A moment of a job, as one client sees it; they are ordered as they come.

    Attributes:
        epoch: the last that has ended, 0 before the first.
        batch: batches of the next one that are trained; of clients that train in step a window counts as many for all, so
            that one moment has one name.
    """

    epoch: int
    batch: int = 0

    def __str__(self) -> str:
        """Return its name."""
        return f"{self.epoch}-{self.batch}"

    @staticmethod
    def named(text: str) -> "Moment | None":
        """Return the moment of a name, None if it is that of none."""
        numbers = re.fullmatch(r"([0-9]+)-([0-9]+)", text)
        return Moment(*map(int, numbers.groups())) if numbers else None


class Checkpoint(NamedTuple):
    """What is known of a client at one moment.

    Attributes:
        moment: which.
        sequence: of its last push.
        state: what it goes on from.
    """

    moment: Moment
    sequence: int
    state: State


def checkpoints_of(run_dir: Path, client: ClientId) -> dict[Moment, int]:
    """Return the moments that a client can go on from, in their order, each with the number of its last push by then.

    One whose record is torn is left out; whether its arrays are whole is seen when it is read.
    """
    folder, found = _folder_of(run_dir, client), dict[Moment, int]()
    for moment in _moments(folder):
        for stem in snapshot.stems(folder, str(moment))[:1]:  # none if it was removed meanwhile
            with suppress(DataError):
                facts, _ = snapshot.load_facts(folder, stem)
                found[moment] = cast(int, facts["sequence"])
    return found


def mark_of(labels: Values) -> list[int]:
    """Return how many labels a client trains by, and their checksum: what a checkpoint knows its data by.

    Features are not read through for it: there may be more of them than memory.
    """
    return [len(labels), zlib.crc32(np.ascontiguousarray(labels).data)]


def said_of_labels(then: list[int] | None, now: list[int]) -> str:
    """Say that data is not what it was at a checkpoint, both by `mark_of`; nothing if it may be the same."""
    if not (then and now) or then == now:
        return ""
    return (
        f"its training data is not what it was ({then[0]:,} samples then, {now[0]:,} now): the run comes to other numbers than"
        " one that was never broken off"
    )


class Checkpoints:
    """One process's checkpoints of a client, and its claim to be the newest process.

    Args:
        job: the job.
        client: whose.
        run_dir: the run's folder.
        log: takes lines for people.
        report: is told of each that is missing.

    Raises:
        DataError: the folder cannot be written.
    """

    def __init__(
        self, job: Job, client: ClientId, run_dir: Path, log: TextIO, report: Report = lambda event: None
    ) -> None:
        self._job, self._client, self._log, self._report = job, client, log, report
        self._folder = _folder_of(run_dir, client)
        self._writing: Future[None] | None = None  # the last that was begun, and
        self._last = Moment(0)  # of which moment
        self._since, self._took = time.monotonic(), 0.0  # when, and how long the last took that is written, seconds
        self._facts = {"format": FORMAT, "client": client, "job": job.name, "shared": lasting_part(job)}
        try:
            make_folder(self._folder)
            self._claim = Claim(self._folder, f"client {client!r}", "give each worker its own client")
            for part in self._folder.glob(".*.part"):  # of a process that died as it wrote, or that may not finish it
                part.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error

    @property
    def number(self) -> int:
        """Which of the client's processes this is; see `wire.messages.Hello`."""
        return self._claim.number

    def count_on(self, newest: int) -> None:
        """Take a number above one that others know of, though this is the newest process here: the folder is another than then.

        Raises:
            RefusedError: as for `check`.
            DataError: the folder cannot be written.
        """
        try:
            self._claim.count_on(newest)
        except OSError as error:
            raise self._unwritable(error) from error

    def check(self) -> None:
        """Make sure that this is the newest process of its client.

        Raises:
            RefusedError: it is not; it must end, and write nothing more.
        """
        self._claim.check()

    @property
    def due(self) -> bool:
        """Whether it is time for another."""
        return time.monotonic() - self._since >= max(SELDOM, self._took / SHARE)

    def save(self, moment: Moment, sequence: int, state: State) -> None:
        """Write a checkpoint, beside whatever follows; of those before it the last stay.

        Args:
            moment: at which the state is taken.
            sequence: of the client's last push.
            state: arrays, and what JSON has.

        Raises:
            RefusedError: as for `check`.
        """
        self.settle()
        self._since = time.monotonic()
        arrays = {name: value.copy() for name, value in state.items() if isinstance(value, np.ndarray)}
        plain = {name: value for name, value in state.items() if name not in arrays}
        facts = self._facts | {"epoch": moment.epoch, "batch": moment.batch, "sequence": sequence, "state": plain}
        beside = ThreadPoolExecutor(1, "fedps checkpoint")
        self._last, self._writing = moment, beside.submit(self._write, moment, arrays, facts)
        beside.shutdown(wait=False)  # the thread ends with its work

    def settle(self) -> None:
        """Wait until the last checkpoint is on disk; if it cannot be written, that is said, and earlier ones stay as they were.

        Raises:
            RefusedError: as for `check`.
        """
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        except DataError as error:
            print(f"a checkpoint is missing, the next is tried again: {error}", file=self._log, flush=True)
            self._report(Unsaved(self._last.epoch, str(error), "checkpoint"))

    def read(self, epoch: int, name: str = NEWEST) -> Checkpoint | None:
        """Return the checkpoint to go on from, None if there is none; one that is torn is told, and that before it used.

        Args:
            epoch: the last that has ended at the servers, who know of nothing behind it.
            name: of the checkpoint, behind which all are removed; by default it is the newest.

        Raises:
            DataError: the one that is named is not there, or torn.
            JobError: it is of another client, job or version of fedps.
        """
        there = _moments(self._folder)
        if name != NEWEST:
            named = next((moment for moment in there if str(moment) == name), None)
            if named is None:
                listed = ", ".join(map(str, there)) or "none"
                raise DataError(
                    f"{self._folder}: there is no checkpoint {name!r} but {listed}: resume from one of these"
                )
            _remove(self._folder, [moment for moment in there if moment > named])
            return self._load(named)
        for moment in reversed([moment for moment in there if moment.epoch <= epoch]):
            try:
                return self._load(moment)
            except DataError as error:
                print(f"checkpoint {moment} is left out: {error}", file=self._log, flush=True)
        return None

    def is_known(self, checkpoint: Checkpoint, pushes: int, name: str = NEWEST) -> bool:
        """Return whether servers, which know of so many pushes, know of all by a checkpoint; if not, that is told.

        Raises:
            JobError: they do not, and it is the one that was asked for by its name.
        """
        if checkpoint.sequence <= pushes:
            return True
        known = f"the servers know of {pushes} pushes of client {self._client}, not of {checkpoint.sequence}"
        if name != NEWEST:
            raise JobError(f"checkpoint {checkpoint.moment}: {known}: resume from an earlier one")
        print(f"checkpoint {checkpoint.moment} is left out: {known}", file=self._log, flush=True)
        return False

    def check_fits(self, checkpoint: Checkpoint, learner: State) -> None:
        """Make sure that a learner's values can be taken from a checkpoint; `learner`: its state as it is.

        Raises:
            JobError: they have other names, types or shapes.
        """
        there = within(checkpoint.state, "learner")
        for name in sorted(learner.keys() | there.keys()):
            ours, theirs = (_shape(state.get(name)) for state in (learner, there))
            if ours != theirs and not name.startswith("engine/"):
                raise JobError(
                    f"{self._folder / str(checkpoint.moment)}: {name} has shape {theirs}, and {ours} here: the network, or this"
                    f" client's data, is another than then; take those, or move {self._folder} away to begin anew"
                )

    def _write(self, moment: Moment, arrays: snapshot.Arrays, facts: Mapping[str, object]) -> None:
        began = time.monotonic()
        snapshot.save_arrays(self._folder, str(moment), arrays, facts, last=self.check)
        self._took = time.monotonic() - began
        there = _moments(self._folder)
        before = there[: there.index(moment) + 1]  # those behind it are of a future that did not come to be
        kept = before[-KEPT:] + [other for other in before if not other.batch][1 - KEPT :]
        _remove(self._folder, [other for other in there if other not in kept])

    def _unwritable(self, error: OSError) -> DataError:
        return DataError(f"{self._folder}: cannot be written: {error.strerror}; free space, or make it yours")

    def _load(self, moment: Moment) -> Checkpoint:
        stem = snapshot.stems(self._folder, str(moment))[0]
        arrays, facts = snapshot.load_arrays(self._folder, stem)
        ours, where = self._facts, self._folder / f"{stem}.json"
        differ = [f"{key} {facts.get(key)!r} there, {ours[key]!r} here" for key in ours if facts.get(key) != ours[key]]
        if differ:
            shared = facts.get("shared")
            job = first_difference(lasting_part(self._job), shared) if isinstance(shared, dict) else None
            raise JobError(
                f"{where}: is a checkpoint of something else ({job or differ[0]}): resume with the job, the client and the"
                f" version of fedps that wrote it, or move {self._folder} away to begin anew"
            )
        return Checkpoint(moment, facts["sequence"], arrays | facts["state"])


def _shape(value: object) -> tuple[int, ...] | None:
    return value.shape if isinstance(value, np.ndarray) else None


def _folder_of(run_dir: Path, client: ClientId) -> Path:
    return run_dir / "private" / client / "checkpoint"


def _moments(folder: Path) -> list[Moment]:
    """Return the moments of which there is a record, in their order."""
    stems = (snapshot.numbered(file.stem)[0] for file in folder.glob("*.json"))
    return sorted({moment for stem in stems if (moment := Moment.named(stem)) is not None})


def _remove(folder: Path, moments: Iterable[Moment]) -> None:
    """Remove checkpoints; what cannot be removed takes room, and does no harm."""
    for moment in moments:
        stems = snapshot.stems(folder, str(moment))
        for ending in ENDINGS:
            for stem in stems:
                with suppress(OSError):
                    (folder / f"{stem}.{ending}").unlink(missing_ok=True)
