"""The original's job file, key by key: each gives a value, or one note that says why it means nothing here."""

from pathlib import Path
from typing import Any

import pytest

from fedps.config import Job, describe, load_job, notes_of
from fedps.errors import JobError
from fedps.storage.epochs import save_shard
from fedps.storage.shards import Facts
from tests.config.conftest import MINIMAL, Write

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(write: Write, *overrides: str, text: str = MINIMAL) -> tuple[Job, list[str]]:
    job = load_job(write(text), overrides)
    return job, notes_of(job)


def mistakes(write: Write, *overrides: str, text: str = MINIMAL) -> list[str]:
    with pytest.raises(JobError) as caught:
        load_job(write(text), overrides)
    return caught.value.mistakes


# The job file of the quick start, in its three forms.


@pytest.mark.parametrize(
    ("name", "coordinator", "local", "remote"),
    [
        ("config_fl", False, None, ()),
        ("config_fl_coordinator", True, None, ()),
        ("config_fl_split", False, ("embedding_0.w_0",), ("embedding_1.w_0",)),
    ],
)
def test_the_quick_starts_file_loads(
    name: str, coordinator: bool, local: tuple[str, ...] | None, remote: tuple[str, ...], write: Write, tmp_path: Path
) -> None:
    text = (EXAMPLES / f"{name}.yaml").read_text().replace("../.data/ml-1m/", "")
    job, notes = load(write, text=text)
    runner, hyper = job.runner, job.hyper_parameters
    assert (runner.sync_mode, runner.geo_step, runner.train_batch_size, runner.epochs) == ("geo", 100, 512, 2)
    assert (runner.with_coordinator, runner.local_sparse, runner.remote_sparse) == (coordinator, local, remote)
    assert (runner.reader_type, runner.pipe_command) == ("QueueDataset", "python3 queuedataset_reader.py")
    assert (runner.need_dump, runner.dump_fields) == (True, ("item_input", "user_input"))
    assert (runner.infer_batch_size, runner.infer_start_epoch, runner.infer_end_epoch) == (1, 1, 3)
    assert (hyper.optimizer.name, hyper.optimizer.learning_rate, hyper.mode) == ("adam", 0.001, "NCF_MLP")
    assert len(notes) == len(set(notes)) == 2 + coordinator + (local is None)
    shared_there = [note for note in notes if "user rows stay with their clients; PaddlePaddle shares all" in note]
    assert len(shared_there) == (local is None)


def test_the_three_forms_differ_as_the_quick_starts_do() -> None:
    plain, coordinator, split = (
        {line.strip() for line in (EXAMPLES / f"config_fl{form}.yaml").read_text().splitlines()[5:]}
        for form in ("", "_coordinator", "_split")
    )
    assert {line.removeprefix("# ") for line in plain ^ coordinator} == {"with_coodinator: 1 # 1 or 0"}
    lists = {"local_sparse: ['embedding_0.w_0']", "remote_sparse: ['embedding_1.w_0']"}
    assert {line.removeprefix("# ") for line in plain ^ split} == lists


# Every key of the original.

VALUES: dict[str, Any] = {
    "runner.sync_mode": "async",
    "runner.geo_step": 50,
    "runner.with_coordinator": 1,
    "runner.split_file_list": True,
    "runner.thread_num": 2,
    "runner.dataset_debug": True,
    "runner.test_data_dir": "test",
    "runner.train_batch_size": 100,
    "runner.infer_batch_size": 1,
    "runner.model_save_path": "saved",
    "runner.warmup_model_path": "saved",
    "runner.infer_load_path": "saved",
    "runner.infer_start_epoch": 1,
    "runner.infer_end_epoch": 3,
    "runner.epochs": 3,
    "runner.print_interval": 10,
    "runner.example_count_method": "word",
    "runner.local_sparse": ["embedding_0.w_0"],
    "runner.remote_sparse": ["embedding_1.w_0"],
    "hyper_parameters.optimizer.class": "Adagrad",
    "hyper_parameters.optimizer.learning_rate": 0.01,
    "hyper_parameters.num_users": 10,
    "hyper_parameters.num_items": 10,
    "hyper_parameters.mode": "NCF_NeuMF",
    "hyper_parameters.fc_layers": [32, 16, 8],
}
TOGETHER: dict[str, tuple[Any, dict[str, Any]]] = {  # keys that do something only beside others
    "runner.reader_type": ("DataLoader", {"runner.train_reader_path": "movielens_reader"}),
    "runner.train_reader_path": ("movielens_reader", {"runner.reader_type": "RecDataset"}),
    "runner.pipe_command": ("python3 reader.py", {"runner.reader_type": "QueueDataset"}),
    "runner.infer_reader_type": ("QueueDataset", {"runner.pipe_command": "python3 reader.py"}),
    "runner.infer_reader_path": ("movielens_reader", {"runner.infer_reader_type": "DataLoader"}),
    "runner.need_dump": (True, {"runner.dump_param": ["linear_3.b_0"]}),
    "runner.dump_fields_path": ("dumps", {"runner.need_dump": True, "runner.dump_param": ["linear_3.b_0"]}),
    "runner.dump_fields": (["user_input"], {"runner.need_dump": True}),
    "runner.dump_param": (["linear_3.b_0"], {"runner.need_dump": True}),
    "hyper_parameters.mf_dim": (16, {"hyper_parameters.mode": "NCF_GMF"}),
}
NOTED: dict[str, Any] = {
    "runner.use_xpu": True,
    "runner.use_visual": True,
    "runner.use_fleet": True,
    "runner.use_save_data": True,
    "runner.auc_num": 2,
    "runner.use_auc": True,
    "runner.model_mode": "CB",
    "runner.num_workers": 4,
    "runner.batch_generator": True,
    "runner.user_define_reader": True,
    "runner.parse_ins_id": True,
    "runner.parse_content": True,
    "runner.fs_name": "afs://somewhere",
    "runner.fs_ugi": "me,hush",
    "runner.fs_client.uri": "afs://somewhere",
    "runner.fs_client.user": "me",
    "runner.fs_client.passwd": "hush",
    "runner.fs_client.hadoop_bin": "hadoop",
    "runner.model_save_path": "",
    "runner.geo_step": 0,
    "stat_var_names": ["a"],
    "workspace": "models/recall/ncf",
    "hyper_parameters.adam_d2sum": True,
    "hyper_parameters.optimizer.strategy": "async",
    "table_parameters.embedding_0.w_0.table_class": "MemorySparseTable",
    "table_parameters.embedding_0.w_0.shard_num": 10,
    "table_parameters.embedding_0.w_0.enable_sparse_table_cache": True,
    "table_parameters.embedding_0.w_0.accessor.class": "SparseAccessor",
    "table_parameters.embedding_0.w_0.accessor.fea_dim": 11,
    "table_parameters.embedding_0.w_0.accessor.embedx_dim": 10,
    "table_parameters.embedding_0.w_0.accessor.embedx_threshold": 0,
    "table_parameters.embedding_0.w_0.accessor.ctr_accessor_param.nonclk_coeff": 0.1,
}


def override(key: str, value: Any) -> str:
    return f"{key}={value!r}"


def value_of(job: Job, key: str) -> Any:
    at: Any = job.model_dump(mode="json", by_alias=True)
    for name in key.split("."):
        at = at[name]
    return at


@pytest.mark.parametrize("key", [*VALUES, *TOGETHER])
def test_a_key_that_means_something_arrives(key: str, write: Write, tmp_path: Path) -> None:
    if key == "runner.warmup_model_path":
        save_shard(tmp_path / "saved", 0, {}, Facts(shards=1, epoch=1))
    value, beside = TOGETHER[key] if key in TOGETHER else (VALUES[key], {})
    job, notes = load(write, override(key, value), *(override(k, v) for k, v in beside.items()))
    there = value_of(job, key)
    assert there in (value, str(tmp_path / str(value)), str(value).lower())
    assert notes == []


@pytest.mark.parametrize("key", NOTED)
def test_a_key_that_means_nothing_is_told_once(key: str, write: Write) -> None:
    job, notes = load(write, override(key, NOTED[key]))
    assert len(notes) == 1
    assert notes[0].split(": ")[0] in key
    assert "hush" not in notes[0], "a password is not repeated"
    assert load(write)[0].model_dump(exclude={"runner": {"sync_mode"}, "table_parameters": True}) == job.model_dump(
        exclude={"runner": {"sync_mode"}, "table_parameters": True}
    )


@pytest.mark.parametrize("key", ["use_gpu", "use_auc", "is_fl_ps_mode", "parse_ins_id"])
@pytest.mark.parametrize("off", ["False", "0"])
def test_a_switch_that_is_off_asks_for_nothing(key: str, off: str, write: Write) -> None:
    assert load(write, f"runner.{key}={off}") == load(write)


def test_an_empty_path_is_none(write: Write) -> None:
    paths = ("warmup_model_path", "infer_load_path", "dump_fields_path")
    assert load(write, *(f"runner.{path}=''" for path in paths)) == load(write)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("runner.sync_mode=heter", "runner.sync_mode: 'heter': trains across kinds of devices; use one of geo, sync, async"),
        ("runner.sync_mode=gpubox", "runner.sync_mode: 'gpubox': trains with servers on GPUs; use one of geo, sync, async"),
        ("runner.is_fl_ps_mode=1", "runner.is_fl_ps_mode: 1: two parties with different features"),
        ("runner.is_fl_ps_mode=true", "runner.is_fl_ps_mode: True: two parties with different features"),
        ("runner.example_count_method=lines", "must be one of example, word"),
        ("runner.with_coordinater=1", "there is no such key; did you mean 'with_coordinator'?"),
        ("runner.use_gpus=1", "runner.use_gpus: 1: there is no such key"),
        ("hyper_parameters.optimizer.class=Momentum", "must be one of adam"),
        ("runner.with_coodinator=maybe", "runner.with_coordinator: 'maybe': must be true or false"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(line: str, said: str, write: Write) -> None:
    (told,) = mistakes(write, line)
    assert said in told


# Spellings, and which of them wins.


@pytest.mark.parametrize("spelling", ["with_coodinator", "with_coordinator"])
@pytest.mark.parametrize(("value", "on"), [("1", True), ("0", False), ("True", True), ("off", False)])
def test_either_spelling_in_the_file(spelling: str, value: str, on: bool, write: Write) -> None:
    job, notes = load(write, text=MINIMAL + f"  {spelling}: {value}\n")
    assert job.runner.with_coordinator is on
    assert len(notes) == (spelling == "with_coodinator")


@pytest.mark.parametrize("in_file", ["with_coodinator", "with_coordinator"])
@pytest.mark.parametrize("over", ["runner.with_coodinator=1", "runner.with_coordinator=1", "runner={with_coodinator: 1, train_data_dir: train}"])  # fmt: skip
def test_an_override_wins_in_either_spelling(in_file: str, over: str, write: Write) -> None:
    text = MINIMAL + f"  {in_file}: 0\n"
    assert load(write, over, text=text)[0].runner.with_coordinator
    assert not load(write, over, "runner.with_coodinator=0", text=text)[0].runner.with_coordinator


def test_both_spellings_must_agree(write: Write) -> None:
    text = MINIMAL + "  with_coodinator: 1\n  with_coordinator: {}\n"
    assert load(write, text=text.format(1))[0].runner.with_coordinator
    (told,) = mistakes(write, text=text.format(0))
    assert told.startswith("runner.with_coodinator: 1: runner.with_coordinator is here too and says otherwise")


def test_what_is_shown_is_in_our_words(write: Write) -> None:
    text = MINIMAL + "  with_coodinator: 1\n  use_xpu: 1\n"
    shown = describe(write(text))
    assert "coodinator" not in shown
    assert "use_xpu" not in shown
    assert "  with_coordinator: true                      # job file;" in shown
    assert "  with_coordinator: false                     # override;" in describe(
        write(text), ["runner.with_coodinator=0"]
    )


def test_notes_are_of_the_file_and_not_saved(write: Write, tmp_path: Path) -> None:
    job, notes = load(write, "runner.use_xpu=True", "runner.epochs=9")
    assert len(notes) == 1
    job.save(tmp_path / "saved.yaml")
    again = load_job(tmp_path / "saved.yaml")
    assert (notes_of(again), again.model_dump()) == ([], job.model_dump())
    assert notes_of(load_job(tmp_path / "saved.yaml", ["runner.use_xpu=False"])) == []


def test_an_override_mends_what_the_file_says(write: Write) -> None:
    text = MINIMAL + "  sync_mode: heter\n  use_gpu: True\n"
    assert load(write, "runner.sync_mode=geo", "runner.use_gpu=False", text=text) == load(write)


@pytest.mark.parametrize(("mode", "becomes"), [("geo", "async"), ("sync", "sync"), ("async", "async")])
def test_geo_without_a_window_is_async(mode: str, becomes: str, write: Write) -> None:
    job, (note,) = load(write, f"runner.sync_mode={mode}", "runner.geo_step=0")
    assert job.runner.sync_mode == becomes
    assert note.startswith("runner.geo_step: 0: ")


def test_the_workspace_is_the_job_files_folder(write: Write, tmp_path: Path) -> None:
    text = 'runner:\n  train_data_dir: "{workspace}/train"\n  reader_type: QueueDataset\n  pipe_command: cat {workspace}/x\n'
    job, _ = load(write, text=text)
    assert (job.runner.train_data_dir, job.runner.pipe_command) == (tmp_path / "train", f"cat {tmp_path}/x")


def test_a_section_that_the_original_drops_is_told_unless_it_is_a_misspelled_one(write: Write) -> None:
    _, notes = load(write, text=MINIMAL + "static_benchmark: {a: 1}\n")
    assert notes == ["static_benchmark: the original leaves this section unread, and so it is here"]
    (told,) = mistakes(write, text=MINIMAL + "hyper_paramters: {num_users: 3}\n")
    assert "did you mean 'hyper_parameters'?" in told
    (told,) = mistakes(write, "static_benchmark.a=1")
    assert told.startswith("static_benchmark: {'a': 1}: there is no such key"), "who writes it now may be told"


RANK = """
runner:
  train_data_dir: train
  model: net.Net
hyper_parameters:
  sparse_inputs_slots: 4
  sparse_feature_number: 1000001
  sparse_feature_dim: 9
  dense_input_dim: 13
  fc_sizes: [512, 256]
"""


def test_the_inputs_that_a_rank_job_counts_are_features(write: Write) -> None:
    job, notes = load(write, text=RANK)
    assert {name: (f.kind, f.rows, f.table, f.dim, f.column) for name, f in job.features.items()} == {
        "click": ("label", None, None, 1, None),
        "slot_1": ("id", 1000001, None, 1, "1"),
        "slot_2": ("id", None, "slot_1", 1, "2"),
        "slot_3": ("id", None, "slot_1", 1, "3"),
        "dense_feature": ("number", None, None, 13, None),
    }
    [note] = [note for note in notes if "sparse_inputs_slots" in note]
    assert "are read as features click (the label), slot_1 to slot_3 (an id each, below 1000001, of one table)" in note
    assert (job.hyper_parameters.model_extra or {})["sparse_feature_dim"] == 9, "the network's own"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["features={y: {kind: label}, x: {kind: number}}"], "are left to the network; the section features says"),
        (["hyper_parameters.sparse_inputs_slots=1"], "state under features what the data holds, or give sparse_inputs"),
        (["hyper_parameters.sparse_feature_number=many"], "state under features what the data holds"),
    ],
)
def test_other_counts_of_inputs_are_answered_by_a_note(overrides: list[str], said: str, write: Write) -> None:
    job, notes = load(write, *overrides, text=RANK)
    assert "slot_1" not in job.features
    assert any(said in note for note in notes if "sparse_inputs_slots" in note)
