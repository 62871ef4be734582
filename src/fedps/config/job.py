"""The job as a tree of frozen models: every key, its type, its default and one line on what it means.

Keys and sections are the original's (`runner`, `hyper_parameters`), so that its job files read naturally.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

from fedps.config.kinds import Count, Positive, Seconds, Section, Whole, Word, number, word, word_or_none
from fedps.config.merging import LOCKSTEP
from fedps.config.sections.distillation import Distillation
from fedps.config.sections.optimizer import Optimizer, TableOptimizer
from fedps.config.sections.selector import SelectorSettings
from fedps.config.sections.server_optimizer import ServerOptimizer
from fedps.config.source import dump
from fedps.storage.whole import PUBLIC, write_whole


class HyperParameters(BaseModel):
    """The model and its optimizer. With `runner.model`, further keys are passed to the user's class by name."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=(), ser_json_inf_nan="constants")

    optimizer: Optimizer = Field(Optimizer(), description="how gradients change parameters")
    num_users: Count = Field(6040, description="user ids run from 0 to this, exclusive")
    num_items: Count = Field(3706, description="item ids run from 0 to this, exclusive")
    mf_dim: Count = Field(8, description="floats of a row of the matrix factorization tables")
    mode: Annotated[Literal["NCF_MLP", "NCF_GMF", "NCF_NeuMF"], BeforeValidator(word)] = Field(
        "NCF_MLP", description="the built-in network"
    )
    fc_layers: tuple[Count, ...] = Field((64, 32, 16, 8), min_length=2, description="sizes of the MLP, input first")
    loss: Annotated[Literal["bce", "bpr"], BeforeValidator(word)] = Field(
        "bce", description="cross-entropy of each sample, or of pairs: a positive above a negative of its user"
    )


Metric = Literal["hr@10", "ndcg@10", "auc", "train_auc", "loss"]


class Target(Section):
    """When the coordinator ends the job before its last round."""

    metric: Annotated[Metric, BeforeValidator(word)] = Field(
        "hr@10", description="merged figure that is watched; loss and train_auc are of training"
    )
    value: Annotated[float, Field(allow_inf_nan=False), BeforeValidator(number)] | None = Field(
        None, description="end the job when the metric is this good; left out: never"
    )


class Runner(Section):
    """What is run: mode, data, length, and who waits how long."""

    sync_mode: Annotated[Literal["geo", "sync", "async", "round"], BeforeValidator(word)] = Field(
        "geo", description="when clients and servers exchange values"
    )
    geo_step: Count = Field(10, description="geo: batches of a window, as pace has it")
    pace: Annotated[Literal["together", "own"], BeforeValidator(word)] = Field(
        "together",
        description="sync, geo_merge heat and adaptive: together cuts each client's pass into equally many steps or windows,"
        " larger the more it has, so that all end it together; own: batches and windows of one size for all",
    )
    geo_merge: Annotated[Literal["original", "mean", "sum", "heat", "adaptive", "buffered"], BeforeValidator(word)] = (
        Field("adaptive", description="geo: how the clients' changes of a window combine")
    )
    buffer: Annotated[Count, Field(le=4096)] | None = Field(
        None, description="geo_merge buffered: pushes that are merged at a time; left out: half of the workers"
    )
    geo_overlap: Whole = Field(0, description="geo: batches of the next window to train while the last is merged")
    compression: Annotated[Literal["none", "fp16", "bf16", "int8", "topk", "low_rank"], BeforeValidator(word)] = Field(
        "none", description="how clients pack what they push, in fewer bytes"
    )
    compression_share: Annotated[Positive, Field(le=1)] = Field(
        0.1, description="topk: share of a push's rows that is sent, the largest; dense tensors are sent whole"
    )
    compression_rank: Count = Field(4, description="low_rank: rank of what is sent of a tensor or of a push's rows")
    compression_feedback: bool | None = Field(
        None,
        description="clients keep what packing lost for the next push of the same row; left out: topk, low_rank do",
    )
    pull_compression: Annotated[Literal["none", "fp16", "bf16"], BeforeValidator(word)] = Field(
        "none", description="how servers pack the rows that clients pull"
    )
    row_average: Annotated[Literal["participants", "touched"], BeforeValidator(word)] = Field(
        "participants", description="round: average a row over all clients, or over those that changed it"
    )
    model: Word | None = Field(None, description='a network of your own, "module.Class" beside the job file')
    train_data_dir: Path = Field(description="folder with one <client>.csv each, lines user,item,label")
    test_data_dir: Path | None = Field(
        None, description="folder of held-out samples, per user 1 positive + 99 negatives"
    )
    train_batch_size: Count = Field(512, description="samples of a batch; sync: as pace has it")
    infer_batch_size: Count = Field(8192, description="samples scored at once")
    epochs: Count = Field(2, description="passes over each client's data")
    print_interval: Count = Field(50, description="batches between two lines of a worker's log")
    eval_every: Whole = Field(1, description="epochs between two evaluations; 0: only at the end")
    eval_clients: Annotated[Literal["all", "joined"], BeforeValidator(word)] = Field(
        "all", description="coordinator: who scores its held-out samples after a round; after the last one, all do"
    )
    seed: Annotated[Whole, Field(lt=2**32)] = Field(0, description="starts, shuffles and draws follow from it")
    shuffle: bool = Field(True, description="a new sample order each epoch")
    negatives: Count | None = Field(
        None,
        description="draw so many negatives a positive anew each epoch; left out: the file's own, each time the same",
    )
    worker_num: Count | None = Field(None, description="clients; left out: one per data file")
    server_num: Annotated[Count, Field(le=256)] = Field(1, description="servers, each with a part of every table")
    local_sparse: tuple[Word, ...] = Field((), description="embeddings that never leave the client")
    remote_sparse: tuple[Word, ...] = Field((), description="embeddings on the servers (all that are not local)")
    local_dense: tuple[Word, ...] = Field((), description="other parameters that never leave the client")
    with_coordinator: bool = Field(
        False, description="a coordinator decides each round who trains; a round is an epoch"
    )
    client_selector: Word = Field(
        "all",
        description="who trains: all, random, round_robin, by_samples, power_of_choice, oort, fedcs,"
        ' or your own "module.Class"',
    )
    clients_per_round: Count | None = Field(
        None, description="clients that train in a round, with all selectors but all; left out: half"
    )
    round_iterations: Count | None = Field(
        None, description="coordinator: batches a client trains in a round; left out: a pass over its data"
    )
    target: Target = Field(Target(), description="coordinator: when the job ends before its last round")
    patience: Count | None = Field(
        None, description="coordinator: end after this many evaluated rounds without a better target.metric"
    )
    reader_type: Annotated[
        Literal["QueueDataset", "InmemoryDataset", "DataLoader", "RecDataset"] | None, BeforeValidator(word_or_none)
    ] = Field(None, description="how data is read; left out: the built-in reader of lines user,item,label")
    pipe_command: Word | None = Field(
        None, description="QueueDataset, InmemoryDataset: shell command, file in, MultiSlot text out; --allow-commands"
    )
    train_reader_path: Word | None = Field(
        None, description="DataLoader, RecDataset: module beside the job file with class Reader or RecDataset"
    )
    infer_reader_type: Annotated[
        Literal["QueueDataset", "InmemoryDataset", "DataLoader", "RecDataset"] | None, BeforeValidator(word_or_none)
    ] = Field(None, description="the same for held-out samples; left out: the built-in reader")
    infer_reader_path: Word | None = Field(None, description="the same module for held-out samples")
    thread_num: Count = Field(1, description="files, or parts of the client's data, read at the same time")
    split_file_list: bool = Field(
        False, description="deal the sorted files of train_data_dir out to worker_num clients in contiguous blocks"
    )
    bad_lines: Annotated[Literal["error", "skip"], BeforeValidator(word)] = Field(
        "error", description="a malformed line stops the run, or is skipped and counted"
    )
    example_count_method: Annotated[Literal["example", "word"], BeforeValidator(word)] = Field(
        "example", description="what the log counts of the data read: lines, or words between blanks"
    )
    dataset_debug: bool = Field(False, description="time reading and each part of a step, told in the worker's log")
    need_dump: bool = Field(False, description="write dump_fields and dump_param to dump_fields_path")
    dump_fields_path: Path | None = Field(None, description="folder of dumps; left out: dump/ in the run folder")
    dump_fields: tuple[Word, ...] = Field((), description="inputs and results to dump, a line a sample")
    dump_param: tuple[Word, ...] = Field((), description="parameters to dump, a line a batch")
    model_save_path: Path | None = Field(None, description="folder of saved epochs; left out: model/ in the run folder")
    save_mode: Annotated[Literal["all", "delta", "base"], BeforeValidator(word)] = Field(
        "all",
        description="all: rows with optimizer state; delta: those changed since the last save; base: values only",
    )
    warmup_model_path: Path | None = Field(None, description="folder of a saved epoch to start from")
    infer_load_path: Path | None = Field(None, description="infer: folder of saved epochs; left out: model_save_path")
    infer_start_epoch: Whole = Field(0, description="infer: first saved epoch")
    infer_end_epoch: Whole | None = Field(None, description="infer: the epoch before which to end; left out: all")
    compiled_step: bool = Field(True, description="compile the training step where that can be done; false: by torch")
    use_gpu: bool = Field(False, description="train by torch on CUDA")
    start_timeout: Seconds = Field(120.0, description="seconds to wait for a role to come up")
    step_timeout: Seconds = Field(
        60.0, description="seconds after which a silent client is left behind; a window must take less"
    )
    reconnect_timeout: Seconds = Field(10.0, description="seconds a lost connection may take to come back")

    def picked(self, clients: int) -> int:
        """Return how many of so many clients train in a round with a selector that picks."""
        return self.clients_per_round or (clients + 1) // 2

    def meets_after(self, epoch: int) -> bool:
        """Return whether all clients meet after an epoch, for servers to save it and clients to evaluate one model."""
        every = 1 if self.with_coordinator else self.eval_every
        return epoch == self.epochs or (every > 0 and epoch % every == 0)

    @property
    def lockstep(self) -> bool:
        """Whether clients wait for each other at every step or window."""
        return self.sync_mode == "sync" or (self.sync_mode == "geo" and self.geo_merge in LOCKSTEP)

    @property
    def in_step(self) -> bool:
        """Whether clients cut their passes into equally many steps or windows."""
        return self.lockstep and self.pace == "together" and self.worker_num != 1

    @property
    def buffered(self) -> int:
        """Pushes that geo `buffered` merges at a time."""
        return self.buffer or max((self.worker_num or 1) // 2, 1)


class TableParameters(Section):
    """What one embedding has of its own."""

    optimizer: TableOptimizer = Field(TableOptimizer(), description="how gradients change this table's rows")
    initial_range: Positive | None = Field(
        None, description="rows start uniform in ±this; left out: as the network says"
    )


class Simulation(Section):
    """Simulated devices: clients train for real, and report what it would have taken on devices of given traces."""

    traces: Path | None = Field(
        None, description="file of devices by client, made by `fedps data traces`; left out: nothing is simulated"
    )


class LimitSettings(Section):
    """What one peer may ask for."""

    message_mib: Annotated[Count, Field(le=1024)] = Field(64, description="MiB of one message")


class Job(Section):
    """A whole job, resolved: paths are absolute, defaults filled in."""

    name: Word = Field(description="the job file's name without its ending")
    folder: Path = Field(description="the job file's own folder, where class paths are looked up")
    runner: Runner = Field(description="what is run")
    hyper_parameters: HyperParameters = Field(default_factory=HyperParameters, description="model and optimizer")
    table_parameters: dict[str, TableParameters] = Field(
        {}, description="what single embeddings have of their own: {name: {optimizer: {class: …}, initial_range: …}}"
    )
    server_optimizer: ServerOptimizer = Field(
        ServerOptimizer(), description="how servers apply what the clients' changes were merged to"
    )
    selector: SelectorSettings = Field(SelectorSettings(), description="how clients are selected")
    simulation: Simulation = Field(Simulation(), description="simulated devices, to judge selectors by")
    distillation: Distillation = Field(Distillation(), description="predictions shared in place of weights")
    limits: LimitSettings = Field(LimitSettings(), description="what one peer may ask for")
    _notes: tuple[str, ...] = ()

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

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
    def notes(self) -> tuple[str, ...]:
        """What reading the file had to say of the original's keys; not saved with the job."""
        return self._notes

    def noting(self, notes: Sequence[str]) -> "Job":
        """Return the same job with what reading it had to say."""
        job = self.model_copy()
        job._notes = tuple(notes)
        return job

    def save(self, path: Path) -> None:
        """Write the resolved job as YAML; `load_job` reads it back the same.

        Raises:
            OSError: the file cannot be written.
        """
        write_whole(path, dump(self.model_dump(mode="json", by_alias=True)).encode(), PUBLIC)


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
    """Return the words a field may hold, none if it is not limited to some."""
    kinds = [field.annotation, *get_args(field.annotation)]  # the words alone, or the words or nothing
    return next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
