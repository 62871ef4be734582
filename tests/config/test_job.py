"""Job files: what is read, what is refused, and that all mistakes are told in one go."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedps.config import Job, load_job
from fedps.config.job import fields
from fedps.config.sections.training import OF_NETWORKS
from fedps.errors import JobError
from tests.config.conftest import MINIMAL, Write


def mistakes(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(JobError) as caught:
        load_job(path, overrides)
    return caught.value.mistakes


def test_one_key_is_enough_and_the_rest_is_filled_in(write: Write, tmp_path: Path) -> None:
    job = load_job(write())
    assert (job.name, job.folder) == ("job", tmp_path)
    assert (job.runner.sync_mode, job.runner.geo_step, job.runner.epochs) == ("geo", 10, 2)
    assert job.runner.worker_num == 3, "one per data file, hidden files left out"
    assert job.hyper_parameters.fc_layers == (64, 32, 16, 8)
    assert job.hyper_parameters.optimizer.name == "adam"


def test_paths_count_from_the_job_files_folder(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = write("runner: {train_data_dir: ../" + tmp_path.name + "/train, test_data_dir: ./test}")
    monkeypatch.chdir(tmp_path / "elsewhere")
    runner = load_job(path).runner
    assert (runner.train_data_dir, runner.test_data_dir) == (tmp_path / "train", tmp_path / "test")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            "need_dump: true, dump_fields_path: in_the_way/dump",
            "runner.dump_fields_path: .*in_the_way is no folder; .*need_dump",
        ),
        (
            "model_save_path: in_the_way/model",
            "runner.model_save_path: .*in_the_way is no folder; .* leave the key out",
        ),
    ],
)
def test_folders_that_cannot_be_made_are_mistakes_of_the_job(
    write: Write, tmp_path: Path, keys: str, said: str
) -> None:
    (tmp_path / "in_the_way").write_text("")
    [mistake] = mistakes(write(f"runner: {{train_data_dir: train, {keys}}}"))
    assert re.match(said, mistake)
    load_job(write("runner: {train_data_dir: train, dump_fields_path: in_the_way/dump}"))  # nothing is dumped


def test_a_folder_one_too_high_names_the_one_below(write: Write, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item,title\n1,Toy Story\n")
    assert mistakes(write("runner: {train_data_dir: ., test_data_dir: .}")) == [
        f"runner.{side}_data_dir: {str(tmp_path)!r}: clients' files lie one folder further down: name {str(tmp_path / side)!r}"
        for side in ("train", "test")
    ]


@pytest.mark.parametrize("named", ["output", "output/1"])
def test_a_save_of_paddlepaddle_is_named_for_what_it_is(write: Write, tmp_path: Path, named: str) -> None:
    for table in ("000", "001"):
        (tmp_path / "output" / "1" / table).mkdir(parents=True)
        (tmp_path / "output" / "1" / table / "part-000-00000.gz").write_bytes(b"")
    [mistake] = mistakes(write(f"runner: {{train_data_dir: train, warmup_model_path: {named}}}"))
    assert "is a save of PaddlePaddle (its tables are folders 000, 001, …), which is not read here" in mistake


def test_a_job_is_named_by_text_or_by_path(write: Write) -> None:
    path = write()
    assert load_job(str(path)) == load_job(path)


def test_nothing_changes_after_loading(write: Write) -> None:
    job = load_job(write())
    with pytest.raises(ValidationError, match="frozen"):
        job.runner.epochs = 3  # type: ignore[misc]


def test_the_quickstart_says_what_it_means(tmp_path: Path, write: Write) -> None:
    text = (Path(__file__).parents[2] / "examples" / "quickstart.yaml").read_text()
    path = write(text.replace("../.data/ml-1m/", ""))
    job = load_job(path)
    assert (job.runner.sync_mode, job.runner.geo_step, job.runner.server_num) == ("geo", 10, 1)
    assert (job.runner.local_sparse, job.runner.remote_sparse) == (("mlp_user.weight",), ("mlp_item.weight",))
    assert (job.runner.train_batch_size, job.runner.epochs) == (512, 2)
    assert job.hyper_parameters.optimizer.learning_rate == 0.001


def test_overrides_win_over_the_file_and_later_ones_over_earlier(write: Write) -> None:
    path = write(MINIMAL + "  epochs: 7\n")
    job = load_job(
        path,
        [
            "runner.epochs=3",
            "runner.epochs=4",
            "runner.local_sparse=[mlp_user.weight]",
            "hyper_parameters.optimizer.class=SGD",
            "hyper_parameters.optimizer.learning_rate=1e-2",
            "runner.worker_num=null",
            "runner.geo_overlap=7",
        ],
    )
    assert job.runner.epochs == 4
    assert job.runner.local_sparse == ("mlp_user.weight",)
    assert (job.hyper_parameters.optimizer.name, job.hyper_parameters.optimizer.learning_rate) == ("sgd", 0.01)
    assert job.runner.worker_num == 3
    assert job.runner.geo_overlap == 7


@pytest.mark.parametrize("spelling", ["adam", "Adam", "ADAM", "LAZY_ADAM", "row_adagrad"])
def test_an_optimizers_name_may_be_written_in_any_case(spelling: str, write: Write) -> None:
    job = load_job(write(), [f"hyper_parameters.optimizer.class={spelling}"])
    assert job.hyper_parameters.optimizer.name == spelling.lower()


def test_a_saved_job_loads_the_same_from_anywhere(write: Write, tmp_path: Path) -> None:
    path = write(MINIMAL + "  local_sparse: ['01234', größe]\nhyper_parameters: {mf_dim: 3}\n", "ö.yaml")
    job = load_job(path, ["runner.seed=5"])
    (tmp_path / "runs").mkdir()
    saved = tmp_path / "runs" / "copy.yaml"
    job.save(saved)
    assert load_job(saved) == job
    assert "größe" in saved.read_text(encoding="utf-8")


@given(
    rate=st.floats(1e-9, 1e6),
    layers=st.lists(st.integers(1, 500).map(lambda n: 2 * n), min_size=2, max_size=6),
    names=st.lists(st.text(min_size=1, max_size=8), max_size=3, unique=True),
    timeout=st.floats(0.001, 1e6),
)
def test_json_and_yaml_keep_every_value(rate: float, layers: list[int], names: list[str], timeout: float) -> None:
    job = Job.model_validate(
        {
            "name": "n",
            "folder": "/f",
            "runner": {"train_data_dir": "/t", "local_dense": names, "step_timeout": timeout},
            "hyper_parameters": {"optimizer": {"class": "sgd", "learning_rate": rate}, "fc_layers": layers},
        }
    )
    for by_alias in (True, False):
        assert Job.model_validate_json(job.model_dump_json(by_alias=by_alias)) == job
    text = yaml.safe_dump(job.model_dump(mode="json", by_alias=True))
    assert Job.model_validate(yaml.safe_load(text)) == job


def test_every_key_says_what_it_means() -> None:
    assert [key for key, field in fields() if not field.description] == []
    assert "hyper_parameters.optimizer.class" in dict(fields())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("runner.epochs=0", "runner.epochs: 0: must be at least 1; it means: passes over each client's data (left out: 2)"),
        ("runner.epochs=2.5", "runner.epochs: 2.5: must be a whole number"),
        ("runner.epochs=true", "runner.epochs: True: must be a number; YAML reads off, no, on and yes as true or false"),
        ("runner.seed=-1", "runner.seed: -1: must be at least 0"),
        ("runner.step_timeout=0", "runner.step_timeout: 0: must be above 0"),
        ("runner.step_timeout=.inf", "runner.step_timeout: inf: must be a finite number"),
        ("runner.shuffle=perhaps", "runner.shuffle: 'perhaps': must be true or false"),
        ("runner.sync_mode=off", "runner.sync_mode: False: put the word in quotes: YAML reads off, no"),
        ("runner.sync_mode=asinc", "did you mean 'async'?"),
        ("runner.sync_mode=FedAvg", "did you mean 'round'?"),
        ("runner.lr=0.1", "runner.lr: 0.1: there is no such key; did you mean 'hyper_parameters.optimizer.learning_rate'?"),
        ("hyper_parameters.lr=0.1", "the built-in networks have no such key; did you mean 'hyper_parameters.optimizer.learning_rate'?"),
        ("runner.print_period=5", "did you mean 'runner.print_interval'?"),
        ("runner.local_sparse=mlp_user.weight", "runner.local_sparse: 'mlp_user.weight': must be a list, such as [a, b]"),
        ("runner.local_sparse=[a, 3]", "runner.local_sparse[1]: 3: must be text; put it in quotes"),
        ("runner.test_data_dir=no", "runner.test_data_dir: False: must be a path"),
        ("runner.geo_setp=3", "runner.geo_setp: 3: there is no such key; did you mean 'geo_step'?"),
        ("runner.learning_rate=3", "did you mean 'hyper_parameters.optimizer.learning_rate'?"),
        ("limits.frobnicate=3", "there is no such key; there are message_mib"),
        ("limits=4", "limits: 4: must be a section: its keys indented below it, or in braces, such as {message_mib: …}"),
        ("runner=4", "runner: 4: must be a section"),
        ("hyper_parameters.optimizer.learning_rate=.nan", "learning_rate: nan: must be a finite number"),
        ("hyper_parameters.optimizer.beta1=1", "hyper_parameters.optimizer.beta1: 1: must be below 1"),
        ("hyper_parameters.optimizer.beta1=0.9999", "optimizer.beta1: 0.9999: must be below 0.9995, the root of beta2 0.999"),
        ("hyper_parameters.optimizer.beta2=0.5", "optimizer.beta1: 0.9: must be below 0.7071"),
        ("hyper_parameters.optimizer.epsilon=1", "hyper_parameters.optimizer.epsilon: 1: must be below 1"),
        ("hyper_parameters.optimizer=adam", "hyper_parameters.optimizer: 'adam': must be a section: its keys indented"),
        ("hyper_parameters.learning_rate=1", "did you mean 'hyper_parameters.optimizer.learning_rate'?"),
        ("hyper_parameters.optimizer.class=adm", "did you mean 'adam'?"),
        ("hyper_parameters.fc_layers=64", "must be a list, such as [64, 32, 16, 8]"),
        ("hyper_parameters.fc_layers=[64]", "hyper_parameters.fc_layers: [64]: must have at least 2 entries"),
        ("hyper_parameters.fc_layers=[64, 0]", "hyper_parameters.fc_layers[1]: 0: must be at least 1"),
        ("hyper_parameters.fc_layers=[63, 8]", "hyper_parameters.fc_layers: [63, 8]: the first size is"),
        ("hyper_parameters.mf_dimm=3", "hyper_parameters.mf_dimm: 3: the built-in networks have no such key; did you mean 'mf_dim'?"),
        ("hyper_parameters.frobnicate=3", "the built-in networks have no such key; there are optimizer, num_users"),
        ("runner.worker_num=5", "holds 3 clients (0 … north); use 3, leave the key out, or prepare the data for 5"),
        ("runner.train_data_dir=nowhere", "there is no such folder; prepare data with `fedps data prepare"),
        ("runner.test_data_dir=.", "holds no <client>.csv; `fedps data prepare` fills it; name the folder that does"),
        ("runner.train_data_dir=~nobody-is-called-so/x", "there is no such folder"),
        ("runner.train_data_dir=" + "x" * 300, "cannot be read: File name too long; name a folder that can"),
        ("runner.model=Net", "runner.model: 'Net': write module.Class, e.g. net.MyNet for class MyNet of net.py"),
        ("runner.clients_per_round=4", "runner.clients_per_round: 4: there are only 3 clients; use at most 3"),
        ("runner.client_selector=everyone", "'everyone': write all, random, round_robin, by_samples"),
        ("runner.train_reader_path=my_reader.py/", "write the name of a module, e.g. my_reader for my_reader.py"),
        ("runner.infer_reader_path=''", "runner.infer_reader_path: '': write the name of a module"),
        ("runner.warmup_model_path=train", "train: is no saved epoch; name one that a run has saved, e.g. RUN_DIR/model/2"),
        ("runner.warmup_model_path=nowhere", "there is no such folder; name that of a saved epoch, e.g. RUN_DIR/model/2"),
        ("runner.warmup_model_path=" + "x" * 300, "there is no such folder; name that of a saved epoch"),
        ("runner.keep_epochs=1", "runner.keep_epochs: 1: must be at least 2"),
        ("runner.infer_end_epoch=0", "runner.infer_end_epoch: 0: is the epoch before which to end, so it must be above"),
        ("runner.reader_type=Queue", "runner.reader_type: 'Queue': must be one of QueueDataset, InmemoryDataset, DataLoader"),
        ("table_parameters=4", "table_parameters: 4: must be a section: its keys indented below it, or in braces, such as {NAME: …}"),
        ("table_parameters.a.w=4", "table_parameters.a.w: 4: must be a section"),
        ("table_parameters.a.w.optimizer=4", "table_parameters.a.w.optimizer: 4: must be a section: its keys indented below it, or in braces, such as {class: …}"),
        ("table_parameters.a.w.optimizer.class=adm", "table_parameters.a.w.optimizer.class: 'adm': must be one of adam, lazy_adam, sgd"),
        ("table_parameters.a.w.optimizer.beta1=0.9999", "table_parameters.a.w.optimizer.beta1: 0.9999: must be below 0.9995"),
        ("table_parameters.a.w.optimizer.learning_rat=1", "there is no such key; did you mean 'learning_rate'?"),
        ("features.user={kind: id, rows: opne}", "features.user.rows: 'opne': must be a whole number of at least 1, or the word open"),
        ("features.user={kind: id, rows: 0}", "features.user.rows: 0: must be a whole number of at least 1"),
        ("table_parameters.a.w.initial_range=0", "table_parameters.a.w.initial_range: 0: must be above 0; it means: rows start uniform"),
        ("epochs=3", "epochs: 3: there is no such key; did you mean 'runner.epochs'?"),
        ("name=7", "name: 7: must be text"),
        ("nonsense", "-o 'nonsense': write key=value, e.g. -o runner.epochs=3"),
        ("runner..epochs=3", "-o 'runner..epochs=3': write key=value"),
        ("=3", "-o '=3': write key=value"),
        ("runner.train_data_dir.x=3", "runner.train_data_dir is 'train', not a section"),
        ("runner.epochs=[", "-o 'runner.epochs=[': line 1: not valid YAML"),
    ],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_a_mistake_names_key_value_and_remedy(line: str, said: str, write: Write) -> None:
    (told,) = mistakes(write(), line)
    assert said in told


def test_features_that_no_network_could_take_are_told(write: Write) -> None:
    said = mistakes(write(), "hyper_parameters.mode=DeepFM", "features={click: {kind: label}}")
    assert said == [
        "features: all are labels, so there is nothing to tell them by; add what a sample has, e.g. user and item"
    ]
    (one,) = mistakes(write(), "hyper_parameters.mode=DeepFM", "features={self: {kind: number}, label: {kind: label}}")
    assert "features.self: is no name that a network's forward could take" in one


def test_adams_betas_are_judged_together_and_for_adam_alone(write: Write) -> None:
    betas = ["hyper_parameters.optimizer.beta1=0.9", "hyper_parameters.optimizer.beta2=0.5"]
    assert len(mistakes(write(), *betas)) == 1
    optimizer = load_job(write(), [*betas, "hyper_parameters.optimizer.class=lazy_adam"]).hyper_parameters.optimizer
    assert (optimizer.beta1, optimizer.beta2) == (0.9, 0.5)
    (told,) = mistakes(write(), betas[0], "hyper_parameters.optimizer.beta2=much")
    assert "beta2: 'much': must be a number" in told


def test_saves_that_later_ones_build_on_are_not_to_be_removed(write: Write) -> None:
    delta, keep = "runner.save_mode=delta", "runner.keep_epochs=3"
    (told,) = mistakes(write(), delta, keep)
    assert told.startswith("runner.keep_epochs: 3: save_mode delta builds each save on the ones before: leave one out")
    for alone in (delta, keep, "runner.save_mode=base"):
        load_job(write(), [alone, keep] if "base" in alone else [alone])


def test_a_section_with_nothing_in_it_is_as_good_as_none(write: Write) -> None:
    path = write(MINIMAL + "hyper_parameters:\n  optimizer:\n  # class: sgd\nlimits:\n")
    assert load_job(path).hyper_parameters == load_job(write()).hyper_parameters
    assert load_job(path, ["hyper_parameters.optimizer.class=sgd"]).hyper_parameters.optimizer.name == "sgd"
    assert mistakes(write("runner:\n"))[0].startswith("runner.train_data_dir: is missing")


def test_a_missing_key_is_named_with_its_meaning(write: Write) -> None:
    assert mistakes(write("runner: {epochs: 2}")) == [
        "runner.train_data_dir: is missing; add it; it means: folder with one <client>.csv each, lines user,item,label"
    ]
    (told,) = mistakes(write("hyper_parameters: {num_users: 3}"))
    assert told.startswith("runner: is missing; add it")


def test_all_mistakes_are_told_at_once_cross_checks_included(write: Write) -> None:
    path = write(
        "runner:\n"
        "  train_data_dir: train\n"
        "  test_data_dir: nowhere\n"
        "  epochs: 0\n"
        "  geo_setp: 3\n"
        "  worker_num: 9\n"
        "  local_sparse: [a, b]\n"
        "  remote_sparse: [b, c]\n"
        "  local_dense: [c]\n"
        "hyper_parameters:\n"
        "  fc_layers: [9, 8]\n"
        "  optimizer: {class: adm}\n"
        "  widht: 3\n"
    )
    told = mistakes(path, "bla")
    starts = (
        "-o 'bla'",
        "runner.epochs: 0",
        "runner.geo_setp: 3",
        "hyper_parameters.optimizer.class: 'adm'",
        "runner.test_data_dir: '",
        "runner.worker_num: 9",
        "runner.local_sparse: 'b': is in remote_sparse too",
        "runner.remote_sparse: 'c': is in local_dense too",
        "hyper_parameters.fc_layers: [9, 8]",
        "hyper_parameters.widht: 3",
    )
    assert len(told) == len(starts)
    assert all(line.startswith(start) for line, start in zip(told, starts, strict=True)), told


def test_what_hangs_on_a_mistaken_key_is_not_judged(write: Write) -> None:
    path = write("runner: {train_data_dir: 5, worker_num: 9}\nhyper_parameters: {mode: NCF_XYZ, fc_layers: [9, 8]}")
    assert [line.split(":")[0] for line in mistakes(path)] == ["runner.train_data_dir", "hyper_parameters.mode"]


@pytest.mark.parametrize("value", ["x" * 5000, f"[{'[' * 50}{'x, ' * 5000}{']' * 51}"], ids=["text", "list"])
def test_a_long_value_is_cut(value: str, write: Write) -> None:
    (told,) = mistakes(write(), f"runner.epochs={value}")
    assert len(told) < 200
    assert "…" in told


def test_your_own_network_may_have_keys_of_its_own(write: Write) -> None:
    path = write(
        MINIMAL + "  model: net.Net\nhyper_parameters: {width: 6, dropout: 1e-1, top: [.inf], fc_layers: [9, 8]}\n"
    )
    job = load_job(path)
    assert job.hyper_parameters.model_extra == {"width": 6, "top": [float("inf")]}
    again = Job.model_validate_json(job.model_dump_json(by_alias=True))
    assert again == job
    own = again.hyper_parameters.model_fields_set & OF_NETWORKS
    assert own == {"dropout"}, "what nobody gave stays the network's own to choose"


def test_files_may_be_dealt_to_fewer_workers(write: Write) -> None:
    assert load_job(write(), ["runner.split_file_list=true", "runner.worker_num=2"]).runner.worker_num == 2
    assert load_job(write(), ["runner.split_file_list=true"]).runner.worker_num == 3
    (told,) = mistakes(write(), "runner.split_file_list=true", "runner.worker_num=4")
    assert "holds 3 clients (0 … north); use 3, leave the key out, or prepare the data for 4" in told
    (told,) = mistakes(write(), "runner.worker_num=2")
    assert "use 3, leave the key out, set split_file_list, or prepare the data for 2 clients" in told


def test_files_of_any_ending_count_where_your_own_code_reads_them(write: Write, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for name in ("a.txt", "b.gz", ".hidden"):
        (tmp_path / "logs" / name).write_text("0\n")
    (tmp_path / "logs" / "folder").mkdir()
    where = "runner.train_data_dir=logs"
    assert load_job(write(), [where, "runner.reader_type=DataLoader"]).runner.worker_num == 2
    assert (
        load_job(write(), [where, "runner.reader_type=QueueDataset", "runner.pipe_command=cat"]).runner.worker_num == 2
    )
    (told,) = mistakes(write(), where)
    assert "holds no <client>.csv" in told


def test_a_tables_class_has_two_spellings_too(write: Write) -> None:
    job = load_job(write(), ["table_parameters.a.w.optimizer.name=SGD"])
    assert job.table_parameters["a.w"].optimizer.name == "sgd"
    (told,) = mistakes(write(), "table_parameters.a.w.optimizer={name: fast}")
    assert told.startswith("table_parameters.a.w.optimizer.class: 'fast': must be one of adam")


def test_a_table_may_have_an_optimizer_of_its_own(write: Write, tmp_path: Path) -> None:
    path = write(MINIMAL + "table_parameters: {user.weight: {optimizer: {class: SGD}, initial_range: 1e-2}}\n")
    job = load_job(path, ["table_parameters.item.weight.optimizer.learning_rate=0.5"])
    assert {
        n: (t.optimizer.name, t.optimizer.learning_rate, t.initial_range) for n, t in job.table_parameters.items()
    } == {
        "user.weight": ("sgd", None, 0.01),
        "item.weight": (None, 0.5, None),
    }
    job.save(tmp_path / "saved.yaml")
    assert load_job(tmp_path / "saved.yaml") == job
    assert Job.model_validate_json(job.model_dump_json(by_alias=True)) == job


@pytest.mark.parametrize("key", ["num_users", "num_items"])
@pytest.mark.parametrize("count", [2**40, 2**63, 2**64])
def test_hashed_ids_of_64_bits_are_told_with_key_and_remedy(key: str, count: int, write: Write) -> None:
    with pytest.raises(JobError, match=rf"hyper_parameters\.{key}: {count}: each id has a row.*e\.g\. id % 1000000"):
        load_job(write(), [f"hyper_parameters.{key}={count}"])
    load_job(write(), [f"hyper_parameters.{key}={count}", "runner.model=net.Net"])  # which may have another use for it
