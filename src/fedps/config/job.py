"""The job as a tree of frozen models: every key, its type, its default and one line on what it means.

Keys and sections are the original's (`runner`, `hyper_parameters`), so that its job files read naturally.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Seconds = Annotated[float, Field(gt=0)]
RULES = ("adam", "lazy_adam", "sgd", "adagrad", "row_adagrad", "shared_adam")


def _word(value: Any) -> Any:
    """Explain YAML's habit of reading off, no and yes as booleans where a word is due."""
    if isinstance(value, bool):
        raise ValueError("put the word in quotes: YAML reads off, no, on and yes as true or false")
    return value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else _word(value)


Word = Annotated[str, BeforeValidator(_word)]


class Section(BaseModel):
    """A section of the job file: unknown keys are mistakes, values do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Optimizer(Section):
    """How gradients change parameters, on clients and on servers alike."""

    name: Annotated[
        Literal["adam", "lazy_adam", "sgd", "adagrad", "row_adagrad", "shared_adam"], BeforeValidator(_lower)
    ] = Field("adam", alias="class", description="adam is torch.optim.Adam of the whole table, computed lazily")
    learning_rate: float = Field(0.001, gt=0, description="step size")
    beta1: float = Field(0.9, ge=0, lt=1, description="Adam: decay of the mean gradient")
    beta2: float = Field(0.999, ge=0, lt=1, description="Adam: decay of the mean squared gradient")
    epsilon: float = Field(1e-8, gt=0, description="added to the denominator")

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)


class HyperParameters(BaseModel):
    """The model and its optimizer. With `runner.model`, further keys are passed to the user's class by name."""

    model_config = ConfigDict(frozen=True, extra="allow")

    optimizer: Optimizer = Field(Optimizer(), description="see Optimizer")
    num_users: int = Field(6040, ge=1, description="user ids run from 0 to this, exclusive")
    num_items: int = Field(3706, ge=1, description="item ids run from 0 to this, exclusive")
    mf_dim: int = Field(8, ge=1, description="floats of a row of the matrix factorization tables")
    mode: Literal["NCF_MLP", "NCF_GMF", "NCF_NeuMF"] = Field("NCF_MLP", description="the built-in network")
    fc_layers: tuple[int, ...] = Field((64, 32, 16, 8), min_length=2, description="sizes of the MLP, input first")


class Runner(Section):
    """What is run: mode, data, length, and who waits how long."""

    sync_mode: Annotated[Literal["geo", "sync", "async", "round"], BeforeValidator(_word)] = Field(
        "geo", description="when clients and servers exchange values"
    )
    geo_step: int = Field(100, ge=1, description="geo: batches of a window")
    geo_merge: Annotated[Literal["original", "mean", "sum", "heat", "adaptive"], BeforeValidator(_word)] = Field(
        "adaptive", description="geo: how the clients' changes of a window combine"
    )
    geo_overlap: bool = Field(True, description="geo: train window k+1 while window k is merged")
    row_average: Annotated[Literal["participants", "touched"], BeforeValidator(_word)] = Field(
        "participants", description="round: average a row over all clients, or over those that changed it"
    )
    model: Word | None = Field(None, description='a network of your own, "module.Class" beside the job file')
    train_data_dir: Path = Field(description="folder with one <client>.csv each, lines user,item,label")
    test_data_dir: Path | None = Field(
        None, description="folder of held-out samples, per user 1 positive + 99 negatives"
    )
    train_batch_size: int = Field(512, ge=1, description="samples of a batch")
    infer_batch_size: int = Field(8192, ge=1, description="samples scored at once")
    epochs: int = Field(2, ge=1, description="passes over each client's data")
    print_interval: int = Field(50, ge=1, description="batches between two lines of a worker's log")
    eval_every: int = Field(1, ge=0, description="epochs between two evaluations; 0: only at the end")
    seed: int = Field(0, ge=0, description="starts, shuffles and draws follow from it")
    shuffle: bool = Field(True, description="a new sample order each epoch")
    worker_num: int | None = Field(None, ge=1, description="clients; left out: one per data file")
    server_num: int = Field(1, ge=1, le=256, description="servers, each with a part of every table")
    local_sparse: tuple[Word, ...] = Field((), description="embeddings that never leave the client")
    remote_sparse: tuple[Word, ...] = Field((), description="embeddings on the servers (all that are not local)")
    local_dense: tuple[Word, ...] = Field((), description="other parameters that never leave the client")
    start_timeout: Seconds = Field(120.0, description="seconds to wait for a role to come up")
    step_timeout: Seconds = Field(60.0, description="seconds after which a silent client is left behind")
    reconnect_timeout: Seconds = Field(10.0, description="seconds a lost connection may take to come back")


class LimitSettings(Section):
    """What one peer may ask for."""

    message_mib: int = Field(64, ge=1, le=1024, description="MiB of one message")


class Job(Section):
    """A whole job, resolved: paths are absolute, defaults filled in."""

    name: Word = Field(description="the job file's name without its ending")
    folder: Path = Field(description="the job file's own folder, where class paths are looked up")
    runner: Runner = Field(description="what is run")
    hyper_parameters: HyperParameters = Field(default_factory=HyperParameters, description="model and optimizer")
    limits: LimitSettings = Field(LimitSettings(), description="what one peer may ask for")

    def save(self, path: Path) -> None:
        """Write the resolved job as YAML; `load_job` reads it back the same."""
        tree = self.model_dump(mode="json", by_alias=True)
        path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
