"""What no single key shows: paths that are not there, counts and names that do not fit together."""

from collections.abc import Callable, Collection
from itertools import combinations
from pathlib import Path

from fedps.config.checks import selection
from fedps.config.classes import is_class_path
from fedps.config.files import client_files_of, files_in, takes_any_ending, test_files_of
from fedps.config.job import Job
from fedps.config.merging import MERGED
from fedps.config.mistakes import nearest, shown
from fedps.config.sections import distillation
from fedps.errors import DataError, JobError


def mistakes_of(job: Job, wrong: Collection[str] = ()) -> list[str]:
    """Return one sentence per mistake across keys.

    Args:
        job: the job; where the file's own value was wrong, something else stands in its place.
        wrong: the keys where that is so; what hangs on one of them is not judged.
    """

    def judged(key: str) -> bool:
        return not any(key == w or key.startswith(f"{w}.") for w in wrong)

    return [m for keys, check in CHECKS if all(map(judged, keys)) for m in check(job)]


def clients_of(job: Job) -> list[str]:
    """Return the names of the clients that have training files, in natural order.

    Raises:
        OSError: the folder cannot be looked into.
    """
    runner = job.runner
    return [f.stem for f in files_in(runner.train_data_dir, takes_any_ending(runner.reader_type, runner.pipe_command))]


def _train_folder(job: Job) -> list[str]:
    runner = job.runner
    ending = takes_any_ending(runner.reader_type, runner.pipe_command)
    return _folder("runner.train_data_dir", runner.train_data_dir, ending, "e.g. DIR/train")


def _test_folder(job: Job) -> list[str]:
    runner = job.runner
    if runner.test_data_dir is None:
        return []
    ending = takes_any_ending(runner.infer_reader_type, runner.pipe_command)
    without = "e.g. DIR/test, or leave the key out to train without held-out samples"
    return _folder("runner.test_data_dir", runner.test_data_dir, ending, without) or _nobodys_test_files(job)


def _nobodys_test_files(job: Job) -> list[str]:
    try:
        client_files_of(job)
    except DataError:
        return []  # told where the training files are looked at
    try:
        test_files_of(job)
    except DataError as error:
        return [str(error)]
    return []


def _folder(key: str, folder: Path, any_ending: bool, remedy: str) -> list[str]:
    told = f"{key}: {str(folder)!r}: "
    try:
        if not folder.is_dir():
            return [told + "there is no such folder; prepare data with `fedps data prepare movielens --out DIR`"]
        if not files_in(folder, any_ending):
            return [told + f"holds no {'file' if any_ending else '<client>.csv'}; name the folder that does, {remedy}"]
    except OSError as error:
        return [told + f"cannot be read: {error.strerror}; name a folder that can"]
    return []


def _counts(job: Job) -> list[str]:
    runner = job.runner
    try:
        clients = clients_of(job)
    except OSError:
        return []  # told by the check of the folder
    if runner.worker_num is None or not clients or runner.worker_num == len(clients):
        return []
    if runner.split_file_list and runner.worker_num < len(clients):
        return []
    count = f"{len(clients)} clients" if len(clients) > 1 else "1 client"
    named = f"{clients[0]} … {clients[-1]}" if len(clients) > 1 else clients[0]
    fewer = ", set split_file_list" if runner.worker_num < len(clients) else ""
    return [
        f"runner.worker_num: {runner.worker_num}: {runner.train_data_dir} holds {count} ({named}); use {len(clients)},"
        f" leave the key out{fewer}, or prepare the data for {runner.worker_num} clients"
    ]


def _selected(job: Job) -> list[str]:
    runner = job.runner
    try:
        workers = runner.worker_num or len(clients_of(job))
    except OSError:
        return []  # told by the check of the folder
    wanted = runner.clients_per_round
    if not workers or wanted is None or wanted <= workers:
        return []
    return [f"runner.clients_per_round: {wanted}: there are only {workers} clients; use at most {workers}"]


def _selector(job: Job) -> list[str]:
    name = job.runner.client_selector
    if name in selection.SELECTORS or is_class_path(name):
        return []
    return [
        f"runner.client_selector: {name!r}: write {', '.join(selection.SELECTORS)}, or module.Class for a class of your own"
    ]


def _tags(job: Job) -> list[str]:
    try:
        clients = [] if job.runner.split_file_list else clients_of(job)
    except OSError:
        clients = []  # told by the check of the folder
    return selection.tags(job, clients)


def _reader_paths(job: Job) -> list[str]:
    return [
        f"runner.{key}: {path!r}: write the name of a module, e.g. my_reader for my_reader.py beside the job file"
        for key in ("train_reader_path", "infer_reader_path")
        if (path := getattr(job.runner, key)) is not None and not all(part.isidentifier() for part in path.split("."))
    ]


def _warm_start(job: Job) -> list[str]:
    folder = job.runner.warmup_model_path
    try:
        if folder is None or folder.is_dir():
            return []
    except OSError:
        pass  # its name is too long, say
    return [
        f"runner.warmup_model_path: {str(folder)!r}: there is no such folder; name that of a saved epoch, e.g."
        " RUN_DIR/model/2, or leave the key out"
    ]


def _epochs(job: Job) -> list[str]:
    start, end = job.runner.infer_start_epoch, job.runner.infer_end_epoch
    if end is None or start < end:
        return []
    return [
        f"runner.infer_end_epoch: {end}: is the epoch before which to end, so it must be above infer_start_epoch {start}"
    ]


def _lists(job: Job) -> list[str]:
    return [
        f"runner.{one}: {name!r}: is in {other} too; keep it in one of them"
        for one, other in combinations(("local_sparse", "remote_sparse", "local_dense"), 2)
        for name in sorted(set(getattr(job.runner, one)) & set(getattr(job.runner, other)))
    ]


def _traces(job: Job) -> list[str]:
    if job.traces is None:
        return []
    if not job.runner.with_coordinator:
        return [
            "simulation.traces: simulated devices report to a coordinator; set runner.with_coordinator: true, or leave"
            " simulation.traces out"
        ]
    if job.selector.over_selection > 1:
        return [
            f"selector.over_selection: {job.selector.over_selection:g}: who reports first is not who is first on simulated"
            " devices; leave it out, and give stragglers a selector.deadline"
        ]
    from fedps.simulation.traces import read_traces  # noqa: PLC0415  (few jobs have them, and it loads numpy)

    try:
        traces, clients = read_traces(job.traces), clients_of(job)
    except JobError as error:
        return [f"simulation.traces: {mistake}" for mistake in error.mistakes]
    except OSError:
        return []  # told by the check of the folder
    workers = job.runner.worker_num or len(clients)
    if job.runner.split_file_list and workers < len(clients):
        clients = [str(number) for number in range(workers)]  # who the files are dealt to
    without = [client for client in clients if client not in traces]
    if not without:
        return []
    named = f"{without[0]!r}" + (f" and {len(without) - 1} more" if len(without) > 1 else "")
    return [f"simulation.traces: {job.traces}: has no trace for client {named}; there must be one for each client"]


def _class_path(job: Job) -> list[str]:
    path = job.runner.model
    if path is None or is_class_path(path):
        return []
    return [f"runner.model: {path!r}: write module.Class, e.g. net.MyNet for class MyNet of net.py"]


def _layers(job: Job) -> list[str]:
    hyper = job.hyper_parameters
    if job.runner.model is not None or hyper.mode == "NCF_GMF" or hyper.fc_layers[0] % 2 == 0:
        return []
    return [
        f"hyper_parameters.fc_layers: {shown(list(hyper.fc_layers))}: the first size is user row + item row, equally"
        f" long: make it even, e.g. {hyper.fc_layers[0] + 1}"
    ]


def _proximal(job: Job) -> list[str]:
    proximal, mode = job.hyper_parameters.optimizer.proximal, job.runner.sync_mode
    if mode not in ("sync", "async") or not proximal:
        return []
    return [
        f"hyper_parameters.optimizer.proximal: {proximal}: in {mode} the servers optimize, which know no windows; leave"
        " the key out, or use sync_mode geo or round"
    ]


def _server_optimizer(job: Job) -> list[str]:
    name, mode, merge = job.server_optimizer.name, job.runner.sync_mode, job.runner.geo_merge
    if name == "none" or mode == "round" or (mode == "geo" and merge in MERGED):
        return []
    told = f"server_optimizer.class: {name}: "
    if mode == "geo":
        return [
            f"{told}geo_merge {merge} applies each push as it comes, and merges nothing that an optimizer could take; leave"
            f" the class out, or use geo_merge {', '.join(MERGED[:-1])} or {MERGED[-1]}"
        ]
    return [
        f"{told}in {mode} the servers optimize by hyper_parameters.optimizer; leave the class out, or use sync_mode geo or"
        " round"
    ]


def _pairs(job: Job) -> list[str]:
    size = job.runner.train_batch_size
    if job.hyper_parameters.loss != "bpr" or size % 2 == 0:
        return []
    return [
        f"runner.train_batch_size: {size}: with loss bpr a batch is pairs of samples: make it even, e.g. {size + 1}"
    ]


def _momentum(job: Job) -> list[str]:
    job_wide = job.hyper_parameters.optimizer
    found = _endless("hyper_parameters.optimizer", job_wide.name, job_wide.beta1, job_wide.beta2)
    for name, table in job.table_parameters.items():
        own = table.optimizer
        if own.name or own.beta1 is not None or own.beta2 is not None:
            beta1 = job_wide.beta1 if own.beta1 is None else own.beta1
            beta2 = job_wide.beta2 if own.beta2 is None else own.beta2
            found += _endless(f"table_parameters.{name}.optimizer", own.name or job_wide.name, beta1, beta2)
    return found


def _endless(key: str, name: str, beta1: float, beta2: float) -> list[str]:
    limit = beta2**0.5
    if name != "adam" or beta1 < limit:
        return []
    return [
        f"{key}.beta1: {beta1}: must be below {limit:.4g}, the root of beta2 {beta2}, where adam's momentum dies away;"
        " lower beta1, raise beta2, or use class lazy_adam"
    ]


def _unknown(job: Job) -> list[str]:
    if job.runner.model is not None:
        return []
    extra = job.hyper_parameters.model_extra or {}
    return [
        f"hyper_parameters.{key}: {shown(extra[key])}: the built-in networks have no such key;"
        f" {nearest(f'hyper_parameters.{key}')}"
        for key in sorted(extra)
    ]


CHECKS: tuple[tuple[tuple[str, ...], Callable[[Job], list[str]]], ...] = (
    (("runner.train_data_dir",), _train_folder),
    (("runner.test_data_dir", "runner.train_data_dir", "runner.worker_num"), _test_folder),
    (("runner.worker_num", "runner.train_data_dir"), _counts),
    (("runner.worker_num", "runner.train_data_dir", "runner.clients_per_round"), _selected),
    (("runner.model",), _class_path),
    (("runner.client_selector",), _selector),
    (("runner.client_selector", "selector.deadline"), selection.deadline),
    (("runner.client_selector", "runner.clients_per_round", "selector.candidates"), selection.candidates),
    (("runner.train_data_dir", "runner.split_file_list", "selector.tags", "selector.only", "selector.never"), _tags),
    (
        ("runner.with_coordinator", "runner.test_data_dir", "runner.eval_every", "runner.target", "runner.patience"),
        selection.ending,
    ),
    (("runner.train_reader_path", "runner.infer_reader_path"), _reader_paths),
    (("runner.warmup_model_path",), _warm_start),
    (("runner.infer_start_epoch", "runner.infer_end_epoch"), _epochs),
    (("runner.local_sparse", "runner.remote_sparse", "runner.local_dense"), _lists),
    (("simulation", "selector", "runner.with_coordinator", "runner.train_data_dir", "runner.worker_num"), _traces),
    (("hyper_parameters.fc_layers", "hyper_parameters.mode", "runner.model"), _layers),
    (("hyper_parameters.optimizer.proximal", "runner.sync_mode"), _proximal),
    (("server_optimizer.class", "runner.sync_mode", "runner.geo_merge"), _server_optimizer),
    (("hyper_parameters.loss", "runner.train_batch_size"), _pairs),
    (("distillation.public_data",), distillation.missing),
    (("distillation", "runner.with_coordinator", "hyper_parameters.loss"), distillation.misfits),
    ((*(f"hyper_parameters.optimizer.{k}" for k in ("class", "beta1", "beta2")), "table_parameters"), _momentum),
    (("hyper_parameters", "runner.model"), _unknown),
)
