"""The three networks: names, sizes and starts as in the original, and what they compute."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fedps.models.ncf import NcfGmf, NcfMlp, NcfNeuMf

SIZES = (60, 40, 8, (64, 32, 16, 8))
NETWORKS = [NcfMlp, NcfGmf, NcfNeuMf]
MLP_SHAPES = {
    "mlp_user.weight": (60, 32), "mlp_item.weight": (40, 32), "mlp.0.weight": (32, 64), "mlp.0.bias": (32,),
    "mlp.2.weight": (16, 32), "mlp.2.bias": (16,), "mlp.4.weight": (8, 16), "mlp.4.bias": (8,),
    "predict.weight": (1, 8), "predict.bias": (1,),
}  # fmt: skip
GMF_SHAPES = {"mf_user.weight": (60, 8), "mf_item.weight": (40, 8), "predict.weight": (1, 8), "predict.bias": (1,)}
SHAPES = {NcfMlp: MLP_SHAPES, NcfGmf: GMF_SHAPES, NcfNeuMf: GMF_SHAPES | MLP_SHAPES | {"predict.weight": (1, 16)}}
Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Network = type[NcfMlp] | type[NcfGmf] | type[NcfNeuMf]


def weights(model: nn.Module) -> dict[str, Floats]:
    return {name: p.detach().numpy().astype(np.float64) for name, p in model.named_parameters()}


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 60, 50)), torch.from_numpy(rng.integers(0, 40, 50))


@pytest.mark.parametrize("network", NETWORKS)
def test_parameters_have_the_promised_names_and_shapes(network: Network) -> None:
    found = {name: tuple(p.shape) for name, p in network(*SIZES).named_parameters()}
    assert found == SHAPES[network]


def test_the_mlp_has_the_originals_2753_dense_floats() -> None:
    dense = [p for name, p in NcfMlp(*SIZES).named_parameters() if name not in NcfMlp.row_init]
    assert sum(p.numel() for p in dense) == 2753


@pytest.mark.parametrize(
    ("network", "order"),
    [
        (NcfMlp, ["mlp_user", "mlp_item"]),
        (NcfGmf, ["mf_user", "mf_item"]),
        (NcfNeuMf, ["mf_user", "mf_item", "mlp_user", "mlp_item"]),
    ],
)
def test_embeddings_are_created_in_the_originals_order(network: Network, order: list[str]) -> None:
    assert [n for n, m in network(*SIZES).named_modules() if isinstance(m, nn.Embedding)] == order


@pytest.mark.parametrize("network", NETWORKS)
def test_row_init_states_the_start_of_every_table(network: Network) -> None:
    torch.manual_seed(0)
    model = network(2000, 1500, 8, (64, 32, 16, 8))
    tables = {f"{n}.weight": m.weight for n, m in model.named_modules() if isinstance(m, nn.Embedding)}
    assert set(network.row_init) == set(tables)
    for name, weight in tables.items():
        init = network.row_init[name]
        assert init.kind == "normal"
        assert float(weight.detach().mean()) == pytest.approx(init.a, abs=init.b / 20)
        assert float(weight.detach().std()) == pytest.approx(init.b, rel=0.05)


def test_layers_start_with_the_originals_spread() -> None:
    torch.manual_seed(0)
    model = NcfMlp(2, 2, 8, (640, 320, 160, 80))
    for layer, inputs in ((0, 640), (2, 320), (4, 160)):
        linear = model.get_submodule(f"mlp.{layer}")
        assert isinstance(linear, nn.Linear)
        assert float(linear.weight.detach().std()) == pytest.approx(inputs**-0.5, rel=0.05)
        assert not linear.bias.detach().any()


@pytest.mark.parametrize(("network", "fan_in"), [(NcfMlp, 16), (NcfGmf, 8), (NcfNeuMf, 32)])
def test_the_last_layer_starts_kaiming_uniform(network: Network, fan_in: int) -> None:
    torch.manual_seed(0)
    drawn = torch.cat([network(*SIZES).predict.weight.detach().reshape(-1) for _ in range(100)])
    bound = (6 / fan_in) ** 0.5
    assert float(drawn.abs().max()) <= bound
    assert float(drawn.std()) == pytest.approx(bound / 3**0.5, rel=0.1)


def gmf(w: dict[str, Floats], user: Ids, item: Ids) -> Floats:
    product: Floats = w["mf_user.weight"][user] * w["mf_item.weight"][item]
    return product


def mlp(w: dict[str, Floats], user: Ids, item: Ids) -> Floats:
    x = np.concatenate([w["mlp_user.weight"][user], w["mlp_item.weight"][item]], axis=1)
    for layer in (0, 2, 4):
        x = np.maximum(x @ w[f"mlp.{layer}.weight"].T + w[f"mlp.{layer}.bias"], 0)
    return x


@pytest.mark.parametrize("network", NETWORKS)
def test_logits_are_the_formulas(network: Network) -> None:
    torch.manual_seed(1)
    model = network(*SIZES)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    user, item = pairs()
    w = weights(model)
    parts = {NcfGmf: [gmf], NcfMlp: [mlp], NcfNeuMf: [gmf, mlp]}[network]
    last = np.concatenate([part(w, user.numpy(), item.numpy()) for part in parts], axis=1)
    due = last @ w["predict.weight"][0] + w["predict.bias"]
    found = model(user, item)
    assert found.dtype == torch.float32
    assert found.shape == (50,)
    np.testing.assert_allclose(found.detach().numpy(), due, rtol=1e-4, atol=1e-5)


def test_gmf_works_for_any_width() -> None:
    assert NcfGmf(60, 40, 5, (64, 32, 16, 8))(*pairs()).shape == (50,)
