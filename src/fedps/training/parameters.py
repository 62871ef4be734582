"""What a model is made of, from a federation's point of view: which parameter lives where.

Every `nn.Embedding` that is looked up by features is a *sparse* table; all other parameters are *dense*.
`local_sparse` and `local_dense` of the job name what never leaves the client. The original's names are accepted beside
a parameter's own: `embedding_0.w_0` (the k-th embedding in order of creation), `linear_0.w_0` and `linear_0.b_0` (weight
and bias of the k-th linear layer).

With neither `local_sparse` nor `remote_sparse` given, the embeddings that features of the user's side look up are private. All else
that no list names goes to the servers, unless the lists show that it may have been forgotten. Then nothing is guessed:
the job is refused. That is so for an embedding that `remote_sparse`, once it names any, leaves out of both lists; and
for one that shares its id space with a private one (of two user tables, one listed and one not).
"""

import difflib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from fedps.config import Job, TableParameters
from fedps.config.checks.rounds import shared_by_mistake
from fedps.config.sections.features import of_user
from fedps.errors import JobError
from fedps.models.network import EmbeddingLayer, Network
from fedps.training.rules import table_rule
from fedps.types import Bounds, Init, TableSpec


@dataclass(frozen=True)
class Embedding:
    """One sparse parameter: its spec, the features that look it up, their id space, and whether it is private."""

    spec: TableSpec
    module: str
    features: tuple[str, ...]
    space: str
    private: bool


@dataclass(frozen=True)
class Parameters:
    """All parameters of a model, sorted by where they live.

    Attributes:
        embeddings: the sparse ones, in the model's order.
        dense: names of the shared dense tensors, in the model's order.
        private_dense: names of those that stay on the client.
        aliases: the original's name → the model's own, for all that have one.
    """

    embeddings: tuple[Embedding, ...]
    dense: tuple[str, ...]
    private_dense: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def real_name(self, name: str) -> str | None:
        """Return the model's own name of a parameter that may be named as in the original; None if there is none."""
        own = [*(e.spec.name for e in self.embeddings), *self.dense, *self.private_dense]
        return name if name in own else self.aliases.get(name)


def read_parameters(network: Network, job: Job) -> Parameters:
    """Sort a network's parameters by where they live.

    Raises:
        JobError: a name in `local_sparse`, `remote_sparse` or `local_dense` matches nothing of its kind or comes
            twice, an embedding may have been forgotten, or one is also another parameter (all such at once).
    """
    runner, tables = job.runner, job.table_parameters
    columns = {e.name: e.space for e in network.embeddings}
    others = [name for name, _ in network.dense]
    sparse = {name: name for name in columns} | {a: own for a, own in network.aliases.items() if own in columns}
    dense = {name: name for name in others} | {a: own for a, own in network.aliases.items() if own in others}
    mistakes = list(network.faults)
    local = _resolve("runner.local_sparse", runner.local_sparse or (), sparse, dense, mistakes)
    remote = _resolve("runner.remote_sparse", runner.remote_sparse, sparse, dense, mistakes)
    local_dense = _resolve("runner.local_dense", runner.local_dense, dense, sparse, mistakes)
    own_settings = _resolve("table_parameters", list(tables), sparse, dense, mistakes)
    if runner.users_stay:
        users = {name for name, feature in job.inputs.items() if of_user(name, feature)}
        local = {e.name: e.name for e in network.embeddings if users.issuperset(e.features)}
        mistakes += _computed_of_users(network, users, local_dense)
    mistakes = mistakes or _placed_twice(local, remote, columns) + _forgotten(local, remote, columns)
    mistakes = mistakes or _unbounded(job, own_settings, {*local, *network.frozen})
    mistakes = mistakes or shared_by_mistake(
        job, [n for n in columns if n not in local], [n for n in others if n not in local_dense]
    )
    if mistakes:
        raise JobError(mistakes)

    def sparse_of(embedding: EmbeddingLayer) -> Embedding:
        name = embedding.name
        table = tables[own_settings[name]] if name in own_settings else TableParameters()
        rule = table_rule(job, table.optimizer, private=name in local)
        edge, frozen = table.initial_range, name in network.frozen
        init = embedding.init if edge is None else Init("uniform", -edge, edge)
        bounds = Bounds() if name in local else table.bounds
        spec = TableSpec(name, "sparse", embedding.shape, rule, init, runner.seed, frozen, bounds)
        return Embedding(spec, embedding.module, embedding.features, embedding.space, name in local)

    shared = tuple(n for n in others if n not in local_dense)
    private = tuple(n for n in others if n in local_dense)
    return Parameters(tuple(map(sparse_of, network.embeddings)), shared, private, network.aliases)


def _computed_of_users(network: Network, users: Set[str], local_dense: Mapping[str, str]) -> list[str]:
    """Name what would be a private table, were it looked up by the user's features as they are, and by a module."""
    return [
        f"runner.local_dense: {name} is looked up by what the network computes from {', '.join(sorted(users & set(found)))},"
        " of the user's side, so it is no table that stays with the client by itself: add it here, let the feature itself look"
        " it up, as an nn.Embedding, or say in local_sparse and remote_sparse where each embedding lives"
        for name, found in network.computed.items()
        if users & set(found) and name not in local_dense
    ]


def _unbounded(job: Job, own_settings: Mapping[str, str], kept: Set[str]) -> list[str]:
    """Say which tables are bounded where nobody could: private rows are those of a client's own data, frozen ones stay."""
    return [
        f"table_parameters.{key}: {', '.join(Bounds.__struct_fields__)} bound rows that servers train, and {name} is"
        " private or frozen; leave them out"
        for name, key in own_settings.items()
        if name in kept and job.table_parameters[key].bounds != Bounds()
    ]


def _resolve(
    key: str, names: Sequence[str], there: Mapping[str, str], elsewhere: Mapping[str, str], mistakes: list[str]
) -> dict[str, str]:
    """Return the job's names by the parameter's own name; add a sentence for each that is none, or comes again.

    `there`: what may be written, and the own name it stands for; `elsewhere` the same of the other kind.
    """
    resolved: dict[str, str] = {}
    for name in names:
        own = there.get(name)
        if own is None:
            hint = _hint(key, name, there, elsewhere)
            mistakes.append(f"{key}: {name!r} matches no such parameter; {_listed(there)}{hint}")
        elif own in resolved:
            mistakes.append(f"{key}: {name!r} names {own} a second time; name each once; {_listed(there)}")
        else:
            resolved[own] = name
    return resolved


def _hint(key: str, name: str, there: Mapping[str, str], elsewhere: Mapping[str, str]) -> str:
    if name in elsewhere and key == "runner.local_dense":
        return "; it is an embedding, to be kept by local_sparse"
    if name in elsewhere:
        return "; it is trained as a dense tensor" + (", to be kept by local_dense" if key.startswith("runner") else "")
    folded = {n.casefold(): n for n in there}
    near = difflib.get_close_matches(name.strip().casefold(), folded, n=1)
    return f"; did you mean {folded[near[0]]!r}?" if near else ""


def _listed(there: Mapping[str, str]) -> str:
    """Tell the names there are, and what else may be written for them."""
    own = [name for name, stands_for in there.items() if name == stands_for]
    alias = [name for name, stands_for in there.items() if name != stands_for]
    return f"the model has {', '.join(own) or 'none'}" + (f" (or {', '.join(alias)})" if alias else "")


def _placed_twice(local: Mapping[str, str], remote: Mapping[str, str], columns: Mapping[str, str]) -> list[str]:
    return [
        f"runner.local_sparse: {local[name]!r} is in remote_sparse too, as {remote[name]!r}; keep it in one of them;"
        f" the model has {', '.join(columns)}"
        for name in local
        if name in remote
    ]


def _forgotten(local: Mapping[str, str], remote: Mapping[str, str], columns: Mapping[str, str]) -> list[str]:
    """Find embeddings in neither list that the lists' author may have meant to keep."""
    guarded = {columns[name] for name in local}
    left = [n for n, column in columns.items() if n not in local and n not in remote and (remote or column in guarded)]
    return [
        f"runner.local_sparse: {list(local.values())}: {name}, an embedding of {columns[name]} ids, is neither here nor"
        " in remote_sparse; add it here to keep it on the client, or there to share it; the model has"
        f" {', '.join(columns)}"
        for name in left
    ]
