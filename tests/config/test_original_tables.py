"""The original's `table_parameters`, with its rules and their constants."""

from pathlib import Path

import pytest

from fedps.config import TableParameters, load_job, notes_of
from fedps.errors import JobError
from tests.config.conftest import MINIMAL, Write

ACCESSOR = """
table_parameters:
  embedding_0.w_0:
    table_class: MemorySparseTable
    shard_num: 10
    accessor:
      accessor_class: SparseAccessor
      fea_dim: 33
      embedx_dim: 32
      embed_sgd_param: &rule
        name: SparseAdaGradSGDRule
        adagrad: {learning_rate: 0.1, initial_g2sum: 2.0, initial_range: 0.02, weight_bounds: [-10.0, 10.0]}
      embedx_sgd_param: *rule
  mlp_item.weight:
    accessor:
      embedx_sgd_param: *rule
"""


def load(write: Write, *overrides: str, text: str = "") -> tuple[dict[str, TableParameters], list[str]]:
    job = load_job(write(MINIMAL + text), overrides)
    return dict(job.table_parameters), notes_of(job)


def mistakes(write: Write, *overrides: str, text: str = "") -> list[str]:
    with pytest.raises(JobError) as caught:
        load_job(write(MINIMAL + text), overrides)
    return caught.value.mistakes


def test_an_accessors_rule_becomes_the_tables_optimizer(write: Write, tmp_path: Path) -> None:
    tables, notes = load(write, text=ACCESSOR)
    for table in tables.values():
        o = table.optimizer
        assert (o.name, o.learning_rate, o.initial_g2, table.initial_range) == ("row_adagrad", 0.1, 2.0, 0.02)
        assert (o.beta1, o.beta2, o.epsilon) == (None, None, None), "those of hyper_parameters.optimizer"
    assert notes == [
        "table_parameters.embedding_0.w_0: table_class, shard_num, accessor.accessor_class, accessor.fea_dim,"
        " accessor.embedx_dim, accessor.embedx_sgd_param.adagrad.weight_bounds: no effect here: rows have no such storage",
        "table_parameters.mlp_item.weight: accessor.embedx_sgd_param.adagrad.weight_bounds: no effect here: rows have no"
        " such storage",
    ]  # fmt: skip
    job = load_job(write(MINIMAL + ACCESSOR))
    job.save(tmp_path / "saved.yaml")
    assert load_job(tmp_path / "saved.yaml").model_dump() == job.model_dump()


@pytest.mark.parametrize(
    ("rule", "section", "ours", "notes"),
    [
        ("SparseNaiveSGDRule", "naive: {learning_rate: 0.5}", ("sgd", 0.5, None), 0),
        ("SparseAdaGradSGDRule", "adagrad: {initial_g2sum: 5}", ("row_adagrad", None, None), 0),
        ("StdAdaGradSGDRule", "adagrad: {learning_rate: 0.5, initial_g2sum: 5}", ("adagrad", 0.5, None), 1),
        ("SparseAdamSGDRule", "adam: {beta1_decay_rate: 0.8}", ("lazy_adam", None, 0.8), 0),
        ("SparseSharedAdamSGDRule", "adam: {learning_rate: 0.5, ada_epsilon: 1e-6}", ("shared_adam", 0.5, None), 0),
        ("SparseNaiveSGDRule", "adam: {learning_rate: 0.5}", ("sgd", None, None), 1),
    ],
)
def test_each_rule_has_one_of_ours(
    rule: str, section: str, ours: tuple[str, float | None, float | None], notes: int, write: Write
) -> None:
    over = f"table_parameters.a.w.accessor.embed_sgd_param={{name: {rule}, {section}}}"
    tables, told = load(write, over)
    o = tables["a.w"].optimizer
    assert (o.name, o.learning_rate, o.beta1) == ours
    assert len(told) == notes


def test_overrides_reach_into_an_accessor(write: Write) -> None:
    above = "table_parameters.embedding_0.w_0.accessor.embedx_sgd_param"
    tables, _ = load(write, f"{above}.adagrad.learning_rate=0.7", f"{above}.name=StdAdaGradSGDRule", text=ACCESSOR)
    o = tables["embedding_0.w_0"].optimizer
    assert (o.name, o.learning_rate) == ("adagrad", 0.7)
    assert tables["mlp_item.weight"].optimizer.learning_rate == 0.1, "an alias (*rule) is a copy"
    tables, _ = load(write, "table_parameters.a.w.accessor.embedx_sgd_param.adam.learning_rate=0.7")
    assert (tables["a.w"].optimizer.name, tables["a.w"].optimizer.learning_rate) == (None, 0.7)


def test_a_row_has_one_rule(write: Write) -> None:
    above = "table_parameters.a.accessor"
    tables, (note,) = load(
        write, f"{above}.embed_sgd_param={{name: SparseNaiveSGDRule}}", f"{above}.embedx_sgd_param={{name: SparseAdamSGDRule}}"
    )  # fmt: skip
    assert tables["a"].optimizer.name == "lazy_adam"
    assert "a row has one rule, that of embedx_sgd_param" in note


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("accessor=3", "accessor: 3: must be a section"),
        ("accessor.embed_sgd_param=adam", "accessor.embed_sgd_param: 'adam': must be a section"),
        ("accessor.embed_sgd_param.name=SparseAdam", "'SparseAdam': must be one of SparseNaiveSGDRule,"),
        ("accessor.embed_sgd_param.name=[1]", "name: [1]: must be one of"),
        ("accessor.embed_sgd_param.name=SparseAdamSgdRule", "did you mean 'SparseAdamSGDRule'?"),
        ("accessor.embed_sgd_param.adagrad.lr=3", "adagrad.lr: 3: there is no such key; there are learning_rate"),
        ("accessor.embed_sgd_param.adagrad.learning_rate=fast", "optimizer.learning_rate: 'fast': must be a number"),
        ("accessor.embed_sgd_param.adagrad=3", "adagrad: 3: must be a section"),
        ("accessor.embed_sgd=3", "accessor.embed_sgd: 3: there is no such key; there are embed_sgd_param"),
    ],
)
def test_what_cannot_be_read_is_told(line: str, said: str, write: Write) -> None:
    told = mistakes(write, f"table_parameters.a.w.{line}")
    assert len(told) == 1
    assert said in told[0]


def test_a_key_that_is_nobodys_stays_a_mistake(write: Write) -> None:
    (told,) = mistakes(write, text="table_parameters: {a.w: {tabel_class: 3}}\n")
    assert (
        told
        == "table_parameters.a.w.tabel_class: 3: there is no such key; there are optimizer, initial_range, admit_after, expire_after, max_rows"
    )


def test_a_table_says_it_in_one_way(write: Write) -> None:
    both = [
        "table_parameters.mlp_item.weight.optimizer.class=sgd",
        "table_parameters.mlp_item.weight.initial_range=0.1",
    ]
    assert mistakes(write, *both, text=ACCESSOR) == [
        "table_parameters.mlp_item.weight.optimizer: accessor says it too, in the original's words; keep one",
        "table_parameters.mlp_item.weight.initial_range: accessor says it too, in the original's words; keep one",
    ]
