"""What no single key of a job shows: paths that are not there, counts, names and modes that do not fit together."""

from collections.abc import Callable, Collection

from fedps.config.checks import data, features, rounds, training
from fedps.config.job import Job


def mistakes_of(job: Job, wrong: Collection[str] = ()) -> list[str]:
    """Return one sentence per mistake across keys.

    Args:
        job: the job; where the file's own value was wrong, something else stands in its place.
        wrong: the keys where that is so; what hangs on one of them is not judged.
    """

    def judged(key: str) -> bool:
        return not any(key == w or key.startswith(f"{w}.") for w in wrong)

    return [m for keys, check in CHECKS if all(map(judged, keys)) for m in check(job)]


CHECKS: tuple[tuple[tuple[str, ...], Callable[[Job], list[str]]], ...] = (
    # the keys that a check looks at, and the check
    ((), data.texts),
    (("runner.train_data_dir",), data.train_folder),
    (("runner.test_data_dir", "runner.train_data_dir", "runner.worker_num"), data.test_folder),
    (("runner.worker_num", "runner.train_data_dir"), data.workers),
    (("runner.train_data_dir", "hyper_parameters.num_users", "hyper_parameters.num_items", "features"), data.sizes),
    (("features",), features.kinds),
    (("features",), features.tables),
    (("features", "runner.model"), features.pooled),
    (("features", "runner.negatives"), features.drawn),
    (("features", "hyper_parameters.mode", "runner.model"), features.inputs),
    (("features", "runner.metrics"), features.measured),
    (("features", "hyper_parameters.loss"), features.learned),
    (("features", "hyper_parameters.loss", "runner.negatives", "runner.model"), features.alone),
    (("runner.train_reader_path", "runner.infer_reader_path"), data.readers),
    (("runner.warmup_model_path",), data.warm_start),
    (("runner.dump_fields_path",), data.dumps),
    (("runner.model_save_path",), data.saves),
    (("runner.keep_epochs", "runner.save_mode"), data.kept),
    (("runner.infer_start_epoch", "runner.infer_end_epoch"), data.epochs),
    (("runner.worker_num", "runner.train_data_dir", "runner.clients_per_round"), rounds.clients),
    (("runner.client_selector",), rounds.selector),
    (("runner.client_selector", "selector.deadline"), rounds.deadline),
    (("runner.client_selector", "runner.clients_per_round", "selector.candidates"), rounds.candidates),
    (
        ("runner.train_data_dir", "runner.split_file_list", "selector.tags", "selector.only", "selector.never"),
        rounds.tags,
    ),
    (
        ("runner.with_coordinator", "runner.test_data_dir", "runner.eval_every", "runner.target", "runner.patience"),
        rounds.ending,
    ),
    (
        ("simulation", "selector", "runner.with_coordinator", "runner.train_data_dir", "runner.worker_num"),
        rounds.traces,
    ),
    (
        ("security.same_table", "runner.with_coordinator", "runner.sync_mode", "runner.geo_merge"),
        rounds.same_table,
    ),
    (("distillation.public_data",), rounds.public_data),
    (("distillation", "runner.with_coordinator", "hyper_parameters.loss", "features"), rounds.distillation),
    (("runner.model",), training.class_path),
    (("runner.local_sparse", "runner.remote_sparse", "runner.local_dense"), training.places),
    (("hyper_parameters.fc_layers", "hyper_parameters.mode", "runner.model"), training.layers),
    (("hyper_parameters", "runner.model"), training.unknown),
    (("hyper_parameters", "runner.model"), training.rows),
    (("hyper_parameters.loss", "runner.train_batch_size", "runner.negatives"), training.groups),
    (("hyper_parameters.loss", "hyper_parameters.mode", "runner.model", "runner.negatives"), training.softmax),
    (("hyper_parameters.num_heads", "hyper_parameters.embedding_dim", "hyper_parameters.mode"), training.heads),
    (("hyper_parameters.optimizer.proximal", "runner.sync_mode"), training.proximal),
    (("server_optimizer.class", "runner.sync_mode", "runner.geo_merge"), training.server_optimizer),
    (
        (*(f"hyper_parameters.optimizer.{k}" for k in ("class", "beta1", "beta2")), "table_parameters"),
        training.momentum,
    ),
)
