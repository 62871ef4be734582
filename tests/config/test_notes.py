"""Keys that are given a value and do nothing: one sentence each."""

import pytest

from fedps.config import Allow, load_job, notes_of
from tests.config.conftest import MINIMAL, Write


def test_a_key_without_effect_is_noted_not_refused(write: Write) -> None:
    job = load_job(write(), ["runner.sync_mode=sync", "runner.geo_step=7", "runner.row_average=touched"])
    assert notes_of(job) == [
        "runner.geo_step: 7: has no effect with sync_mode sync, only with geo",
        "runner.row_average: touched: has no effect with sync_mode sync, only with round",
    ]
    assert notes_of(load_job(write(), ["runner.geo_step=7"])) == []
    path = write(MINIMAL + "hyper_parameters: {mf_dim: 4, optimizer: {class: sgd, beta1: 0.5}}\n")
    assert notes_of(load_job(path)) == [
        "hyper_parameters.mf_dim: 4: has no effect with mode NCF_MLP, only with NCF_GMF or NCF_NeuMF",
        "hyper_parameters.optimizer.beta1: 0.5: has no effect with class sgd, only with adam, lazy_adam or shared_adam",
    ]
    assert len(notes_of(load_job(path, ["runner.model=net.Net"]))) == 1, "a network of one's own may take mf_dim"


def test_keys_of_coordinator_readers_and_dumps_are_noted_where_they_do_nothing(write: Write) -> None:
    def notes(*overrides: str, allow: Allow | None = None) -> list[str]:
        return notes_of(load_job(write(), [f"runner.{o}" for o in overrides]), allow)

    assert notes("client_selector=random", "clients_per_round=2", "round_iterations=9", "eval_clients=joined") == [
        "runner.client_selector: random, runner.clients_per_round: 2, runner.round_iterations: 9,"
        " runner.eval_clients: joined: have no effect without with_coordinator"
    ]
    assert notes("with_coordinator=1", "clients_per_round=2") == [
        "runner.clients_per_round: 2: has no effect with client_selector all; use another, or your own"
    ]
    assert notes("with_coordinator=1", "clients_per_round=2", "client_selector=random") == []
    assert notes("dump_param=[a]") == ["runner.dump_param: ['a']: has no effect without need_dump"]
    assert notes("need_dump=yes") == [
        "runner.need_dump: True: there is nothing to dump; name dump_fields or dump_param"
    ]
    assert notes("need_dump=yes", "dump_fields=[label]") == []
    assert notes("pipe_command=cat") == [
        "runner.pipe_command: 'cat': has no effect without reader_type QueueDataset or InmemoryDataset"
    ]
    piped = ("pipe_command=cat", "reader_type=QueueDataset")
    assert notes(*piped) == notes(*piped, allow=Allow(commands=True)) == []
    (told,) = notes(*piped, allow=Allow())
    assert told.startswith("runner.pipe_command: 'cat': is not run without --allow-commands; the built-in reader")
    assert notes("reader_type=InmemoryDataset", "infer_reader_type=DataLoader") == [
        "runner.reader_type: InmemoryDataset: without pipe_command the built-in reader reads lines user,item,label",
        "runner.infer_reader_type: DataLoader: without infer_reader_path the built-in reader reads lines user,item,label",
    ]
    assert notes("reader_type=RecDataset", "train_reader_path=my.reader") == []


def test_keys_of_selection_are_told_in_one_note_without_a_coordinator(write: Write) -> None:
    alone = load_job(write(), ["selector.alpha=1", "selector.options={mine: 3}", "runner.client_selector=oort"])
    assert notes_of(alone) == [
        "runner.client_selector: oort, selector.alpha: 1.0, selector.options: {'mine': 3}: have no effect without"
        " with_coordinator"
    ]
    assert notes_of(load_job(write(), ["selector.deadline=9"])) == [
        "selector.deadline: 9.0: has no effect without with_coordinator"
    ]
    assert notes_of(load_job(write(), ["selector.alpha=2"])) == []


def test_keys_of_another_selector_are_noted_and_all_may_be_read_by_ones_own(write: Write) -> None:
    keys = ["runner.with_coordinator=1", "selector.max_picks=9", "selector.candidates=8", "selector.deadline=30"]
    assert notes_of(load_job(write(), [*keys, "runner.client_selector=power_of_choice"])) == [
        "selector.max_picks: 9: has no effect with client_selector power_of_choice, only with oort"
    ]
    assert notes_of(load_job(write(), [*keys, "runner.client_selector=oort"])) == [
        "selector.candidates: 8: has no effect with client_selector oort, only with power_of_choice"
    ]
    assert notes_of(load_job(write(), [*keys, "runner.client_selector=mine.Own"])) == []


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("sync_mode=async", "sync_mode async"),
        ("sync_mode=round", "sync_mode round"),
        ("geo_merge=mean", "geo_merge mean"),
    ],
)
def test_pace_matters_only_where_clients_wait_for_each_other(mode: str, told: str, write: Write) -> None:
    def noted(*overrides: str) -> list[str]:
        return notes_of(load_job(write(), [f"runner.{o}" for o in overrides]))

    only = "only with sync_mode sync, or geo with geo_merge heat or adaptive"
    assert f"runner.pace: own: has no effect with {told}, {only}" in noted(mode, "pace=own")
    for lockstep in ("sync_mode=sync", "geo_merge=heat", "geo_merge=adaptive"):
        assert not any("runner.pace" in note for note in noted(lockstep, "pace=own"))
