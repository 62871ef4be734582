"""The job as a tree of frozen models: its sections, and every key with its type, its default and one line on what it means.

Keys and sections are the original's (`runner`, `hyper_parameters`), so that its job files read naturally.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer
from pydantic.fields import FieldInfo

from fedps.config.sections import Count, Section, Word
from fedps.config.sections.features import Feature, classic, labels, with_label
from fedps.config.sections.rounds import Distillation, SelectorSettings, Simulation
from fedps.config.sections.runner import Runner
from fedps.config.sections.security import Security
from fedps.config.sections.training import OF_NETWORKS, HyperParameters, ServerOptimizer, TableParameters
from fedps.config.sections.vertical import Ids, Party, Protection, Vertical
from fedps.config.source import dump
from fedps.figures import read_metric


class Allow(NamedTuple):
    """What a job may ask for and only a flag at the command line can grant."""

    commands: bool = False  # --allow-commands: run `runner.pipe_command`
    private_dump: bool = False  # --allow-private-dump: write what is private to a client into its dumps


class LimitSettings(Section):
    """What one peer may ask for."""

    message_mib: Annotated[Count, Field(le=1024)] = Field(
        64, description="MiB of one message; all dense tensors of a server may have 6 times as many"
    )
    rows_mib: Count | None = Field(
        None,
        description="MiB of new rows that one client's pulls, and its pushes, may make on a server; left out: half of the memory"
        " that is free at its start",
    )
    line_kib: Count = Field(
        128,
        description="KiB a second that each client's line carries at the least: deadlines grow by the time that what it sends"
        " and is sent takes then",
    )


class Job(Section):
    """A whole job, resolved: paths are absolute, defaults filled in."""

    name: Word = Field(description="the job file's name without its ending")
    folder: Path = Field(description="the job file's own folder, where class paths are looked up")
    runner: Runner = Field(description="what is run")
    hyper_parameters: HyperParameters = Field(default_factory=HyperParameters, description="model and optimizer")
    features: dict[str, Feature] = Field(
        {},
        description="what a sample is made of: {name: {kind: …}}; left out: as manifest.json beside the data says, else user, item, label",
    )
    table_parameters: dict[str, TableParameters] = Field(
        {}, description="what single embeddings have of their own: {name: {optimizer: {class: …}, max_rows: …, …}}"
    )
    server_optimizer: ServerOptimizer = Field(
        ServerOptimizer(), description="how servers apply what the clients' changes were merged to"
    )
    selector: SelectorSettings = Field(SelectorSettings(), description="how clients are selected")
    simulation: Simulation = Field(Simulation(), description="simulated devices, to judge selectors by")
    distillation: Distillation = Field(Distillation(), description="predictions shared in place of weights")
    limits: LimitSettings = Field(LimitSettings(), description="what one peer may ask for")
    security: Security = Field(Security(), description="how connections to other machines are protected")
    _notes: tuple[str, ...] = ()

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    @property
    def inputs(self) -> dict[str, Feature]:
        """What a sample is made of, labels included; lines user,item,label where nothing else is said."""
        if not self.features:
            return classic(self.hyper_parameters.num_users, self.hyper_parameters.num_items)
        return with_label(self.features)

    @property
    def tasks(self) -> dict[str, bool]:
        """The labels in their order, and whether each is real: any number, not 0 or 1; one alone has no name."""
        found = {name: label.of == "real" for name, label in labels(self.inputs).items()}
        return found if len(found) > 1 else dict(zip([""], found.values(), strict=False))

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is measured of held-out samples: each metric of `runner.metrics`, of each label where there are several."""
        found = []
        for task in self.tasks:
            own = [name for name in self.runner.metrics if "/" not in name or name.startswith(f"{task}/")]
            found += [name if "/" in name or not task else f"{task}/{name}" for name in own]
        return tuple(found)

    @property
    def ranks_all(self) -> bool:
        """Whether some metric ranks all items, not candidates alone."""
        return any(read_metric(name).full for name in self.metrics)

    @property
    def group(self) -> int:
        """How many samples stay together in a batch: those whose scores the loss compares, and that follow each other."""
        loss = self.hyper_parameters.loss
        return 2 if loss == "bpr" else 1 + (self.runner.negatives or 0) if loss == "sampled_softmax" else 1

    @property
    def traces(self) -> Path | None:
        """The file of simulated devices, its path counted from the job's folder; None: nothing is simulated."""
        path = self.simulation.traces
        return None if path is None else self.folder / path.expanduser()

    @property
    def public_data(self) -> Path | None:
        """The file of public samples, its path counted from the job's folder; None: nothing is distilled."""
        path = self.distillation.public_data
        return None if path is None else self.folder / path.expanduser()

    @property
    def compares_tables(self) -> bool:
        """Whether the coordinator compares what servers give the clients."""
        runner, wished = self.runner, self.security.same_table
        return runner.with_coordinator and runner.versioned and runner.worker_num != 1 and wished is not False

    @property
    def notes(self) -> tuple[str, ...]:
        """What reading the file had to say of the original's keys; not saved with the job."""
        return self._notes

    def noting(self, notes: Sequence[str]) -> "Job":
        """Return the same job with what reading it had to say."""
        job = self.model_copy()
        job._notes = tuple(notes)
        return job

    def keeping_nothing(self) -> "Job":
        """Return the same job for processes that end all at once: nothing is written for one that would go on."""
        return self.model_copy(update={"runner": self.runner.model_copy(update={"durability": "none"})})

    @model_serializer(mode="wrap")
    def _said(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what a network of one's own may choose itself: keys of the built-in ones that nobody gave."""
        tree: dict[str, Any] = dump(self)
        if self.runner.model is not None:
            for key in OF_NETWORKS.difference(self.hyper_parameters.model_fields_set):
                tree["hyper_parameters"].pop(key, None)
        return tree

    def save(self, path: Path) -> None:
        """Write the resolved job as YAML; `load_job` reads it back the same.

        Raises:
            OSError: the file cannot be written.
        """
        from fedps.storage.whole import PUBLIC, write_whole  # noqa: PLC0415  (who only looks at a job writes none)

        write_whole(path, dump(self.model_dump(mode="json", by_alias=True)).encode(), PUBLIC)


class VerticalJob(Section):
    """A job of vertical training as one party, or `fedps vertical run`, has it: paths are absolute, defaults filled in."""

    name: Word = Field(description="the job file's name without its ending")
    folder: Path = Field(description="the job file's own folder, where class paths are looked up")
    vertical: Vertical = Field(description="what all parties agree on")
    hyper_parameters: HyperParameters = Field(
        default_factory=HyperParameters, description="sizes of the network, and its optimizer; all parties the same"
    )
    ids: Ids = Field(Ids(), description="how ids are written; all parties the same")
    protection: Protection = Field(Protection(), description="what hides labels and features; all parties the same")
    parties: dict[str, Party] = Field(
        description="what each party has: {name: {data: …, features: …}}; a party's file has its own alone"
    )
    limits: LimitSettings = Field(LimitSettings(), description="what one peer may ask for")
    security: Security = Field(Security(), description="how connections to other machines are protected")

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    @property
    def order(self) -> tuple[str, ...]:
        """All parties, the active one first, then the passive ones as the job has them."""
        return (self.vertical.active, *self.vertical.passive)

    def save(self, path: Path) -> None:
        """Write the resolved job as YAML, for its owner's eyes; `load_vertical` reads it back the same.

        Raises:
            OSError: the file cannot be written.
        """
        from fedps.storage.whole import PRIVATE, write_whole  # noqa: PLC0415  (who only looks at a job writes none)

        write_whole(path, dump(self.model_dump(mode="json", by_alias=True)).encode(), PRIVATE)


def fields(model: type[BaseModel] = Job, above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every key of a job file, dotted and as it is written there, with its field; a section before its keys."""
    for name, field in model.model_fields.items():
        key = above + (field.alias or name)
        yield key, field
        if below := section(field):
            yield from fields(below, f"{key}.")


def section(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a field that is a section, else None."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def choices(field: FieldInfo) -> tuple[str, ...]:
    """Return the words a field, or an entry of it, may hold; none if it is not limited to some."""
    kinds = [field.annotation]
    for kind in kinds:  # the words alone, the words or nothing, or a list of them
        if get_origin(kind) is Literal:
            return get_args(kind)
        kinds += get_args(kind)
    return ()
