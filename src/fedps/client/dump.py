"""What a job asks to see of training, in the original's text form: samples with their scores, parameters batch by batch.

A file `epoch_<E>/part-<worker>-<thread>` holds for each sample of a batch a line `<TAB>name:length:value…` (before the
first TAB stands a sample's own id in the original; there is none here), then for each parameter asked for a line
`(thread,batch,name)v1,v2,…` with its values after that batch. A sparse table gives the rows this client holds, in order
of their ids.

What is private. A dump is text in the clear that is made to be passed around, so it holds nothing that the job keeps on
the client: no private table or layer, and no ids of a column that private tables look up (user ids, if the user table is
private). Such names are left out, which is said in the log, unless whoever starts the client allows them
(`--allow-private-dump`); a job file cannot. Item ids are dumped where item rows are shared, since the servers see them
anyway, and labels and scores, which name nobody without a user id; numbers of a sample are never sent, and so are private. But samples stay in the order of training, and all of
them are this client's: where a client is a single person, a dump is that person's history, to be kept like the data.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, TextIO

import numpy as np
from numpy.typing import NDArray

from fedps.config import Allow, Job
from fedps.config.sections.features import labels
from fedps.data.samples import ClientData, Order
from fedps.errors import DataError, JobError
from fedps.training.learner import Learner
from fedps.types import Bags, Column, Values, taken

BUFFER = 1 << 20  # bytes written to disk at once
FILE = os.O_WRONLY | os.O_CREAT
COLUMNS = {"user": "user", "user_input": "user", "item": "item", "item_input": "item"}  # name → column of ids
SCORES = re.compile(r"score|prediction|sigmoid[\w.]*")  # the original names its last output sigmoid_0.tmp_0 or the like
Texts = Callable[[Order, Values], list[str]]  # a field of each sample, given a batch's samples and their scores
Current = Callable[[], Values]  # a parameter as it is now, any shape


def open_dump(
    job: Job, number: int, learner: Learner, run_dir: Path, allow: Allow, log: TextIO | None = None
) -> "Dump | None":
    """Make ready to dump what a job asks for; None if that is nothing.

    Args:
        job: its `need_dump`, `dump_fields`, `dump_param` and `dump_fields_path` count.
        number: of the worker.
        learner: whose parameters are dumped, before it has trained.
        run_dir: dumps lie in `dump/` there, unless the job says where.
        allow: whether private names may be dumped.
        log: takes one line that names what is left out; standard error if None.

    Raises:
        JobError: a name that is none; says which there are.
        DataError: the folder cannot be written.
    """
    runner = job.runner
    if not runner.need_dump:
        return None
    _check_names(job, learner)
    shown, current = allow.private_dump, _parameters(learner)
    real = {name: str(learner.parameters.real_name(name)) for name in runner.dump_param}
    private = {*learner.private, *learner.parameters.private_dense}
    fields = {
        name: _field(name, job, learner.data)
        for name in runner.dump_fields
        if shown or not _is_private_field(name, job, learner)
    }
    param = {name: current[own] for name, own in real.items() if shown or own not in private}
    if out := [n for n in (*runner.dump_fields, *runner.dump_param) if n not in fields and n not in param]:
        note = f"dump: {', '.join(out)} left out: private to this client; --allow-private-dump writes it"
        print(note, file=log or sys.stderr)
    if not fields and not param:
        return None
    return Dump(runner.dump_fields_path or run_dir / "dump", number, fields, param)


class Dump:
    """Writes one worker's batches, a file an epoch, readable by its owner only.

    Args:
        folder: gets `epoch_<E>/`.
        number: of the worker.
        fields: how to read each field of a batch's samples, by the name it is dumped under.
        param: how to read each parameter.

    Raises:
        DataError: the folder cannot be written.
    """

    def __init__(self, folder: Path, number: int, fields: Mapping[str, Texts], param: Mapping[str, Current]) -> None:
        self._folder, self._number, self._fields, self._param = folder, number, fields, param
        self._file: IO[str] | None = None
        self._path = folder
        self._line = "".join(
            f"\t{name}:{'' if isinstance(field, _Several) else '1:'}%s" for name, field in fields.items()
        )
        self._line += "\n"
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".part-{number:03d}"
            probe.write_bytes(b"")
            probe.unlink()

    def begin(self, epoch: int, at: int = 0) -> None:
        """Start an epoch's file, counted from 0, or go on behind so many of its bytes; what else was there is replaced.

        Raises:
            DataError: it cannot be made.
        """
        self._path = self._folder / f"epoch_{epoch}" / f"part-{self._number:03d}-{0:05d}"
        with self._writing():
            self._path.parent.mkdir(exist_ok=True)
            descriptor = os.open(self._path, FILE | (0 if at else os.O_TRUNC), 0o600)
            self._file = os.fdopen(descriptor, "w", BUFFER, encoding="utf-8")
            if at:
                self._file.truncate(at)
                self._file.seek(at)

    def size(self) -> int:
        """Return how many bytes the epoch's file has, all of them written.

        Raises:
            DataError: as for `batch`.
        """
        with self._writing():
            if self._file is None:
                return 0
            self._file.flush()
            return self._file.tell()

    def batch(self, number: int, batch: Order, scores: Values) -> None:
        """Write one batch, after its step.

        Args:
            number: of the batch, from 1.
            batch: its samples, int32[B].
            scores: theirs, float32[B].

        Raises:
            DataError: the disk is full, or the file cannot be written.
        """
        file = self._file
        if file is None:
            return
        with self._writing():
            if self._fields:
                columns = [texts(batch, scores) for texts in self._fields.values()]
                file.write("".join(map(self._line.__mod__, zip(*columns, strict=True))))
            for name, current in self._param.items():
                file.write(f"(0,{number},{name}){_joined(current())}\n")

    def end(self) -> None:
        """Close the epoch's file.

        Raises:
            DataError: the disk is full, or the file cannot be written.
        """
        file, self._file = self._file, None
        with self._writing():
            if file is not None:
                file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Close the file and say what to do, if it cannot be written."""
        try:
            yield
        except OSError as error:
            file, self._file = self._file, None
            if file is not None:
                with suppress(OSError):
                    file.close()
            raise DataError(
                f"runner.dump_fields_path: {self._path}: cannot be written: {error.strerror or error}; free space, name"
                " another folder, or set need_dump to false"
            ) from error


def _parameters(learner: Learner) -> dict[str, Current]:
    """Return how to read each parameter, by the model's own names."""
    current: dict[str, Current] = {}
    for name, table in learner.tables.items():
        current[name] = lambda table=table: table.values  # type: ignore[misc]
    for flat in (learner.dense, learner.private_dense, learner.frozen_dense):
        for name, place in flat.places.items():
            current[name] = lambda flat=flat, place=place: flat.values[place]  # type: ignore[misc]
    return current


def _check_names(job: Job, learner: Learner) -> None:
    parts = learner.parameters
    fields = [*(job.features or [*COLUMNS, "label"]), "score", "prediction", "sigmoid…"]
    names = [*learner.tables, *parts.dense, *parts.private_dense]
    also = f" (or {', '.join(parts.aliases)})" if parts.aliases else ""
    wrong = [
        f"runner.dump_fields: {name!r}: there is no such field; there are {', '.join(fields)}"
        for name in job.runner.dump_fields
        if not _is_field(name, job)
    ] + [
        f"runner.dump_param: {name!r}: the model has no such parameter; there are {', '.join(names)}{also}"
        for name in job.runner.dump_param
        if parts.real_name(name) is None
    ]
    if wrong:
        raise JobError(wrong)


class _Several:
    """A field of any number of values: `count:value:value…`; `columns` returns them, given a batch and its scores."""

    def __init__(self, columns: Callable[[Order, Values], Column]) -> None:
        self._columns = columns

    def __call__(self, batch: Order, scores: Values) -> list[str]:
        """Return each sample's."""
        return _rows(self._columns(batch, scores))


def _is_field(name: str, job: Job) -> bool:
    return name in (job.features or (*COLUMNS, "label")) or SCORES.fullmatch(name) is not None


def _is_private_field(name: str, job: Job, learner: Learner) -> bool:
    if name in job.features and job.features[name].kind == "number":
        return True
    name = name if job.features else COLUMNS.get(name, name)
    return name in {f for e in learner.parameters.embeddings if e.private for f in e.features}


def _field(name: str, job: Job, data: ClientData) -> Texts:
    tasks, train = list(labels(job.inputs)), data.train
    name = name if job.features else COLUMNS.get(name, name)
    if name in tasks:
        at = ... if len(tasks) == 1 else tasks.index(name)
        if job.inputs[name].of == "binary":
            return lambda batch, _: data.train.label[batch, at].astype(int).tolist()
        return lambda batch, _: _texts(data.train.label[batch, at]).to_pylist()
    if name not in train.columns:
        return _Several(lambda _, scores: scores) if len(tasks) > 1 else lambda _, scores: _texts(scores).to_pylist()
    if isinstance(column := train.columns[name], Bags) or column.ndim > 1:
        return _Several(lambda batch, _: taken(data.train.columns[name], batch))
    if column.dtype.kind == "f":
        return lambda batch, _: _texts(data.train.columns[name][batch]).to_pylist()
    return lambda batch, _: data.train.ids(name)[batch].tolist()


def _rows(values: Column) -> list[str]:
    """Return each row of numbers as the original writes several: how many, and each."""
    if not isinstance(values, Bags):
        values = Bags(values.reshape(-1), np.arange(len(values) + 1) * values.shape[1])
    texts, starts = _texts(values.ids).to_pylist(), values.starts.tolist()
    return [":".join([str(b - a), *texts[a:b]]) for a, b in pairwise(starts)]


def _texts(values: NDArray[Any]) -> Any:
    """Return numbers as the shortest text that reads back the same."""
    import pyarrow as pa  # noqa: PLC0415  (slow to import, and few jobs dump)
    import pyarrow.compute as pc  # noqa: PLC0415

    return pc.cast(pa.array(values.reshape(-1)), pa.string())


def _joined(values: Values) -> str:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    texts = _texts(values)
    lists = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts)
    return str(pc.binary_join(lists, ",")[0])
