"""The messages, one frozen struct a verb. Arrays travel beside a message, in the order its docstring names.

A worker's connection to one shard: `Hello` → `Welcome`, `Join` → `Done`, then any of `Seed`, `Census`, `Pull`, `Push`,
`Alive`, `Barrier`, and `Leave` at the end. Every request carries a ticket (in the frame, see `frame`); its reply carries the
same ticket, and replies may come in another order than the requests: a `Pull` or a `Barrier` waits at the server
until what it waits for has happened. A request that cannot be served is answered by `Refused`.

Its connection to the coordinator: `Hello` → `Welcome`, then one `RoundReport` → `Assignment` a round; the answer waits
until the coordinator has decided.

A passive party's connection to the active one, in vertical training: `Hello` → `Welcome`; to find the common samples `Blind`
→ `Blinded` and `Double` → `Common`, in parts; of each stage `Begin` → `Begun`, then a `Cut` → `Gradient` for each batch that
is trained, `Cut` → `Done` for one that is scored, and `EndEpoch` → `Verdict`; `Leave` at the end. Each may be said again.
"""

from typing import Any, Literal

import msgspec

from fedps.types import ClientInfo, TableName, TableSpec
from fedps.wire.compress import Form

PROTOCOL = 13
Samples = Literal["train", "test"]


class Hello(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Who calls whom. `instance` is drawn anew by each process, so that a reconnect is told from a second caller.

    `number`: which of its client's processes this is: the one with the largest speaks for it, to whomever it comes in whatever
    order; of two with one number the one whose instance is larger.
    `shared`: what the job says where all roles of a run must agree, as `config.shared` has it.
    `version`: of the program of a party that speaks: where another speaks the same protocol, both tell of it.
    """

    job: str
    client: str
    instance: str
    number: int
    protocol: int = PROTOCOL
    to: Literal["server", "coordinator", "party"] = "server"
    shared: dict[str, str] = {}
    version: str = ""


class Welcome(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Answer to Hello. `clock`: the step or window now open, where a late joiner begins (coordinator: the round).

    `epoch`: the last that has ended here, 0 before the first: who was away goes on with the next. `version`: as of Hello.
    """

    shard: int
    shards: int
    clock: int
    epoch: int = 0
    version: str = ""


class Join(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """Declare this shard's tables and take part from `clock` on.

    `samples`: of a pass over the client's data, where the job has clients train in step; else 0.
    """

    tables: tuple[TableSpec, ...]
    clock: int
    samples: int = 0


class Seed(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """Offer the start of a dense tensor's floats, or of a given table's rows, from `first` on; of each the first stays.

    A large tensor is offered in pieces, in their order. Arrays: values float32[1, n]; of a table float32[n, dim], the n
    rows of this shard from row `first` on.
    """

    table: TableName
    first: int = 0


class Census(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Ask how many samples a member has on average; answered by Counted once all that are expected have joined, the same to all."""


class Counted(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Answer to Census: the mean of all members' samples, 0 if none said any."""

    mean: float


class Pull(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """Ask for rows as they are once step or window `after` has been applied (-1: now).

    `form`: how rows are to be answered; dense tensors are always answered as float32.
    Arrays: for each table its keys, int64[U] sorted unique. Of a dense tensor: none for all of it, or two: the first float
    that is wanted, and the one behind the last.
    """

    tables: tuple[TableName, ...]
    after: int = -1
    form: Literal["none", "fp16", "bf16"] = "none"


class Values(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """Answer to Pull. Arrays: for each table float32[U, dim] (dense: [1, n], the floats asked for).

    `clock`: the step, window or version that was open when these values were read.
    `edition`: any word; under the same clock and edition of a server whose clients go in step, all get the same values.
    `forms`: with one for each table, its values come as `compress` says instead.
    """

    tables: tuple[TableName, ...]
    forms: tuple[Form, ...] = ()
    clock: int = 0
    edition: str = ""


class Push(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """Send one step's gradient or one window's change; answered by Done when it is applied, and will stay so.

    `clock`: the step or window it is of; where the server buffers changes, that of the values it started from.
    `sequence` grows by one with each push of a client to a shard: a repeat is answered, not applied again.
    A large push travels as `parts` messages of one sequence; it counts only when all parts are in. It brings every table,
    and a table's keys follow those of the parts before.
    Arrays: for each table its keys int64[U] and its values float32[U, dim]; of a dense tensor keys as in a Pull, and those
    floats, float32[1, n].
    `forms`: with one for each table, its values come as `compress` says instead.
    `rate`: the share of their learning rates at which the tables take it, as a schedule on the client has it.
    """

    tables: tuple[TableName, ...]
    sequence: int
    clock: int
    weight: float = 1.0
    part: int = 0
    parts: int = 1
    forms: tuple[Form, ...] = ()
    rate: float = 1.0


class Alive(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Say that this client is at work on its next push or barrier, which may take it longer than others; answered by Done."""


class Figures(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an epoch came to for a client: samples trained, the sum of their loss, and sums over its held-out samples.

    `sums`: by name, as `figures.sums_of` lists them; empty if it was not evaluated.
    """

    samples: int = 0
    loss: float = 0.0
    sums: dict[str, int | float] = {}


class Barrier(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """Pause until every member is here; answered by Done. `epoch` counts finished epochs, from 1, and only grows.

    `stage` is `trained` (the model is whole and stands still; servers save it) or `evaluated` (go on).
    `figures`: where there is no coordinator to hear them, what server 0 adds up over all clients as they go on.
    """

    epoch: int
    stage: str
    figures: Figures | None = None


class Leave(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Take no further part; nobody waits for this client any more."""


class RoundReport(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Tell the coordinator how the last round went, and ask what to do in the next.

    `round` is the last round that was assigned to this client, 0 before the first.
    `logits`: whether logits of the round's public pairs come too.
    Arrays: the round's score histograms, int64[4096] each or none: positives and negatives in training, then in evaluation,
    there end to end where the job measures several AUCs; then float32[S], if there are logits; then, if there are
    `places`, what the servers gave this client, for E rows and tensors drawn by lot: where and when, int64[E] sorted,
    each `clock * len(places) + place`; tags, int64[E], the same for the same row of the same time; and digests of values,
    uint16[E].
    `places`: tables and servers that these are of.
    """

    round: int
    info: ClientInfo
    logits: bool = False
    places: tuple[tuple[TableName, int], ...] = ()


class Assignment(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """Answer to RoundReport: what to do in round `round`, counted from 1.

    `state`: JOIN (train), WAIT (sit out), FINISH (leave; nothing else counts then). `iterations`: batches to train, 0 for
    a pass over the client's data. `evaluate`: score the held-out samples afterwards. `learning_rate`, `batch_size` and
    `geo_step`: of this round's training; None takes the job's. `deadline`: seconds from this answer after which the others go on
    without this client; None: only the job's timeouts. `extra`: what a selector tells the client's own handlers.
    `targets_of`: the round whose public pairs soft targets come for, 0 for none. Arrays: then these, float32[S].
    `secret`: the same for all clients, by which they say what servers give them in this round; empty: they need not.
    """

    round: int
    state: Literal["JOIN", "WAIT", "FINISH"]
    iterations: int = 0
    evaluate: bool = True
    learning_rate: float | None = None
    batch_size: int | None = None
    deadline: float | None = None
    extra: dict[str, Any] = {}
    geo_step: int | None = None
    targets_of: int = 0
    secret: bytes = b""


class Blind(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Bring a part of one's blinded ids, and ask for that part of the other's. `what`: which samples' ids.

    Arrays: points int64[k, 4], 32 bytes each, shuffled. Parts after one's own last are asked for with none.
    """

    what: Samples
    part: int
    parts: int


class Blinded(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Answer to Blind: a part of the active party's blinded ids, of so many `parts`. Arrays: points int64[k, 4]."""

    part: int
    parts: int


class Double(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Bring a part of the active party's ids back, blinded a second time. Arrays: int64[k], in the order in which they came.

    Answered by that part of Common, once all passive parties have brought all of theirs.
    """

    what: Samples
    part: int
    parts: int


class Common(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Answer to Double: a part of the places, in the list that the passive party brought, of ids that all have.

    `digest`: of all of them, made of hashes of the ids: nobody can make it who does not have them.
    Arrays: int64[k], in any order; there are as many parts as of Double.
    """

    part: int
    parts: int
    digest: str


class Begin(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Say from which steps of a stage a party can go on; answered by Begun once all have said it.

    `run`: in which training these were saved, as Begun has named it; empty if there are none. `digest` and `samples`: of the
    list of common samples, which must be the same everywhere. `width`: floats that it will send of a sample.
    """

    stage: str
    run: str
    saved: tuple[int, ...]
    digest: str
    samples: int
    width: int


class Begun(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Answer to Begin: the step from which all go on, 0 for a start from the seed, and the name of this training.

    `stages`: all that parties train together, in their order.
    """

    step: int
    run: str
    stages: tuple[str, ...]


class Cut(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """Send what a party's bottom makes of a batch; answered by Gradient where it is trained, else by Done.

    `step`: batches of the stage that were trained before this one; of one that is scored, its place among those.
    Arrays: float32[B, width], as `compress` says of the form.
    """

    stage: str
    step: int
    kind: Literal["train", "test", "predict"] = "train"
    form: Form = "none"


class Gradient(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """Answer to Cut: the gradient of the batch's loss by what was sent. Arrays: those of a Cut."""

    step: int
    form: Form = "none"


class EndEpoch(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Say that all of an epoch is sent, held-out samples too; answered by Verdict. `epoch`: from 0 on."""

    stage: str
    epoch: int


class Verdict(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Answer to EndEpoch: whether this is the best state of the model so far, to be kept, and whether training goes on."""

    better: bool
    go_on: bool


class GiveUp(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Say that a party cannot go on, for people to read why; answered by Done. Nobody waits for it any more."""

    reason: str


class Done(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """It is done, and outlives the server: what it follows from is on disk there, unless the job says `durability: none`.

    `clock`: the step or window now open; `late`: the push came after its window was closed. `sequence`, of a Join: the
    client's last push that counts, from which its next process goes on.
    """

    clock: int = 0
    late: bool = False
    sequence: int = 0


class Refused(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """It was not done, and nothing changed. `kind` is a word of `KINDS`; `reason` is for people.

    `newest`: to a Hello that is superseded, the number of the process that speaks for the client.
    """

    kind: str
    reason: str
    newest: int = 0


KINDS = {
    "malformed": "bytes that are no message, or arrays that do not fit their message",
    "too_large": "over a stated limit",
    "order": "this may not be said now (Hello, then Join, then the rest)",
    "other_job": "a client of another job, of one that differs in a key, or of another protocol version",
    "identity": "a certificate that does not count, or is another's than who speaks; or its role does not say this",
    "busy": "too much of one peer, which must end",
    "superseded": "a newer process speaks for this client",
    "unknown_table": "no table of this name was declared here",
    "mismatch": "declared or sent with another shape, rule or seed than the table has",
    "bad_keys": "keys not sorted, not unique, out of range, or of another shard",
    "not_finite": "a NaN or an infinity among the values",
    "stale": "a sequence, clock or round that lies behind or too far ahead",
    "ended": "the active party cannot go on, or has ended: another party's fault or its own",
    "differs": "a server has given clients different values of what is the same for all",
    "no_space": "the server's disk is full, and what is not on disk does not count: ask again in a moment",
}

Request = Hello | Join | Seed | Census | Pull | Push | Alive | Barrier | Leave | RoundReport
Reply = Welcome | Counted | Values | Assignment | Done | Refused
PartyRequest = Hello | Alive | Blind | Double | Begin | Cut | EndEpoch | Leave | GiveUp
PartyReply = Welcome | Blinded | Common | Begun | Gradient | Verdict | Done | Refused
Message = Request | Reply | PartyRequest | PartyReply
