"""R1b: a wrong name in the lists of what is private stops the client before its first byte; nothing falls back to shared."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedps.client.life import FLClient
from fedps.config import Job
from fedps.errors import FedpsError, JobError
from fedps.models.build import build
from fedps.models.describe import aliases, describe
from fedps.training.parameters import Parameters, read_parameters
from fedps.types import ClientId
from tests.conftest import MakeJob

NAMES = ("mf_user.weight", "mf_item.weight", "mlp_user.weight", "mlp_item.weight")
USERS, ITEMS = ["mf_user.weight", "mlp_user.weight"], ["mf_item.weight", "mlp_item.weight"]
NEITHER: dict[str, Any] = {"local_sparse": [], "remote_sparse": []}
RIGHT: dict[str, Any] = {"local_sparse": USERS, "remote_sparse": ITEMS, "local_dense": ["predict.weight"]}


class Door:
    """A listening server that counts who comes and what they say."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.connections = self.bytes = 0
        self._thread = threading.Thread(target=self._count)
        self._thread.start()

    def _count(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:
                return
            with caller:
                caller.settimeout(5)
                self.bytes += len(caller.recv(1 << 16))
                self.connections += 1

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.close()


def job_of(make_job: MakeJob, **runner: Any) -> Job:
    small = {"start_timeout": 0.2, "step_timeout": 0.2}
    return make_job({"mode": "NCF_NeuMF", "mf_dim": 4}, **(RIGHT | small | runner))


def start(make_job: MakeJob, door: Door, tmp_path: Path, **runner: Any) -> None:
    """Begin a worker as its process does."""
    FLClient(job_of(make_job, **runner), ClientId("0"), [door.address], tmp_path, lambda event: None).run()


# Found by the model: what is wrong, and what the error says of it beside the names there are.
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a typo": ({"local_sparse": ["mlp_usr.weight"]}, "'mlp_usr.weight' matches.*mean 'mlp_user.weight'"),
    "another case": ({"local_sparse": ["MLP_User.weight"]}, "'MLP_User.weight' matches.*mean 'mlp_user.weight'"),
    "the module's name": ({"local_sparse": ["mlp_user"]}, "'mlp_user' matches.*mean 'mlp_user.weight'"),
    "a blank behind": ({"local_sparse": ["mlp_user.weight "]}, "'mlp_user.weight ' matches.*mean 'mlp_user.weight'"),
    "a line end behind": ({"local_sparse": ["mlp_user.weight\n"]}, r"'mlp_user.weight\\n' matches"),
    "another dash": ({"local_sparse": ["mlp-user.weight"]}, "'mlp-user.weight' matches.*mean 'mlp_user.weight'"),
    "a Greek letter": ({"local_sparse": ["mlp_υser.weight"]}, "'mlp_υser.weight' matches"),
    "an alias too far": ({"local_sparse": ["embedding_4.w_0"]}, "'embedding_4.w_0' matches"),
    "an alias of another kind": ({"local_sparse": ["embedding_0.w_1"]}, "mean 'embedding_0.w_0'"),
    "a dense name": ({"local_sparse": [*USERS, "mlp.0.weight"]}, "'mlp.0.weight' matches.*dense.*by local_dense"),
    "empty": ({"local_sparse": [""]}, "'' matches"),
    "a glob": ({"local_sparse": ["*user*"]}, "'.user.' matches"),
    "a prefix": ({"local_sparse": ["model.mlp_user.weight"]}, "'model.mlp_user.weight' matches"),
    "two names in one": ({"local_sparse": ["mlp_user.weight,mf_user.weight"]}, "'mlp_user.weight,mf_user.weight' mat"),
    "a typo among right ones": ({"local_sparse": [*USERS, "mlp_item.weigth"]}, "'mlp_item.weigth' matches"),
    "the same twice": ({"local_sparse": [*USERS, USERS[0]]}, "'mf_user.weight' names mf_user.weight a second time"),
    "name and alias": ({"local_sparse": [*USERS, "embedding_0.w_0"]}, "'embedding_0.w_0' names mf_user.weight a sec"),
    "both lists, by alias": ({"remote_sparse": [*ITEMS, "embedding_2.w_0"]}, "in remote_sparse too, as 'embedding_2"),
    "a typo of what is shared": ({"remote_sparse": ["mlp_itm.weight"]}, "remote_sparse: 'mlp_itm.weight' matches"),
    "one of two, the other nowhere": ({"local_sparse": USERS[:1]}, "mlp_user.weight, an embedding of user ids, is nei"),
    "only what is shared is named": ({"local_sparse": []}, "mf_user.weight, an embedding of user ids, is neither"),
    "nothing shared, one user table forgotten": (
        {"local_sparse": USERS[1:], "remote_sparse": []},
        "mf_user.weight, an embedding of user ids, is neither here nor in remote_sparse",
    ),
}
WRONG_DENSE: dict[str, tuple[dict[str, Any], str]] = {
    "an embedding": (
        NEITHER | {"local_dense": ["mlp_user.weight"]},
        "'mlp_user.weight' matches.*embedding.*by local_sparse",
    ),
    "an embedding's alias": ({"local_dense": ["embedding_0.w_0"]}, "'embedding_0.w_0' matches.*by local_sparse"),
    "a layer's name": ({"local_dense": ["mlp.0"]}, "'mlp.0' matches"),
    "a layer without parameters": ({"local_dense": ["mlp.1.weight"]}, "'mlp.1.weight' matches"),
    "a glob of layers": ({"local_dense": ["mlp.*"]}, "'mlp..' matches"),
}
# Found before there is a model, so that no names are known: what is wrong, and the key that the error names.
UNREADABLE: dict[str, dict[str, Any]] = {
    "one string": {"local_sparse": "mlp_user.weight"},
    "a number": {"local_sparse": 3},
    "a list of a number": {"local_sparse": [3]},
    "nothing": {"local_sparse": None},
    "a list of nothing": {"local_sparse": [None]},
    "a word that YAML reads as false": {"local_sparse": [False]},
    "a mapping": {"local_sparse": {"mlp_user.weight": "yes"}},
    "a list within": {"local_sparse": [USERS]},
    "both lists": {"remote_sparse": [*ITEMS, *USERS]},
    "another key": {"local_sparce": USERS},
    "dense as one string": {"local_dense": "predict.weight"},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_embedding_stops_the_client_before_its_first_byte(
    case: str, make_job: MakeJob, door: Door, tmp_path: Path
) -> None:
    runner, said = WRONG[case]
    with pytest.raises(JobError, match=f"(?s)runner.*{said}") as told:
        start(make_job, door, tmp_path, **runner)
    assert all(name in str(told.value) for name in NAMES), "the names there are"
    assert (door.connections, door.bytes) == (0, 0)


@pytest.mark.parametrize("case", WRONG_DENSE)
def test_a_wrong_layer_stops_the_client_before_its_first_byte(
    case: str, make_job: MakeJob, door: Door, tmp_path: Path
) -> None:
    runner, said = WRONG_DENSE[case]
    with pytest.raises(JobError, match=f"(?s)runner.local_dense.*{said}") as told:
        start(make_job, door, tmp_path, **runner)
    assert all(name in str(told.value) for name in ("mlp.0.weight", "mlp.0.bias", "predict.weight", "predict.bias"))
    assert (door.connections, door.bytes) == (0, 0)


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_list_that_is_none_stops_before_the_first_byte(
    case: str, make_job: MakeJob, door: Door, tmp_path: Path
) -> None:
    runner = UNREADABLE[case]
    with pytest.raises(JobError, match=rf"runner\.({next(iter(runner))}|local_sparse)"):
        start(make_job, door, tmp_path, **runner)
    assert (door.connections, door.bytes) == (0, 0)


def test_all_mistakes_are_told_at_once(make_job: MakeJob) -> None:
    job = job_of(make_job, local_sparse=["a", "b"], remote_sparse=["c"], local_dense=["d"])
    with pytest.raises(JobError) as told:
        read_parameters(describe(build(job)), job)
    assert [m.split(" matches")[0] for m in told.value.mistakes] == [
        "runner.local_sparse: 'a'", "runner.local_sparse: 'b'", "runner.remote_sparse: 'c'", "runner.local_dense: 'd'",
    ]  # fmt: skip


def test_the_control_a_right_job_reaches_the_door(make_job: MakeJob, door: Door, tmp_path: Path) -> None:
    with pytest.raises(FedpsError, match="no server answers"):
        start(make_job, door, tmp_path)
    assert door.connections > 0
    assert door.bytes > 0


def placed(parameters: Parameters) -> dict[str, bool]:
    """Return whether each parameter stays on the client."""
    found = {e.spec.name: e.private for e in parameters.embeddings}
    return found | dict.fromkeys(parameters.dense, False) | dict.fromkeys(parameters.private_dense, True)


@pytest.mark.parametrize(
    ("runner", "private"),
    [
        (RIGHT, {*USERS, "predict.weight"}),
        ({"local_sparse": ["embedding_0.w_0", "embedding_2.w_0"], "remote_sparse": [], "local_dense": []}, {*USERS}),
        ({"local_sparse": [*USERS, *ITEMS], "remote_sparse": [], "local_dense": []}, {*USERS, *ITEMS}),
        (NEITHER | {"local_dense": []}, set()),
        ({"local_sparse": None, "remote_sparse": [], "local_dense": []}, {*USERS}),
        ({"local_sparse": None, "remote_sparse": [*USERS, *ITEMS], "local_dense": []}, set()),
        ({"local_sparse": [], "remote_sparse": [*USERS, *ITEMS], "local_dense": []}, set()),
        ({"local_sparse": USERS[:1], "remote_sparse": [USERS[1], *ITEMS], "local_dense": []}, {USERS[0]}),
    ],
    ids=[
        "names",
        "aliases",
        "all local",
        "none is private",
        "no list",
        "all named as shared",
        "all remote",
        "one of two user tables, said of both",
    ],
)
def test_what_the_lists_say_is_what_stays(runner: dict[str, Any], private: set[str], make_job: MakeJob) -> None:
    job = job_of(make_job, **runner)
    assert {name for name, stays in placed(read_parameters(describe(build(job)), job)).items() if stays} == private


class Towers(nn.Module):
    """Looks users up twice, by names that tell nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Embedding(120, 4), nn.Embedding(120, 4), nn.Embedding(220, 4)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = ((self.a(user) + self.b(user)) * self.c(item)).sum(1)
        return logits


def test_user_rows_of_ones_own_network_stay_unless_they_are_named_as_shared(make_job: MakeJob) -> None:
    default = read_parameters(describe(Towers()), make_job(local_sparse=None))
    assert placed(default) == {"a.weight": True, "b.weight": True, "c.weight": False}
    said = read_parameters(
        describe(Towers()), make_job(local_sparse=["b.weight"], remote_sparse=["a.weight", "c.weight"])
    )
    assert placed(said) == {"a.weight": False, "b.weight": True, "c.weight": False}


class Tied(nn.Module):
    """Scores items by the user table itself: one tensor under two names."""

    user: nn.Embedding
    layer: nn.Linear

    def __init__(self, first: str) -> None:
        super().__init__()
        table, layer = nn.Embedding(120, 4), nn.Linear(4, 120, bias=False)
        layer.weight = table.weight
        self.item = nn.Embedding(220, 4)
        for name in (first, "layer" if first == "user" else "user"):
            setattr(self, name, table if name == "user" else layer)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(self.item(item)).gather(1, user[:, None])[:, 0] + self.user(user).sum(1)
        return logits


@pytest.mark.parametrize("first", ["user", "layer"])
def test_a_private_embedding_that_is_also_a_layer_is_refused(first: str, make_job: MakeJob) -> None:
    job = make_job(local_sparse=["user.weight"])
    with pytest.raises(JobError, match=r"user\.weight and layer\.weight are one and the same tensor"):
        read_parameters(describe(Tied(first)), job)


class Shifted(nn.Module):
    """Looks users up by an id of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(121, 4), nn.Embedding(220, 4)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = (self.user(user + 1) * self.item(item)).sum(1)
        return logits


def test_an_embedding_that_no_column_looks_up_is_kept_as_a_layer_or_refused(make_job: MakeJob) -> None:
    with pytest.raises(JobError, match=r"'user\.weight' matches.*trained as a dense tensor, to be kept by local_dense"):
        read_parameters(describe(Shifted()), make_job(local_sparse=["user.weight"]))
    kept = read_parameters(describe(Shifted()), make_job(local_sparse=[], local_dense=["user.weight"]))
    assert placed(kept) == {"item.weight": False, "user.weight": True}


# The original's names.


def test_the_originals_names_stand_for_the_models_own(make_job: MakeJob) -> None:
    job = job_of(make_job, local_dense=["linear_2.b_0", "linear_0.w_0"])
    found = read_parameters(describe(build(job)), job)
    assert found.aliases["embedding_2.w_0"] == "mlp_user.weight"
    assert [found.real_name(f"linear_{k}.w_0") for k in range(3)] == ["mlp.0.weight", "mlp.2.weight", "predict.weight"]
    assert (found.real_name("linear_2.b_0"), found.real_name("predict.bias")) == ("predict.bias", "predict.bias")
    assert found.real_name("linear_3.b_0") is None


def test_layers_are_kept_under_either_name(make_job: MakeJob) -> None:
    job = job_of(make_job, local_dense=["linear_2.b_0", "mlp.0.weight"])
    assert read_parameters(describe(build(job)), job).private_dense == ("mlp.0.weight", "predict.bias")
    for twice in (["linear_2.b_0", "predict.bias"], ["linear_9.b_0"], ["linear_0.b_1"]):
        with pytest.raises(JobError, match=r"runner\.local_dense.*linear_2\.b_0"):
            read_parameters(describe(build(job)), job_of(make_job, local_dense=twice))


def test_the_quick_starts_alias_of_the_last_bias_is_right(make_job: MakeJob) -> None:
    job = make_job({"fc_layers": [64, 32, 16, 8]})
    assert read_parameters(describe(build(job)), job).real_name("linear_3.b_0") == "predict.bias"


class Bare(nn.Embedding):
    """A model that is an embedding itself has no name to put before `weight`."""


def test_aliases_of_a_model_that_is_a_layer() -> None:
    assert aliases(Bare(2, 3)) == {"embedding_0.w_0": "weight"}
    assert aliases(nn.Linear(2, 3, bias=False)) == {"linear_0.w_0": "weight"}
