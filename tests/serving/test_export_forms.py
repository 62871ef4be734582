"""Forms of an exported model that others read: scores in ONNX Runtime, a state dict for torch, vectors for an index; and its card."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import fedps
from fedps.errors import JobError
from fedps.serving.export import export_run

torch = pytest.importorskip("torch")
FIVE_LINES = """
import sys, torch
weights = torch.load(sys.argv[1])
items = torch.nn.Embedding.from_pretrained(weights["embedding_item.weight"])
like_the_first = items.weight @ items.weight[0]
print(like_the_first.topk(3).indices.tolist(), [name for name in sys.modules if name.startswith("fedps")])
"""
FEATURES = {
    "user": {"kind": "id", "rows": 20}, "item": {"kind": "id", "rows": 30},
    "genres": {"kind": "ids", "rows": 5, "pooling": "mean", "side": "item"},
    "seen": {"kind": "ids", "table": "item", "max": 4}, "age": {"kind": "number", "side": "user"},
    "label": {"kind": "label"},
}  # fmt: skip
MODES = {"DeepFM": FEATURES.keys() - {"seen"}, "DIN": FEATURES.keys(), "TwoTower": FEATURES.keys() - {"genres"}}


def trained(folder: Path, mode: str) -> fedps.Run:
    """Train a network for an epoch on a few made-up samples of two clients."""
    rng, names = np.random.default_rng(0), [name for name in FEATURES if name in MODES[mode]]
    (folder / "train").mkdir(parents=True)
    for client in range(2):
        lines = [",".join(names)]
        for _ in range(40):
            genres, seen = ("|".join(map(str, rng.integers(0, most, rng.integers(1, 4)))) for most in (5, 30))
            cells = {
                "user": rng.integers(10) + 10 * client, "item": rng.integers(30), "genres": genres, "seen": seen,
                "age": round(rng.normal(), 2), "label": rng.integers(2),
            }  # fmt: skip
            lines.append(",".join(str(cells[name]) for name in names))
        (folder / "train" / f"{client}.csv").write_text("\n".join(lines) + "\n")
    tree = {
        "runner": {"train_data_dir": "train", "sync_mode": "geo", "train_batch_size": 16, "epochs": 1, "metrics": ["auc"]},
        "features": {name: FEATURES[name] for name in names},
        "hyper_parameters": {"mode": mode, "embedding_dim": 4, "hidden_units": [8], "num_items": 30},
    }  # fmt: skip
    if mode == "TwoTower":
        tree["hyper_parameters"]["loss"] = "in_batch_softmax"
    (folder / "job.yaml").write_text(yaml.safe_dump(tree))
    return fedps.run(folder / "job.yaml", run_dir=folder / "run", in_process=True, quiet=True)


@pytest.fixture(
    scope="module", params=["DeepFM", *(pytest.param(m, marks=pytest.mark.slow) for m in ("DIN", "TwoTower"))]
)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> fedps.Run:
    return trained(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> fedps.Run:
    return trained(tmp_path_factory.mktemp("towers"), "TwoTower")


def test_onnx_gives_the_scores_of_the_network(run: fedps.Run, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    from fedps.models.inputs import example, inputs_of

    session = runtime.InferenceSession(export_run(run.folder, tmp_path, private=True, form="onnx"))
    for samples, seed in ((1, 0), (7, 1), (200, 2)):
        inputs = dict(zip(inputs_of(run.model), example(run.model, samples, seed), strict=True))
        with torch.no_grad():
            due = run.model.eval()(*inputs.values()).numpy()
        (found,) = session.run(["score"], {name: column.numpy() for name, column in inputs.items()})
        np.testing.assert_allclose(found, due, atol=1e-5)
        assert found.std() > 0 or samples == 1


def test_five_lines_without_fedps_read_a_state_dict(towers: fedps.Run, tmp_path: Path) -> None:
    path = export_run(towers.folder, tmp_path, form="torch")
    done = subprocess.run(
        [sys.executable, "-c", FIVE_LINES, path], capture_output=True, text=True, timeout=60, check=False
    )
    due = towers.tables["item"].rows @ towers.tables["item"].rows[0]
    assert (done.returncode, done.stdout) == (0, f"{np.argsort(-due)[:3].tolist()} []\n"), done.stderr


def test_vectors_of_items_have_the_scores_of_the_network_and_the_names_of_the_source(
    towers: fedps.Run, tmp_path: Path
) -> None:
    (towers.folder / "items.csv").write_text("item,key,title\n" + "".join(f"{k},i{k},Film {k}\n" for k in range(30)))
    table = pq.read_table(export_run(towers.folder, tmp_path, form="vectors"))
    (towers.folder / "items.csv").unlink()
    assert table.column_names == ["item", "key", "title", "vector"]
    assert (table["key"][3].as_py(), table["title"][3].as_py()) == ("i3", "Film 3")
    vectors = np.array(table["vector"].to_pylist(), np.float32)
    from fedps.models.inputs import example, inputs_of, output_of

    inputs = [column[:1].expand(30, *column.shape[1:]) for column in example(towers.model, 1)]
    inputs[inputs_of(towers.model).index("item")] = torch.arange(30)
    with torch.no_grad():
        user = output_of(towers.model.eval())(*inputs)[0][0].numpy()
        np.testing.assert_allclose(vectors @ user, towers.model(*inputs).numpy(), atol=1e-5)
    assert (tmp_path / "items.csv").is_file()


def test_vectors_of_items_that_stay_with_the_clients_are_not_made_up(towers: fedps.Run, tmp_path: Path) -> None:
    own = ["embedding_user.weight", "embedding_item.weight"]
    job = towers.folder.parent / "job.yaml"
    kept = fedps.run(job, run_dir=tmp_path / "run", in_process=True, quiet=True, local_sparse=own)
    with pytest.raises(JobError, match="items' vectors are made of what stays with the clients: add --private"):
        export_run(kept.folder, tmp_path / "out", form="vectors")
    assert not (tmp_path / "out").exists()


def test_a_model_goes_without_figures_where_the_summary_is_torn(towers: fedps.Run, tmp_path: Path) -> None:
    shutil.copytree(towers.folder, tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text('{"status": "o')
    export_run(tmp_path / "run", tmp_path / "out")
    card = json.loads((tmp_path / "out" / "model.json").read_text())
    assert card["network"] == "TwoTower" and "metrics" not in card


def test_the_card_says_what_the_model_is_and_nothing_of_one_client(towers: fedps.Run, tmp_path: Path) -> None:
    export_run(towers.folder, tmp_path)
    card = json.loads((tmp_path / "model.json").read_text())
    assert (card["network"], card["epoch"], card["file"]) == ("TwoTower", 1, "model.safetensors")
    assert card["training"]["mode"] == "geo" and card["training"]["seed"] == 0
    assert card["privacy"]["stayed_with_each_client"] == ["embedding_user.weight"]
    assert not card["privacy"]["private_tables_joined"] and "embedding_user.weight" not in card["parameters"]
    assert card["parameters"]["embedding_item.weight"] == {"shape": [30, 4], "rows": 30}


def test_what_a_network_has_not_is_told(run: fedps.Run, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"embedding_user\.weight.* stays with the clients: add --private"):
        export_run(run.folder, tmp_path, form="onnx")
    if run.job.hyper_parameters.mode != "TwoTower":
        with pytest.raises(JobError, match="it is no network of two towers"):
            export_run(run.folder, tmp_path, form="vectors")
    assert not list(tmp_path.iterdir())
