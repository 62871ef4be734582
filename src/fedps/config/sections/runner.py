"""How a job runs: mode, data, length, roles, and who waits how long for whom."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from fedps.config.sections import Count, Positive, Seconds, Section, Whole, Word, number, word, word_or_none
from fedps.figures import DEFAULT, read_metric

LOCKSTEP = ("heat", "adaptive")  # values of `geo_merge` by which a window's pushes are merged together
MERGED = (*LOCKSTEP, "buffered")  # by which several pushes become one change, that a server optimizer could take
AVERAGED = ("mean", *MERGED)  # by which a change counts for less, the more clients there are

Reader = Literal["QueueDataset", "InmemoryDataset", "DataLoader", "RecDataset"]


def metric(name: str) -> str:
    """Make sure that there is a metric of a name."""
    return read_metric(name).name


class Target(Section):
    """When the coordinator ends the job before its last round."""

    metric: Word = Field(
        "hr@10", description="merged metric that is watched: one of runner.metrics, or loss or train_auc, of training"
    )
    value: Annotated[float, Field(allow_inf_nan=False), BeforeValidator(number)] | None = Field(
        None, description="end the job when the metric is this good; left out: never"
    )


class Runner(Section):
    """What is run: mode, data, length, and who waits how long."""

    sync_mode: Annotated[Literal["geo", "sync", "async", "round"], BeforeValidator(word)] = Field(
        "geo", description="when clients and servers exchange values: after a window of batches, each batch, or a round"
    )
    geo_step: Count = Field(10, description="geo: local steps of a window, in batches; pace may scale them")
    pace: Annotated[Literal["together", "own"], BeforeValidator(word)] = Field(
        "together",
        description="sync, geo_merge heat and adaptive: together cuts each client's epoch into the same number of steps or"
        " windows, larger the more it has, so that all finish together; own: batches and windows of one size for all",
    )
    geo_merge: Annotated[Literal["original", "mean", "sum", "heat", "adaptive", "buffered"], BeforeValidator(word)] = (
        Field("adaptive", description="geo: how the clients' changes of a window are merged")
    )
    buffer: Annotated[Count, Field(le=4096)] | None = Field(
        None, description="geo_merge buffered: pushes that are merged at a time; left out: half of the workers"
    )
    geo_overlap: Whole = Field(0, description="geo: batches of the next window to train while the last is merged")
    compression: Annotated[Literal["none", "fp16", "bf16", "int8", "topk", "low_rank"], BeforeValidator(word)] = Field(
        "none", description="how clients compress what they push"
    )
    compression_share: Annotated[Positive, Field(le=1)] = Field(
        0.1, description="topk: share of a push's rows that is sent, the largest; dense tensors are sent whole"
    )
    compression_rank: Count = Field(4, description="low_rank: rank to which a tensor, or a push's rows, are cut")
    compression_feedback: bool | None = Field(
        None,
        description="error feedback: a push carries what compression took from the last; left out: topk, low_rank do",
    )
    pull_compression: Annotated[Literal["none", "fp16", "bf16"], BeforeValidator(word)] = Field(
        "none", description="precision of the rows that clients pull"
    )
    row_average: Annotated[Literal["participants", "touched"], BeforeValidator(word)] = Field(
        "participants", description="round: average a row over all clients, or over those that changed it"
    )
    optimizer_state: Annotated[Literal["reset", "keep"], BeforeValidator(word)] = Field(
        "reset",
        description="round: clients' moments of shared values start anew each round, or are kept, as short rounds need",
    )
    model: Word | None = Field(None, description='a network of your own, "module.Class" beside the job file')
    fl_client: Word | None = Field(None, description='a worker\'s life of your own, "module.Class" beside the job file')
    train_data_dir: Path = Field(description="folder with one <client>.csv each, lines user,item,label")
    test_data_dir: Path | None = Field(
        None, description="folder of held-out samples, per user 1 positive + 99 negatives"
    )
    train_batch_size: Count = Field(512, description="samples of a batch; sync: pace may scale them")
    infer_batch_size: Count = Field(8192, description="samples scored at once")
    metrics: tuple[Annotated[str, AfterValidator(metric), BeforeValidator(word)], ...] = Field(
        DEFAULT,
        description="of held-out samples: auc, gauc, logloss, calibration, rmse, mae; of candidates hr@10, ndcg@10, mrr@10,"
        " recall@10, any k; of all items full_hr@10, …",
    )
    epochs: Count = Field(2, description="passes over each client's data")
    print_interval: Count = Field(50, description="batches between two lines of a worker's log")
    eval_every: Whole = Field(1, description="epochs between two evaluations; 0: only at the end")
    save_every: Whole | None = Field(
        None, description="epochs between two saves; 0: only at the end; left out: as eval_every, with a coordinator 1"
    )
    durability: Annotated[Literal["group", "none"], BeforeValidator(word)] = Field(
        "group",
        description="group: servers write what they apply to a log, and answer a push once it is on disk, so that one that dies"
        " goes on where it was; none: its death ends the run",
    )
    checkpoint_every: Whole | None = Field(
        None,
        description="batches between two checkpoints of a client within an epoch, in whole windows; left out: some"
        " seconds, but with geo_overlap; 0: only at its end, as in mode round",
    )
    eval_clients: Annotated[Literal["all", "joined"], BeforeValidator(word)] = Field(
        "all", description="coordinator: who scores its held-out samples after a round; after the last one, all do"
    )
    seed: Annotated[Whole, Field(lt=2**32)] = Field(
        0, description="of all random draws: initial values, orders, negatives, …"
    )
    shuffle: bool = Field(True, description="draw a new sample order each epoch")
    negatives: Whole | None = Field(
        None,
        description="negatives sampled a positive, anew each epoch; left out: the file's own, or 4 where it has positives"
        " alone; 0: never",
    )
    worker_num: Count | None = Field(None, description="clients; left out: one per data file")
    server_num: Annotated[Count, Field(le=256)] = Field(1, description="servers, each with a shard of every table")
    local_sparse: tuple[Word, ...] | None = Field(
        None,
        description="private embeddings, which never leave the client; left out, with remote_sparse: those of users; []: none",
    )
    remote_sparse: tuple[Word, ...] = Field(
        (), description="shared embeddings, on the servers (all that are not local)"
    )
    local_dense: tuple[Word, ...] = Field((), description="other private parameters, which never leave the client")
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
        None, description="coordinator: a client's local steps in a round; left out: a pass over its data"
    )
    target: Target = Field(Target(), description="coordinator: when the job ends before its last round")
    patience: Count | None = Field(
        None, description="coordinator: end after this many evaluated rounds without a better target.metric"
    )
    reader_type: Annotated[Reader | None, BeforeValidator(word_or_none)] = Field(
        None, description="how data is read; left out: the built-in reader of lines user,item,label"
    )
    pipe_command: Word | None = Field(
        None, description="QueueDataset, InmemoryDataset: shell command, file in, MultiSlot text out; --allow-commands"
    )
    train_reader_path: Word | None = Field(
        None, description="DataLoader, RecDataset: module beside the job file with class Reader or RecDataset"
    )
    infer_reader_type: Annotated[Reader | None, BeforeValidator(word_or_none)] = Field(
        None, description="the same for held-out samples; left out: the built-in reader"
    )
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
    dataset_debug: bool = Field(
        False, description="time reading, steps and exchanges with servers, for the worker's log"
    )
    need_dump: bool = Field(False, description="write dump_fields and dump_param to dump_fields_path")
    dump_fields_path: Path | None = Field(None, description="folder of dumps; left out: dump/ in the run folder")
    dump_fields: tuple[Word, ...] = Field((), description="inputs and results to dump, a line a sample")
    dump_param: tuple[Word, ...] = Field((), description="parameters to dump, a line a batch")
    model_save_path: Path | None = Field(None, description="folder of saved epochs; left out: model/ in the run folder")
    model_readers: Annotated[Literal["owner", "group", "all"], BeforeValidator(word)] = Field(
        "owner",
        description="who on this machine may read saved epochs and exports; what is private is the owner's alone",
    )
    save_mode: Annotated[Literal["all", "delta", "base"], BeforeValidator(word)] = Field(
        "all",
        description="all: rows with optimizer state; delta: those changed since the last save; base: values only",
    )
    keep_epochs: Annotated[Count, Field(ge=2)] | None = Field(
        None, description="saved epochs of this run that stay, the newest; 2 at least; left out: all"
    )
    warmup_model_path: Path | None = Field(None, description="folder of a saved epoch to start from")
    infer_load_path: Path | None = Field(None, description="infer: folder of saved epochs; left out: model_save_path")
    infer_start_epoch: Whole = Field(0, description="infer: first saved epoch")
    infer_end_epoch: Whole | None = Field(None, description="infer: the epoch before which to end; left out: all")
    compiled_step: bool = Field(True, description="compile the training step where that can be done; false: by torch")
    use_gpu: bool = Field(False, description="train by torch on CUDA")
    restarts: Whole = Field(
        3, description="times that `fedps run` starts a role again that has died, later each time; 0: never"
    )
    start_timeout: Seconds = Field(120.0, description="seconds to wait for a role to come up")
    step_timeout: Seconds = Field(
        60.0,
        description="seconds after which a silent client is left behind; while it trains it is not silent, for up to 60 times"
        " as long",
    )
    quorum: Annotated[Positive, Field(le=1)] = Field(
        1.0,
        description="share of the clients that is enough: the others have step_timeout to follow, at work or not, and who is"
        " left behind is not waited for again before it has been in time",
    )
    reconnect_timeout: Seconds = Field(10.0, description="seconds a lost connection may take to come back")

    def picked(self, clients: int) -> int:
        """Return how many of so many clients train in a round with a selector that picks."""
        return self.clients_per_round or (clients + 1) // 2

    def evaluates_after(self, epoch: int) -> bool:
        """Return whether held-out samples are scored after an epoch."""
        return self._falls_due(epoch, self.eval_every)

    def saves_after(self, epoch: int) -> bool:
        """Return whether an epoch is saved."""
        every = 1 if self.with_coordinator else self.eval_every
        return self._falls_due(epoch, every if self.save_every is None else self.save_every)

    def _falls_due(self, epoch: int, every: int) -> bool:
        return epoch == self.epochs or (every > 0 and epoch % every == 0)

    @property
    def users_stay(self) -> bool:
        """Whether no list says where embeddings live: those that the user column looks up are private then."""
        return self.local_sparse is None and not self.remote_sparse

    @property
    def lockstep(self) -> bool:
        """Whether clients wait for each other at every step or window."""
        return self.sync_mode == "sync" or (self.sync_mode == "geo" and self.geo_merge in LOCKSTEP)

    @property
    def versioned(self) -> bool:
        """Whether what clients pull at one clock is one and the same: pushes are merged together, not each at once."""
        return self.lockstep or self.sync_mode == "round" or (self.sync_mode == "geo" and self.geo_merge in MERGED)

    @property
    def in_step(self) -> bool:
        """Whether clients cut their epochs into equally many steps or windows."""
        return self.lockstep and self.pace == "together" and self.worker_num != 1

    @property
    def buffered(self) -> int:
        """Pushes that geo `buffered` merges at a time."""
        return self.buffer or max((self.worker_num or 1) // 2, 1)
