"""The words that all rooms share: ids, arrays, and what a table is.

Specs are frozen msgspec structs, so that one definition serves code, wire and disk. Arrays are plain numpy:
`Keys` are int64[U], sorted and unique; `Values` are float32, one row a key. A dense tensor counts as a single row without
keys; where only some of its floats are meant, two keys say which: the first one and the one behind the last.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum, auto
from functools import cached_property
from statistics import median
from typing import Any, Literal, NamedTuple, NewType, Protocol, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

ClientId = NewType("ClientId", str)  # the user's own name for an owner of data, e.g. "0" or "hospital-north"
TableName = str  # the model's own parameter name, e.g. "mlp_item.weight"

Keys = NDArray[np.int64]
Slots = NDArray[np.int32]  # places of a local table's rows
Values = NDArray[np.float32]
State = Mapping[str, Any]  # what something needs to go on from where it stands: arrays and plain data, by name

# A rule's place in this list is its number in compiled code: `table.kernels`, and the enum in `native/basics.hpp`.
RuleName = Literal[
    "add", "sgd", "adagrad", "row_adagrad", "lazy_adam", "shared_adam", "adam",
    "fed_momentum", "fed_adagrad", "fed_adam", "fed_yogi",
]  # fmt: skip
RULES: tuple[RuleName, ...] = get_args(RuleName)


class Identity(NamedTuple):
    """Who a certificate says somebody is; times in seconds since 1970."""

    role: str
    name: str
    serial: int
    begins: float
    expires: float

    def __str__(self) -> str:
        """Return role and name, as people say them."""
        return f"{self.role} {self.name}"


class Init(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a row starts: `constant` (a), `normal` (mean a, std b), `uniform` (from a to b) or `given`.

    Given rows are data: every client offers them to the servers before it pulls any, and a is their checksum, so that
    clients with other rows declare another table.
    """

    kind: Literal["constant", "normal", "uniform", "given"] = "constant"
    a: float = 0.0
    b: float = 0.0


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a pushed value changes a row, with its constants.

    `add` ignores all constants (row += value), and the `fed_` rules take the value for a change that clients made, too;
    the others take it for a gradient.
    """

    name: RuleName = "add"
    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    initial_g2: float = 3.0  # row_adagrad only: g0 of the original's SparseAdaGradSGDRule
    weight_decay: float = 0.0  # this share of the rows pushed to is added to their gradients (L2)


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, repr_omit_defaults=True):
    """What keeps a table's rows few where ids are many and come and go; the defaults bound nothing.

    A push is what counts as the use of a row: pulls are made ahead, and to evaluate.

    Args:
        admit_after: pushes of an id until it has a row: the last of them makes it and is applied, those before are not.
        expire_after: epochs without a push after which a row leaves; 0: none does.
        max_rows: rows of the whole table, over all servers; the least used make room for new ones. 0: as many as come.
    """

    admit_after: int = 1
    expire_after: int = 0
    max_rows: int = 0


class Counts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a server says of a sparse table's rows; all but `rows`, `waiting` and `bytes` are counted from its start.

    Args:
        rows: there are now.
        made: were made, again after they had left too.
        admitted: of those, had to wait for enough pushes.
        waiting: ids whose pushes are counted now.
        expired: left because nobody pushed them for so many epochs.
        evicted: left to make room for others.
        bytes: memory of the table.
    """

    rows: int = 0
    made: int = 0
    admitted: int = 0
    waiting: int = 0
    expired: int = 0
    evicted: int = 0
    bytes: int = 0


GONE = 255  # the age of a saved row that has left since the save before
MOST_BOUNDS = Bounds(admit_after=255, expire_after=250, max_rows=1 << 40)
MAX_FLOATS = 1 << 26  # of one row, or of one dense tensor: 256 MiB


class TableSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True, repr_omit_defaults=True):
    """What one table is, as a worker declares it and a server keeps it.

    Args:
        name: the model's parameter name.
        kind: `sparse` (rows by id, made when first asked for) or `dense` (one tensor, whole on one shard).
        shape: sparse (rows, dim) where ids run over [0, rows), or (0, dim): any int64 is an id (see `open`); dense the
            tensor's own shape.
        rule: what a push does.
        init: start of a sparse row (a dense tensor starts from the values that the first worker seeds).
        seed: the job's seed; with the name and the id it fixes a row's start on any shard, in any order.
        frozen: it stays as it starts: nothing is pushed to it.
        bounds: how few rows of a sparse table stay in memory.
    """

    name: TableName
    kind: Literal["sparse", "dense"]
    shape: tuple[int, ...]
    rule: Rule = Rule()
    init: Init = Init()
    seed: int = 0
    frozen: bool = False
    bounds: Bounds = Bounds()

    @cached_property
    def open(self) -> bool:
        """Whether a sparse table's ids are not counted: any int64 is one, negative ones too."""
        return self.kind == "sparse" and self.shape[0] == 0

    @cached_property
    def bounded(self) -> bool:
        """Whether rows wait to be made, or leave."""
        return self.bounds != Bounds()

    @cached_property  # asked for many times a message
    def dim(self) -> int:
        """Floats of one row; a dense tensor counts as a single row of all its elements."""
        return self.shape[1] if self.kind == "sparse" else math.prod(self.shape)

    def span(self, keys: Keys) -> tuple[int, int]:
        """Return which floats of a dense tensor keys name: `[first, end)`, or all of it where there are none."""
        return (int(keys[0]), int(keys[1])) if len(keys) else (0, self.dim)


class ClientInfoAttr(StrEnum):
    """What the original's selectors ask a client's report for: `clients_info[client][ClientInfoAttr.BANDWIDTH]`."""

    DEVICE_TYPE = auto()
    COMPUTE_CAPACITY = auto()
    BANDWIDTH = auto()


class Ranked:
    """What sums over held-out samples say of users who were ranked; `sums` are by name, as `figures.sums_of` lists them."""

    sums: Mapping[str, int | float]

    @property
    def users(self) -> int:
        """How many users were ranked among their candidates."""
        return int(self.sums.get("users", 0))

    @property
    def hits(self) -> float:
        """Users whose positive is among the first 10 of their candidates; a tie counts in part."""
        return self.sums.get("hr@10", 0.0)

    @property
    def ndcg(self) -> float:
        """The sum of their NDCG at 10."""
        return self.sums.get("ndcg@10", 0.0)


class ClientInfo(Ranked, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client reports of itself and of its last round: its claims, measured by itself.

    The list is closed: the coordinator learns nothing else of a client, but its score histograms and, where the job
    distills, its logits of public pairs.

    Args:
        device_type: system and processor, e.g. "Linux x86_64".
        compute_capacity: samples a second in its last training; 0 before the first.
        bandwidth: bytes a second of its last pull of all shared rows; 0 before the first.
        samples: samples it holds.
        trained: samples it trained in the last round; 0 if it sat out.
        seconds: how long that took.
        loss: mean loss of that training; None if it sat out.
        auc: AUC of that training; None if it sat out.
        sums: over its held-out samples, by name, as `figures.sums_of` lists them; empty if it was not evaluated.
        available: whether it can train in the coming round; one that cannot is not offered to the selector.
        dropped: it was picked for the last round and dropped out of it.
    """

    device_type: str = ""
    compute_capacity: float = 0.0
    bandwidth: float = 0.0
    samples: int = 0
    trained: int = 0
    seconds: float = 0.0
    loss: float | None = None
    auc: float | None = None
    sums: dict[str, int | float] = {}
    available: bool = True
    dropped: bool = False

    def __getitem__(self, name: str) -> Any:
        """Return a field by its name. Raises KeyError: there is none."""
        if name not in (*self.__struct_fields__, "users", "hits", "ndcg"):
            raise KeyError(name)
        return getattr(self, name)


class Bags(NamedTuple):
    """Any number of ids, or of places, a sample: those of sample k are `ids[starts[k] : starts[k + 1]]`.

    Attributes:
        ids: integers, int64[m]; places of rows are int32[m].
        starts: int64[n + 1], from 0 to m.
    """

    ids: NDArray[Any]
    starts: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence["Bags"]) -> "Bags":
        """Return bags end to end."""
        counts = [np.diff(part.starts) for part in parts]
        starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        return cls(np.concatenate([part.ids[part.starts[0] : part.starts[-1]] for part in parts]), starts)

    def at(self, places: NDArray[np.integer[Any]]) -> "Bags":
        """Return the bags at some places."""
        counts = np.diff(self.starts)[places]
        starts = np.concatenate([[0], np.cumsum(counts)])
        within = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
        return Bags(self.ids[np.repeat(self.starts[places], counts) + within], starts)

    def last(self, most: int) -> "Bags":
        """Return of each bag the last so many ids, of a smaller one all."""
        counts = np.diff(self.starts)
        ends = np.repeat(self.starts[1:], counts)
        kept = np.minimum(counts, most)
        ids = self.ids[self.starts[0] : self.starts[-1]]
        return Bags(
            ids[ends - np.arange(self.starts[0], self.starts[-1]) <= most], np.concatenate([[0], np.cumsum(kept)])
        )

    def padded(self, width: int | None = None, pad: int = -1) -> NDArray[Any]:
        """Lay bags out as the rows of a matrix.

        Args:
            width: its columns, no fewer than the longest bag has ids; None: so many, at least one.
            pad: stands behind the ids of a shorter bag.

        Returns:
            integers[n, width], of the ids' type.
        """
        counts = np.diff(self.starts)
        width = max(1, int(counts.max(initial=0))) if width is None else width
        padded = np.full((len(counts), width), pad, self.ids.dtype)
        padded[np.arange(width) < counts[:, None]] = self.ids[self.starts[0] : self.starts[-1]]
        return padded


NO_BAGS = Bags(np.empty(0, np.int64), np.zeros(1, np.int64))
Column = NDArray[Any] | Bags  # of one feature: ids int64[n] (from a cache int32), bags, numbers float32[n] or [n, d]
Places = slice | NDArray[np.integer[Any]] | NDArray[np.bool_]


@dataclass(frozen=True, eq=False, slots=True)
class Samples:
    """Samples by feature, with their labels.

    Attributes:
        columns: what each feature is, n entries each.
        label: float32[n], or [n, tasks]: 0 or 1, a probability where others taught it, NaN where nobody knows; or, of a
            real label, any number.
    """

    columns: Mapping[str, Column]
    label: Values

    @classmethod
    def pairs(cls, user: Keys, item: Keys, label: Values) -> "Samples":
        """Return pairs of a user and an item: integers[n] each, and float32[n]."""
        return cls({"user": user, "item": item}, label)

    @property
    def user(self) -> Keys:
        """Whose each sample is, int64[n] (from a cache: int32)."""
        return self.ids("user")

    @property
    def item(self) -> Keys:
        """What each sample is about, int64[n] (from a cache: int32)."""
        return self.ids("item")

    def ids(self, feature: str) -> Keys:
        """Return the ids of a feature that has one a sample."""
        column = self.columns[feature]
        assert not isinstance(column, Bags)  # noqa: S101  (the features say so)
        return column

    @classmethod
    def joined(cls, parts: Sequence["Samples"]) -> "Samples":
        """Return samples of the same features end to end; there must be some part."""
        if len(parts) == 1:
            return parts[0]
        columns = {name: joined([part.columns[name] for part in parts]) for name in parts[0].columns}
        return cls(columns, np.concatenate([part.label for part in parts]))

    def at(self, places: Places) -> "Samples":
        """Return the samples at some places; those of a slice share these arrays where they can."""
        return Samples({name: taken(column, places) for name, column in self.columns.items()}, self.label[places])


def joined(parts: Sequence[Column]) -> Column:
    """Return columns of one feature end to end."""
    bags = [part for part in parts if isinstance(part, Bags)]
    return Bags.joined(bags) if bags else np.concatenate([part for part in parts if not isinstance(part, Bags)])


def ids_of(column: Column) -> NDArray[Any]:
    """Return all ids of a column of ids, or of bags of them, end to end."""
    return column.ids if isinstance(column, Bags) else column


def taken(column: Column, places: Places) -> Column:
    """Return the entries of a column at some places."""
    if not isinstance(column, Bags):
        return column[places]
    return column.at(np.arange(len(column.starts) - 1)[places])


CLAIM_LIMIT = 16  # medians of what all clients claim, samples or weights, that one client's claim counts as at most


def bounded(claims: Sequence[float]) -> list[float]:
    """Cut each claim to `CLAIM_LIMIT` medians of all: no client can buy a mean with a number."""
    most = CLAIM_LIMIT * median(claims) if claims else 0.0
    return [min(claim, most) for claim in claims]


class Rows(NamedTuple):
    """Some of a table: keys int64[U], sorted and unique, and values float32[U, dim] (dense: no keys, float32[1, dim])."""

    keys: Keys
    values: Values


NO_KEYS: Keys = np.empty(0, np.int64)
NO_KEYS.flags.writeable = False
NO_SAMPLES = Samples.pairs(NO_KEYS, NO_KEYS, np.empty(0, np.float32))


class Stateful(Protocol):
    """Something that another process can go on from."""

    def state(self) -> State:
        """Return what that takes."""

    def restore(self, state: State) -> None:
        """Go on from what `state` returned."""


def under(parts: Mapping[str, State]) -> State:
    """Return several states as one: `part/name` for each name of each part."""
    return {f"{part}/{name}": value for part, state in parts.items() for name, value in state.items()}


def within(state: State, part: str) -> State:
    """Return what `under` has put under a part."""
    return {name.removeprefix(f"{part}/"): value for name, value in state.items() if name.startswith(f"{part}/")}
