"""From a job to a network: seeds, class paths, and every way in which a class of the user's own can be wrong."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

from fedps.config import Job
from fedps.errors import JobError
from fedps.models.build import build
from fedps.models.describe import describe
from fedps.models.loss import cross_entropy, own_loss
from fedps.models.ncf import NcfGmf, NcfMlp, NcfNeuMf
from fedps.models.network import built_in
from tests.conftest import MakeJob

NET = """
import torch
from torch import nn

class Dot(nn.Module):
    def __init__(self, num_users, num_items, width, scale=2.0):
        super().__init__()
        self.user, self.item = nn.Embedding(num_users, width), nn.Embedding(num_items, width)
        self.scale = scale

    def forward(self, user, item):
        return self.scale * (self.user(user) * self.item(item)).sum(1)

class Wide(Dot):
    def forward(self, user, item):
        return super().forward(user, item).unsqueeze(1)

class Listed(Dot):
    def forward(self, input_data):
        return super().forward(input_data[0], input_data[1]).unsqueeze(1)

class Sure(Listed):
    def forward(self, input_data):
        return torch.sigmoid(super().forward(input_data))

class Halved(Dot):
    def forward(self, user, item):
        both = torch.stack([super().forward(user, item), torch.zeros(len(user))], 1)
        return torch.softmax(both, 1)[:, 0]

class Clamped(Dot):
    def forward(self, user, item):
        return 1 / (1 + torch.exp(-super().forward(user, item)))

class Positive(Dot):
    def forward(self, user, item):
        return torch.relu(0.001 * super().forward(user, item))

class Rooted(Dot):
    def forward(self, user, item):
        return (super().forward(user, item) - 100).sqrt()

class Bare(nn.Module):
    def forward(self, user, item):
        return user - item

class Still(Dot):
    def __init__(self, num_users, num_items, width):
        super().__init__(num_users, num_items, width)
        nn.init.zeros_(self.item.weight)

class Judged(Dot):
    def forward(self, user, item):
        return torch.sigmoid(super().forward(user, item))

    def loss(self, scores, label):
        return nn.functional.mse_loss(scores, label)

class Short(Dot):
    def __init__(self, num_users, num_items, width):
        super().__init__(num_users, 5, width)

class Pair(Dot):
    def forward(self, user, item):
        return super().forward(user, item)[:, None].expand(-1, 2)

class Broken(Dot):
    def forward(self, user, item):
        raise ValueError("no forward today")

class Fragile(nn.Module):
    def __init__(self, num_users):
        raise ValueError("no such size")

class Every(nn.Module):
    def __init__(self, **given):
        super().__init__()
        self.given, self.weight = given, nn.Parameter(torch.zeros(1))

    def forward(self, user, item):
        return user * self.weight

class Squared(Dot):
    def loss(self, logits, label):
        return (torch.sigmoid(logits) - label).square().mean()

class Unreduced(Dot):
    def loss(self, logits, label):
        return logits - label

class Detached(Dot):
    def loss(self, logits, label):
        return (logits.detach() - label).square().mean()

class Infinite(Dot):
    def loss(self, logits, label):
        return (logits - label).sum() / 0

class Raising(Dot):
    def loss(self, logits, label):
        raise ValueError("no loss today")

class Layer(Dot):
    def __init__(self, num_users, num_items, width):
        super().__init__(num_users, num_items, width)
        self.loss = nn.MSELoss()

class Plain:
    pass

NUMBER = 3
"""


@pytest.fixture(autouse=True)
def fresh_imports() -> Iterator[None]:
    """Forget what a test imported."""
    paths, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = paths
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def own_job(make_job: MakeJob, tmp_path: Path) -> MakeJob:
    """Return a function that makes a job with `net.py` beside it."""
    (tmp_path / "net.py").write_text(NET)

    def make(model: str, **hyper: object) -> Job:
        return make_job(hyper, model=model)

    return make


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


@pytest.mark.parametrize(("mode", "network"), [("NCF_MLP", NcfMlp), ("NCF_GMF", NcfGmf), ("NCF_NeuMF", NcfNeuMf)])
def test_a_mode_names_a_built_in_network(mode: str, network: type[nn.Module], make_job: MakeJob) -> None:
    model = build(make_job({"mode": mode, "mf_dim": 4}))
    assert type(model) is network
    assert model(torch.tensor([119]), torch.tensor([219])).shape == (1,)


@pytest.mark.parametrize("mode", ["NCF_MLP", "NCF_GMF", "NCF_NeuMF"])
def test_a_built_in_network_is_described_without_being_made(mode: str, make_job: MakeJob) -> None:
    job = make_job({"mode": mode, "mf_dim": 6})
    made = describe(build(job))
    assert msgspec.structs.replace(made, start=b"") == built_in(job.hyper_parameters)


def test_the_seed_fixes_the_start(make_job: MakeJob) -> None:
    assert same(build(make_job()), build(make_job()))
    assert not same(build(make_job()), build(make_job(seed=1)))
    assert same(build(make_job(seed=2**32 - 1)), build(make_job(seed=2**32 - 1)))


def test_the_start_is_the_same_from_many_threads_at_once(make_job: MakeJob) -> None:
    job = make_job()
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(build, [job] * 8))
    assert all(same(models[0], other) for other in models[1:])


def test_torchs_own_generator_is_left_alone(make_job: MakeJob) -> None:
    job = make_job()
    torch.manual_seed(5)
    due = torch.rand(3)
    torch.manual_seed(5)
    build(job)
    assert torch.equal(torch.rand(3), due)


def test_a_class_gets_the_keys_it_names(own_job: MakeJob, capsys: pytest.CaptureFixture[str]) -> None:
    model = build(own_job("net.Dot", width=3, scale=0.5))
    assert {n: tuple(p.shape) for n, p in model.named_parameters()} == {
        "user.weight": (120, 3),
        "item.weight": (220, 3),
    }
    assert model.get_parameter("user.weight").requires_grad
    assert model.training
    assert vars(model)["scale"] == 0.5
    out, told = capsys.readouterr()
    assert out == ""
    assert "model: net.Dot of " in told
    assert "net.py" in told


def test_a_class_of_ones_own_starts_from_the_seed_too(own_job: MakeJob) -> None:
    assert same(build(own_job("net.Dot", width=3)), build(own_job("net.Dot", width=3)))


def test_a_class_that_takes_every_key_gets_every_key(own_job: MakeJob) -> None:
    given = vars(build(own_job("net.Every", depth=2)))["given"]
    assert given["depth"] == 2
    assert given["num_users"] == 120
    assert "optimizer" not in given


@pytest.mark.parametrize(
    ("path", "hyper", "told"),
    [
        ("Dot", {}, "write module.Class"),
        ("../net.Dot", {}, "write module.Class"),
        ("nets.Dot", {}, r"no module 'nets' in .*net\.py"),
        ("net.Dott", {}, "has no class Dott; there are Dot, Wide, Listed, Sure"),
        ("net.Plain", {}, "is no network; derive it from torch.nn.Module"),
        ("net.NUMBER", {}, "has no class NUMBER"),
        ("__main__.Dot", {}, "nor among installed packages"),
        ("net.deeper.Dot", {}, "importing net.deeper fails"),
        ("net.Dot", {}, "hyper_parameters.width: is missing"),
        ("net.Dot", {"width": 3, "colour": "red"}, "hyper_parameters.colour: 'red': net.Dot takes no such"),
        ("net.Fragile", {}, "cannot be made: ValueError: no such size"),
        ("net.Pair", {"width": 3}, r"returns torch.float32 \(2, 2\); logits of shape"),
        (
            "net.Short",
            {"width": 3},
            "fails on ids below num_users and num_items: IndexError.*an embedding have fewer rows",
        ),
        ("net.Rooted", {"width": 3}, "returns NaN or an infinity before anything is trained; look for"),
        ("net.Bare", {}, r"returns torch.int64 \(2,\); logits"),
        ("net.Sure", {"width": 3}, "ends in sigmoid; return the logits, what goes into it"),
        ("net.Halved", {"width": 3}, "ends in softmax; return the logits"),
        ("net.Clamped", {"width": 3}, r"ends in something that keeps within \[0, 1\]; return the logits"),
        ("net.Broken", {"width": 3}, "fails on two samples: ValueError: no forward today"),
        ("net.Dot", {"width": "three"}, "cannot be made: TypeError"),
        (
            "net.Dot",
            {"width": 3, "num_items": 2**62},
            r"cannot be made: RuntimeError: .*; .* hash them to fewer, e\.g\. id % 1",
        ),
        ("net.Unreduced", {"width": 3}, r"loss\(logits, label\) returns torch.float32 \(2,\); one number is due"),
        ("net.Detached", {"width": 3}, r"loss.* cut off from the logits; a finite number is due"),
        ("net.Infinite", {"width": 3}, r"loss.* returns -inf on two samples; a finite number"),
        ("net.Raising", {"width": 3}, r"loss.* fails on two samples: ValueError: no loss today"),
    ],
)
def test_a_wrong_class_is_told_with_its_remedy(
    path: str, hyper: dict[str, object], told: str, own_job: MakeJob
) -> None:
    with pytest.raises(JobError, match=told):
        build(own_job(path, **hyper))


def test_a_network_may_have_a_loss_of_its_own(own_job: MakeJob) -> None:
    logits, label = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])
    loss = own_loss(build(own_job("net.Squared", width=3)))
    assert loss is not None
    assert float(loss(logits, label)) == pytest.approx((0.25 + 0.7758) / 2, abs=1e-4)
    assert own_loss(build(own_job("net.Dot", width=3))) is None
    assert own_loss(build(own_job("net.Layer", width=3))) is None, "a layer called loss is no loss"


def test_the_built_in_loss_is_near_the_originals(own_job: MakeJob) -> None:
    p = torch.linspace(0.01, 0.99, 99)
    for label in (torch.zeros(99), torch.ones(99)):
        theirs = -label * torch.log(p + 1e-4) - (1 - label) * torch.log(1 - p + 1e-4)
        ours = torch.stack([cross_entropy(torch.logit(a)[None], b[None]) for a, b in zip(p, label, strict=True)])
        assert float((ours - theirs).abs().max()) < 0.01


def test_all_wrong_keys_are_told_at_once(own_job: MakeJob) -> None:
    with pytest.raises(JobError) as caught:
        build(own_job("net.Dot", colour="red", shape="round"))
    assert [m.partition(": ")[0].rpartition(".")[2] for m in caught.value.mistakes] == ["width", "colour", "shape"]


def test_a_module_that_cannot_be_imported_says_why(own_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import no_such_thing_here\n")
    with pytest.raises(JobError, match=r"importing bad fails: ModuleNotFoundError: .*no_such_thing_here"):
        build(own_job("bad.Net"))


def test_a_module_that_ends_the_program_is_told(own_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(JobError, match="importing ends fails: SystemExit: 3"):
        build(own_job("ends.Net"))


@pytest.mark.parametrize("line", ["from .layers import WIDTH", "from layers import WIDTH"])
def test_a_module_may_import_its_neighbours(line: str, own_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "layers.py").write_text("WIDTH = 7\n")
    (tmp_path / "mine.py").write_text(f"{line}\nfrom .net import Dot\nclass Seven(Dot):\n    width = WIDTH\n")
    assert vars(type(build(own_job("mine.Seven", width=3))))["width"] == 7


def test_a_class_may_live_in_a_package_beside_the_job(own_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "dot.py").write_text(NET)
    assert type(build(own_job("nets.dot.Dot", width=3))).__name__ == "Dot"


def test_two_jobs_may_both_have_a_net(make_job: MakeJob, tmp_path: Path) -> None:
    found = []
    for name, scale in (("one", "2.0"), ("other", "3.0")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "net.py").write_text(NET.replace("scale=2.0", f"scale={scale}"))
        found.append(vars(build(make_job({"width": 3}, folder, model="net.Dot")))["scale"])
    assert found == [2.0, 3.0]


def test_an_installed_package_is_found(make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "fedps_test_nets.py").write_text(NET)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    model = build(make_job({"width": 3}, model="fedps_test_nets.Dot"))
    assert type(model).__module__ == "fedps_test_nets"


@pytest.mark.parametrize("entry", ["", None])
def test_the_current_folder_is_no_place_to_take_code_from(
    entry: str | None, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "fedps_test_stray.py").write_text(NET)
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [os.fspath(here) if entry is None else entry, *sys.path])
    with pytest.raises(JobError, match="nor among installed packages"):
        build(make_job({"width": 3}, model="fedps_test_stray.Dot"))


@pytest.mark.parametrize("name", ["Wide", "Listed"])
def test_a_network_may_take_both_columns_in_a_list_and_return_a_column(name: str, own_job: MakeJob) -> None:
    user, item = torch.arange(5), torch.arange(1, 6)
    model, plain = build(own_job(f"net.{name}", width=3)), build(own_job("net.Dot", width=3))
    assert torch.equal(model(user, item), plain(user, item))
    assert model(user[:1], item[:1]).shape == (1,)


@pytest.mark.parametrize("name", ["Positive", "Still", "Judged"])
def test_values_in_0_to_1_are_no_mistake_of_themselves(name: str, own_job: MakeJob) -> None:
    build(own_job(f"net.{name}", width=3))
