"""Networks cut in two compute what whole ones compute of the same features; parties' own classes are told apart by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from fedps.config.vertical import VerticalJob
from fedps.errors import JobError
from fedps.models.ctr import DCNv2, DeepFM
from fedps.models.inputs import adapt, example, inputs_of
from fedps.vertical.half import Half
from fedps.vertical.networks import make_bottom, make_top, part_job, width_of
from tests.vertical.parties import ITEM, USER, data_of, vertical_job

CITY: dict[str, Any] = {"city": {"kind": "id", "rows": "open"}, "visits": {"kind": "ids", "rows": 9, "max": 5}}


def bottoms_of(job: VerticalJob) -> dict[str, nn.Module]:
    found = {party: make_bottom(job, party) for party in job.order}
    return {party: bottom for party, bottom in found.items() if bottom is not None}


def whole(job: VerticalJob, kind: type[DeepFM] | type[DCNv2]) -> nn.Module:
    """Return the same network of all parties' features in one place, in their order."""
    features = {n: f for party in job.order for n, f in part_job(job, party).inputs.items() if f.kind != "label"}
    made = kind(features, job.hyper_parameters)
    adapt("whole", made, features, classic=False)
    return made


@torch.no_grad()
def lay_alike(whole: nn.Module, bottoms: Mapping[str, nn.Module], top: nn.Module) -> dict[str, list[Tensor]]:
    """Give a whole network the weights of one that is cut; return by its parameters' names those that they come from.

    Of a layer that is cut in two, they are the columns of its weights.
    """
    parts: dict[str, list[Tensor]] = {}
    for bottom in bottoms.values():
        for name, weight in bottom.named_parameters():
            parts.setdefault("mlp.0.weight" if name == "first.weight" else name, []).append(weight)
    for name, weight in top.named_parameters():
        own = "mlp.0.bias" if name == "bias" else name
        if own.startswith("mlp.") and name != "bias" and isinstance(whole, DeepFM):
            own = f"mlp.{int(name.split('.')[1]) + 1}.{name.split('.')[2]}"
        parts[own] = [weight]
    for name, weight in whole.named_parameters():
        weight.copy_(torch.cat(parts[name], 1) if len(parts[name]) > 1 else parts[name][0])
    return parts


@pytest.mark.parametrize("parties", [2, 3])
@pytest.mark.parametrize(("network", "kind"), [("DeepFM", DeepFM), ("DCNv2", DCNv2)])
def test_a_cut_network_computes_what_the_whole_one_does(
    tmp_path: Path, network: str, kind: type[DeepFM] | type[DCNv2], parties: int
) -> None:
    """Logits and gradients equal `models.ctr`'s on joined features, with one passive party and with two."""
    sides = dict(list({"shop": ITEM, "bank": USER, "town": CITY}.items())[:parties])
    job = vertical_job(tmp_path, sides, network=network)
    bottoms = bottoms_of(job)
    top, joined = make_top(job, {party: width_of(bottom) for party, bottom in bottoms.items()}), whole(job, kind)
    parts = lay_alike(joined, bottoms, top)
    columns = {
        name: column for b in bottoms.values() for name, column in zip(inputs_of(b), example(b, 40), strict=True)
    }
    cuts = [bottom(*(columns[name] for name in inputs_of(bottom))) for bottom in bottoms.values()]
    logits, expected = top(*cuts), joined(*(columns[name] for name in inputs_of(joined)))
    torch.testing.assert_close(logits, expected)
    label = torch.arange(40) % 2
    for output in (logits, expected):
        nn.functional.binary_cross_entropy_with_logits(output, label.float()).backward()  # type: ignore[no-untyped-call]
    for name, weight in joined.named_parameters():
        gradients = [cast(Tensor, part.grad) for part in parts[name]]
        torch.testing.assert_close(torch.cat(gradients, 1) if len(gradients) > 1 else gradients[0], weight.grad)


def test_two_towers_stand_at_two_parties(tmp_path: Path) -> None:
    """Each party sends a row of length 1; the logit is their cosine, divided by the temperature."""
    job = vertical_job(tmp_path, network="TwoTower", hyper={"temperature": 0.5})
    bottoms = bottoms_of(job)
    cuts = [bottom(*example(bottom, 5)) for bottom in bottoms.values()]
    assert [cut.shape for cut in cuts] == [(5, 6), (5, 6)]
    torch.testing.assert_close(torch.stack([cut.norm(dim=1) for cut in cuts]), torch.ones(2, 5))
    logits = make_top(job, {"shop": 6, "bank": 6})(*cuts)
    torch.testing.assert_close(logits, torch.cosine_similarity(cuts[0], cuts[1]) / 0.5)
    three = vertical_job(tmp_path, {"shop": ITEM, "bank": USER, "town": CITY}, network="TwoTower")
    with pytest.raises(JobError, match="TwoTower: is of two parties that have features; here are shop, bank, town"):
        make_top(three, {"shop": 6, "bank": 6, "town": 6})


def test_an_active_party_may_have_the_label_alone(tmp_path: Path) -> None:
    """A party without features has no bottom, and the top takes what the others sent."""
    job = vertical_job(tmp_path, {"shop": {"label": {"kind": "label"}}, "bank": USER}, network="DeepFM")
    assert make_bottom(job, "shop") is None
    bank = bottoms_of(job)["bank"]
    assert make_top(job, {"bank": width_of(bank)})(bank(*example(bank, 3))[:3]).shape == (3,)


def test_each_part_has_a_stream_of_its_own(tmp_path: Path) -> None:
    """The same job gives the same weights; two parties with the same features start otherwise, and so does another seed."""
    same = {"shop": {**USER, "label": {"kind": "label"}}, "bank": USER}
    first, again, other = (bottoms_of(vertical_job(tmp_path, same, seed=seed)) for seed in (0, 0, 1))
    weights = [[b.get_parameter("mlp.0.weight") for b in found.values()] for found in (first, again, other)]
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not torch.equal(weights[0][0], weights[0][1])
    assert not torch.equal(weights[0][0], weights[2][0])


# The four parts of PaddlePaddle's FlDNNLayer (test/ps/ps_dnn_model.py), each where it belongs.
FL_DNN = """
import torch
from torch import nn

class BottomA(nn.Module):
    def __init__(self, sparse_number, embedding_dim, fc_a):
        super().__init__()
        self.embedding = nn.Embedding(sparse_number, embedding_dim)
        self.bottom_a = nn.Linear(2 * embedding_dim, fc_a)

    def forward(self, slot_1, slot_2):
        return torch.relu(self.bottom_a(torch.cat([self.embedding(slot_1), self.embedding(slot_2)], 1)))

class BottomB(nn.Module):
    def __init__(self, dense_number, fc_b):
        super().__init__()
        self.bottom_b = nn.Linear(dense_number, fc_b)

    def forward(self, dense):
        return torch.relu(self.bottom_b(dense))

class Top(nn.Module):
    def __init__(self, widths, interactive_units):
        super().__init__()
        self.interactive = nn.Linear(sum(widths.values()), interactive_units)
        self.top = nn.Linear(interactive_units, 1)

    def forward(self, B, A):
        return self.top(torch.relu(self.interactive(torch.cat([A, B], 1))))

class Sure(Top):
    def forward(self, B, A):
        return torch.sigmoid(super().forward(B, A))

class Alone(Top):
    def forward(self, A, C):
        return super().forward(A, C)

class Flat(BottomB):
    def forward(self, dense):
        return super().forward(dense).sum()
"""
SLOT = {"kind": "id", "rows": 50}
FL_PARTIES: dict[str, Any] = {
    "B": {"dense": {"kind": "number", "dim": 13}, "label": {"kind": "label"}},
    "A": {"slot_1": SLOT, "slot_2": {"kind": "id", "table": "slot_1"}},
}
FL_HYPER = {"sparse_number": 50, "dense_number": 13, "fc_a": 7, "fc_b": 5, "interactive_units": 4}


def fl_job(folder: Path, top: str = "Top", bottom: str = "BottomB") -> VerticalJob:
    (folder / "fl_dnn.py").write_text(FL_DNN)
    classes = {"B": {"bottom": f"fl_dnn.{bottom}", "top": f"fl_dnn.{top}"}, "A": {"bottom": "fl_dnn.BottomA"}}
    return vertical_job(folder, FL_PARTIES, FL_HYPER, classes, network="own")


@pytest.mark.parametrize("network", ["MLP", "DCNv2"])
def test_a_partys_secret_is_in_all_its_weights(tmp_path: Path, network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever knows the job alone cannot draw them again; whoever starts again with the secret can."""
    monkeypatch.setenv("CXX", "no-compiler")

    def starts(secret: str | None) -> list[Tensor]:
        job = vertical_job(tmp_path, classes={"bank": {} if secret is None else {"secret": secret}}, network=network)
        tables = Half(job, "bank", data_of(job, "bank")).tables()
        return [torch.from_numpy(values.copy()) for *_, values in tables.values()]

    known, mine, again, other = (starts(secret) for secret in (None, "tulip", "tulip", "rose"))
    assert known
    for k, weights in enumerate(mine):
        assert torch.equal(weights, again[k])
        assert not torch.equal(weights, known[k])
        assert not torch.equal(weights, other[k])


def test_the_four_parts_of_fl_dnn_are_three_classes(tmp_path: Path) -> None:
    """bottom_a, bottom_b, and interactive with top: each party's own class, with the hyperparameters that it asks for."""
    job = fl_job(tmp_path)
    bottoms = bottoms_of(job)
    widths = {party: width_of(bottom) for party, bottom in bottoms.items()}
    assert widths == {"B": 5, "A": 7}
    top = make_top(job, widths)
    assert top(*(bottom(*example(bottom, 4)) for bottom in bottoms.values())).shape == (4,)


def test_the_classes_of_the_guide_fit_each_other(tmp_path: Path) -> None:
    code = (Path(__file__).parents[2] / "docs/guides/own-vertical-network.md").read_text().split("```")[1]
    (tmp_path / "own_vertical.py").write_text(code.removeprefix("python"))
    parties = {
        "items": {"item": {"kind": "id", "rows": 3706}, "genres": {**ITEM["genres"], "rows": 18}, "label": {"kind": "label"}},
        "users": {"user": {"kind": "id", "rows": 6040}, "age": {"kind": "id", "rows": 7}},
    }  # fmt: skip
    own = {
        "items": {"bottom": "own_vertical.Films", "top": "own_vertical.Liked"},
        "users": {"bottom": "own_vertical.Users"},
    }
    job = vertical_job(tmp_path, parties, classes=own, network="own")
    bottoms = bottoms_of(job)
    top = make_top(job, {party: width_of(bottom) for party, bottom in bottoms.items()})
    assert top(*(bottom(*example(bottom, 5)) for bottom in bottoms.values())).shape == (5,)


def test_where_a_party_is_left_out_layers_join_the_rest(tmp_path: Path) -> None:
    """An own top, as two towers, cannot do without a party; what the others are worth is told by layers."""
    job = fl_job(tmp_path)
    names = [name for name, _ in make_top(job, {"B": 5}).named_parameters()]
    assert names == [name for name, _ in make_top(vertical_job(tmp_path), {"shop": 5}).named_parameters()]


def test_what_is_wrong_with_an_own_class_is_told_of_its_key(tmp_path: Path) -> None:
    """No mistake speaks of `runner.model`, which vertical jobs do not have."""
    widths = {"B": 5, "A": 7}
    with pytest.raises(JobError, match=r"^parties.B.top: fl_dnn.Sure: forward\(B, A\) ends in sigmoid"):
        make_top(fl_job(tmp_path, "Sure"), widths)
    with pytest.raises(JobError, match=r"^parties.B.top: fl_dnn.Alone: forward takes 'C', which is no feature"):
        make_top(fl_job(tmp_path, "Alone"), widths)
    with pytest.raises(JobError, match=r"^parties.B.bottom: .* returns torch.float32 \(\) of two samples"):
        make_bottom(fl_job(tmp_path, bottom="Flat"), "B")
    with pytest.raises(JobError, match=r"^parties.B.bottom: 'fl_dnn.Nobody': .* has no class Nobody"):
        make_bottom(fl_job(tmp_path, bottom="Nobody"), "B")
