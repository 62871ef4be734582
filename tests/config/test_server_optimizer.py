"""The section `server_optimizer`: the rule it comes to, and where it cannot be."""

import pytest

from fedps.config import load_job, notes_of
from fedps.errors import JobError
from fedps.training.rules import server_rule
from fedps.types import Rule
from tests.config.conftest import Write


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        ((), Rule("add")),
        (("class=momentum",), Rule("fed_momentum", 0.1, 0.9)),
        (("class=Adagrad",), Rule("fed_adagrad", 0.1, 0.0)),
        (("class=adagrad", "beta1=0.5"), Rule("fed_adagrad", 0.1, 0.5)),
        (("class=ADAM", "learning_rate=0.2", "beta2=0.5", "tau=0.1"), Rule("fed_adam", 0.2, 0.9, 0.5, 0.1)),
        (("class=yogi", "beta1=0"), Rule("fed_yogi", 0.01, 0.0)),
    ],
)
def test_what_is_left_out_is_as_in_the_papers(overrides: tuple[str, ...], rule: Rule, write: Write) -> None:
    found = server_rule(load_job(write(), [f"server_optimizer.{o}" for o in overrides]).server_optimizer)
    if rule.name == "add":
        assert found.name == "add"
        return
    assert (found.name, found.learning_rate, found.beta1) == (rule.name, rule.learning_rate, rule.beta1)
    named = any(o.startswith("tau") for o in overrides)
    assert (found.beta2, found.epsilon) == ((rule.beta2, rule.epsilon) if named else (0.99, 1e-3))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("runner.sync_mode=sync",), "in sync the servers optimize by hyper_parameters.optimizer; leave the class out"),
        (("runner.sync_mode=async",), "in async the servers optimize"),
        (("runner.geo_merge=original",), "geo_merge original applies each push as it comes"),
        (("runner.geo_merge=mean",), "use geo_merge heat, adaptive or buffered"),
        (("runner.geo_merge=sum",), "geo_merge sum"),
    ],
)
def test_where_nothing_is_merged_it_is_an_error(overrides: tuple[str, ...], told: str, write: Write) -> None:
    with pytest.raises(JobError) as caught:
        load_job(write(), ["server_optimizer.class=yogi", *overrides])
    (mistake,) = caught.value.mistakes
    assert mistake.startswith("server_optimizer.class: yogi: ")
    assert told in mistake


def test_a_round_and_every_gated_merge_take_one(write: Write) -> None:
    for chosen in ("runner.sync_mode=round", *(f"runner.geo_merge={m}" for m in ("heat", "adaptive", "buffered"))):
        assert load_job(write(), ["server_optimizer.class=adam", chosen]).server_optimizer.name == "adam"


def test_keys_without_effect_are_noted(write: Write) -> None:
    keys = ["server_optimizer.learning_rate=0.1", "server_optimizer.beta2=0.5", "runner.buffer=3"]
    assert notes_of(load_job(write(), keys)) == [
        "runner.buffer: 3: has no effect with geo_merge adaptive, only with buffered",
        "server_optimizer.learning_rate: 0.1: has no effect with class none, only with momentum, adagrad, adam or yogi",
        "server_optimizer.beta2: 0.5: has no effect with class none, only with adam or yogi",
    ]
    assert notes_of(load_job(write(), [*keys, "server_optimizer.class=adam", "runner.geo_merge=buffered"])) == []
