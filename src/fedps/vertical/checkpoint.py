"""What a party keeps on its own disk of a stage: checkpoints from which all go on together, and the model that is best so far.

Checkpoints are of steps on which all agree, where nothing is under way: the ends of epochs, and every `checkpoint_every` steps
of one. No party is ever more than one of them ahead of another, so that with the last two there is always one that all
have. Each says of which training it is (`run`), and of which samples, common ids and what the party knows of them: those of
others do not count, and go when this one first saves.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedps.config.shared import first_difference
from fedps.config.vertical import VerticalJob, shared_part
from fedps.errors import DataError, JobError
from fedps.storage import snapshot
from fedps.storage.claims import Claim
from fedps.storage.whole import CLOSED, make_folder
from fedps.types import State

KEPT = 2
ENDINGS = ("json", "safetensors")  # records first, so that there is never one without its arrays


class Saved(NamedTuple):
    """What a party keeps at a step.

    Attributes:
        run: of which training it is.
        step: batches that were trained before.
        over: whether the stage ends here.
        state: what it goes on from.
    """

    run: str
    step: int
    over: bool
    state: State


class Checkpoints:
    """A party's checkpoints of one stage.

    Args:
        job: the job.
        party: whose.
        folder: the party's own.
        stage: its name.
        claim: of this process, to be the newest of the party: an older one writes nothing more.
        digest: of the common samples, and of what this party knows of them.

    Attributes:
        run: the training that the newest is of; empty if there is none.
        steps: of which there is one of that training.

    Raises:
        DataError: the folder cannot be made.
        JobError: they are of another job.
    """

    def __init__(
        self, job: VerticalJob, party: str, folder: Path, stage: str, claim: Claim, digest: str = ""
    ) -> None:  # fmt: skip
        self._folder, self._model = folder / "checkpoint", folder / "model"
        self._stage, self._claim, self._digest = stage, claim, digest
        self._facts = {"party": party, "job": job.name, "shared": shared_part(job)}
        _make(self._folder)
        _make(self._model)
        there = {step: facts for step in self._there() if (facts := self._facts_of(step)) is not None}
        runs = {step: facts["run"] for step, facts in there.items() if facts.get("digest") == digest}
        self.run = runs[max(runs, key=self._written_at)] if runs else ""
        self.steps = [step for step, run in runs.items() if run == self.run]
        if there and not runs:
            print(
                f"{self._folder}: stage {stage} begins anew: its checkpoints are of other samples than are here now",
                flush=True,
            )

    def load(self, step: int) -> Saved:
        """Read one; one that is torn is removed.

        Raises:
            DataError: it is torn, or not there.
        """
        stem = self._stem(step)
        if stem is None:
            raise DataError(f"{self._folder}: there is no checkpoint of step {step} of stage {self._stage}")
        try:
            arrays, facts = snapshot.load_arrays(self._folder, stem)
        except DataError:
            _remove(self._folder, stem)
            raise
        return Saved(facts["run"], facts["step"], facts["over"], arrays | facts["state"])

    def save(self, saved: Saved) -> None:
        """Write one; of the same training the last stay. What cannot be written is told, and those before stay.

        Raises:
            RefusedError: there is a newer process of this party.
        """
        try:
            self._save(saved)
        except DataError as error:
            print(f"a checkpoint is missing, the next is tried again: {error}", flush=True)

    def _save(self, saved: Saved) -> None:
        before = self._stem(saved.step)
        facts = self._facts | {"digest": self._digest, "run": saved.run, "step": saved.step, "over": saved.over}
        self._write(self._folder, self._name(saved.step), saved.state, facts)
        if before is not None:
            _remove(self._folder, before)
        if saved.run != self.run:
            self.run, self.steps = saved.run, []
        self.steps = [*(step for step in self.steps if step < saved.step), saved.step][-KEPT:]
        for step in self._there():
            if step not in self.steps and (stem := self._stem(step)) is not None:
                _remove(self._folder, stem)

    def save_model(self, model: "Model") -> None:
        """Write the party's part of the stage's model; the one before goes.

        Raises:
            DataError: it cannot be written; the one before stays.
            RefusedError: there is a newer process of this party.
        """
        before = snapshot.stems(self._model, self._stage)
        self._write(self._model, self._stage, model.state, {"run": model.run, "epoch": model.epoch})
        for stem in before:
            _remove(self._model, stem)

    def _write(self, folder: Path, name: str, state: State, facts: dict[str, Any]) -> None:
        arrays = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
        plain = {key: value for key, value in state.items() if key not in arrays}
        snapshot.save_arrays(folder, name, arrays, facts | {"state": plain}, last=self._claim.check)

    def _name(self, step: int) -> str:
        return f"{self._stage}-{step}"

    def _stem(self, step: int) -> str | None:
        return next(iter(snapshot.stems(self._folder, self._name(step))), None)

    def _written_at(self, step: int) -> int:
        return (self._folder / f"{self._stem(step)}.json").stat().st_mtime_ns

    def _there(self) -> list[int]:
        """Return the steps of which there are records."""
        names = {snapshot.numbered(file.stem)[0] for file in self._folder.glob(f"{self._stage}-*.json")}
        numbers = (name.removeprefix(f"{self._stage}-") for name in names)
        return sorted(int(number) for number in numbers if number.isdecimal())

    def _facts_of(self, step: int) -> dict[str, Any] | None:
        """Return what a record says, None if it is torn. Raises JobError: it is of another job."""
        try:
            facts: dict[str, Any] = snapshot.load_facts(self._folder, self._stem(step) or "")[0]
        except DataError as error:
            print(f"checkpoint {self._name(step)} is left out: {error}", flush=True)
            return None
        if any(facts.get(key) != own for key, own in self._facts.items()):
            differs = first_difference(self._facts["shared"], facts.get("shared", {}))  # type: ignore[arg-type]
            raise JobError(
                f"{self._folder / self._name(step)}: is a checkpoint of something else ({differs or 'its party or job'}): go on"
                f" with the job that wrote it, or move {self._folder} away to begin anew"
            )
        return facts


class Model(NamedTuple):
    """A party's part of a trained model.

    Attributes:
        run: of which training it is: parts of the same predict together.
        epoch: after which it was taken, from 0 on.
        state: of its network.
    """

    run: str
    epoch: int
    state: State


def claim_of(folder: Path, party: str) -> Claim:
    """Let this process be the newest of a party, whose folder is made if it is not there.

    Raises:
        DataError: the folder cannot be written.
    """
    try:
        make_folder(folder, CLOSED)
        return Claim(folder, f"party {party}", "start each party once")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror}; free space, or make it yours") from error


def load_model(folder: Path, stage: str) -> Model:
    """Read a party's part of a stage's model; `folder`: the party's own.

    Raises:
        DataError: there is none, or it is torn.
    """
    stem = next(iter(snapshot.stems(folder / "model", stage)), None)
    if stem is None:
        raise DataError(f"{folder / 'model'}: holds no model of stage {stage}: train one by `fedps vertical`")
    arrays, facts = snapshot.load_arrays(folder / "model", stem)
    return Model(facts["run"], facts["epoch"], arrays | facts["state"])


def stretches(begin: int, steps: int, every: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of an epoch between which checkpoints are taken, as first step and the one behind the last.

    Args:
        begin: the step of the epoch to begin with.
        steps: of an epoch.
        every: steps between two checkpoints; 0: the epoch's end alone.
    """
    while begin < steps:
        end = min(steps, (begin // every + 1) * every) if every else steps
        yield begin, end
        begin = end


def _make(folder: Path) -> None:
    try:
        make_folder(folder, CLOSED)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made: {error.strerror}; free space, or make it yours") from error


def _remove(folder: Path, stem: str) -> None:
    """Remove a save; what cannot be removed takes room, and does no harm."""
    for ending in ENDINGS:
        with suppress(OSError):
            (folder / f"{stem}.{ending}").unlink(missing_ok=True)
