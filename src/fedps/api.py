"""A run from Python: `fedps.run` starts one, `fedps.load` opens what one has left.

run = fedps.run("examples/quickstart.yaml", epochs=2)   # in a script, or in a cell of a notebook
run.metrics["hr@10"]
run.history                                             # a table, a line an epoch
run.tables["item"].rows
run.recommend("17", k=3)
"""

import json
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fedps.config import Allow, Job, load_job, notes_of
from fedps.config.job import fields, section
from fedps.config.mistakes import close
from fedps.errors import DataError, JobError, RunError, needing_torch
from fedps.events.past import read_summary
from fedps.launch.folder import find_run
from fedps.serving.saved_run import Tables, private_tables, read_job, shared_tables, whole_epoch
from fedps.types import Keys, Values

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import nn

    from fedps.data.catalogue import Catalogue
    from fedps.serving.recommend import Recommendation, Recommender
    from fedps.types import ClientId


class Rows(NamedTuple):
    """The rows of a table.

    Attributes:
        ids: int64[n], sorted.
        rows: float32[n, dim].
    """

    ids: Keys
    rows: Values


class RowsByTable(dict[str, Rows]):
    """Rows by the name of their parameter; or by a feature's name, where one table alone ends in it (`item`: `embedding_item.weight`).

    >>> tables = RowsByTable({"embedding_item.weight": Rows(np.array([3]), np.ones((1, 2)))})
    >>> tables["item"].ids
    array([3])

    Raises:
        KeyError: there is none of that name, or several; names those that there are.
    """

    def __missing__(self, name: str) -> Rows:
        found = [table for table in self if f"_{table}".removesuffix(".weight").endswith(f"_{name}")]
        if len(found) != 1:
            raise KeyError(f"{name!r}: write one of {', '.join(found or self)}")
        return self[found[0]]


class Run:
    """What a run has left in its folder.

    >>> run = fedps.load(folder)
    >>> run.epoch, list(run.metrics)
    (2, ['loss', 'auc', 'train_auc', 'hr@10', 'ndcg@10'])
    >>> run.history.column("round").to_pylist()
    [1, 2]
    >>> run.tables["item"].rows.shape
    (220, 8)
    >>> sum(weight.numel() for weight in run.model.parameters())
    2177
    >>> [len(one.item) > 0 for one in run.recommend(user="7", k=3)]
    [True, True, True]

    Args:
        folder: the run's.
        epoch: which saved epoch its model is; the last that is whole if None.

    Attributes:
        folder: absolute.
        job: as it ran.
        summary: as `summary.json` has it.

    Raises:
        JobError: there is no such run, or no such epoch.
        DataError: it has not ended, or a file of it is torn.
    """

    def __init__(self, folder: Path, epoch: int | None = None) -> None:
        self.folder = folder.resolve()
        self.job = read_job(self.folder)
        self.summary = _summary(self.folder)
        self._wanted = epoch
        if epoch is not None:
            whole_epoch(self.folder, epoch)

    def __repr__(self) -> str:
        figures = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        return f"<fedps run {self.folder.name}: {self.summary['status']}; {figures or 'nothing measured'}>"

    @property
    def metrics(self) -> dict[str, float]:
        """The last epoch's figures, by name; those that were measured."""
        return {name: value for name, value in self.summary["metrics"].items() if value is not None}

    @property
    def history(self) -> "pa.Table":
        """A line an epoch (or round): its number, seconds, who trained, loss and metrics. `.to_pandas()` makes it a data frame."""
        import pyarrow as pa  # noqa: PLC0415  (only who asks waits for it)

        return pa.Table.from_pylist(self.summary["rounds"])

    @property
    def report(self) -> Path:
        """The page with the run's curves."""
        return self.folder / "report.html"

    @cached_property
    def epoch(self) -> int:
        """The number of the saved epoch, counted from 1. Raises DataError: nothing whole was saved."""
        return whole_epoch(self.folder, self._wanted)

    @cached_property
    def model(self) -> "nn.Module":
        """The job's network with the epoch's weights, and the clients' private rows where they lie in the run's folder.

        Raises:
            JobError: torch is not installed, or clients hold different private values of the same rows.
            DataError: nothing whole was saved, or a file is torn.
        """
        with needing_torch():
            from fedps.serving.saved_network import network_of  # noqa: PLC0415

        return network_of(self.job, self._saved).module

    @cached_property
    def tables(self) -> "RowsByTable":
        """The saved rows of each table, the clients' private ones among them where they lie in the run's folder."""
        return RowsByTable({n: Rows(t.keys, t.values) for n, t in self._saved.items() if t.spec.kind == "sparse"})

    def recommend(self, user: str, k: int = 10, *, client: str | None = None) -> "list[Recommendation]":
        """Return the k best items for a user, each with `item`, `title` and `score`, without what the user has in training.

        Args:
            user: in the ids of your data.
            k: how many.
            client: whose user that is; None: the client that has it, of those whose rows are in the run's folder.

        Raises:
            JobError: no such user or client, two clients that have it, or k over the catalogue.
            DataError: nothing whole was saved, or a file of the run or of the client's data is missing or torn.
        """
        from fedps.serving.opened import client_of  # noqa: PLC0415
        from fedps.serving.recommend import Recommender  # noqa: PLC0415

        whose = client or client_of(user, self._users, self.folder)
        if whose not in self._recommenders:
            self._recommenders[whose] = Recommender.open(self.folder, whose, self.epoch)
        return self._recommenders[whose].recommend(user, k)

    @cached_property
    def _users(self) -> "Mapping[ClientId, Catalogue]":
        from fedps.serving.opened import users_here  # noqa: PLC0415

        return users_here(self.job, self.folder, Allow())

    @cached_property
    def _recommenders(self) -> "dict[str, Recommender]":
        return {}

    @cached_property
    def _saved(self) -> Tables:
        return shared_tables(self.folder, self.epoch) | private_tables(self.folder, self.epoch)


def run(
    job: str | Path | Job, *, run_dir: str | Path | None = None, in_process: bool = False, quiet: bool = False,
    allow_commands: bool = False, allow_private_dump: bool = False, **settings: Any,
) -> Run:  # fmt: skip
    """Run a job on this machine, as `fedps run` does: servers and one worker a client, train, evaluate, save.

    A script needs no `if __name__ == "__main__"` for it, and a notebook nothing else. Progress goes to standard error.

    Args:
        job: its file, or one that `fedps.load_job` read.
        run_dir: the run's folder, by default `runs/<job>-<time>`.
        in_process: all in this process, so that a breakpoint works anywhere.
        quiet: show no progress.
        allow_commands: let the job's pipe_command run.
        allow_private_dump: let what is private to a client be dumped.
        settings: keys of the job file to set, as `epochs=2`; a later section's dotted, `**{"server_optimizer.beta1": 0.5}`.
            A `Path` counts from where you stand, other values as in the file.

    Raises:
        JobError: mistakes in the job or in a setting; nothing was started.
        DataError: files cannot be read.
        RunError: the run failed; its `folder` tells what happened.
        KeyboardInterrupt: it was interrupted; all its processes are gone.

    >>> run = fedps.run(job, run_dir=place, epochs=1, quiet=True)
    >>> run.summary["status"], 0 <= run.metrics["hr@10"] <= 1
    ('ok', True)
    """
    from fedps.launch.launcher import run as launch  # noqa: PLC0415
    from fedps.launch.orders import Orders  # noqa: PLC0415  (looking at a run needs none of it)

    allow = Allow(allow_commands, allow_private_dump)
    if isinstance(job, Job):
        if settings:
            raise JobError(
                f"{next(iter(settings))}: settings go with a job file; read it by fedps.load_job(FILE, [...])"
            )
    else:
        job = load_job(job, [_override(key, value) for key, value in settings.items()])
    if not quiet:
        for text in notes_of(job, allow):
            print(f"note: {text}", file=sys.stderr)
    place = None if run_dir is None else Path(run_dir)
    summary = launch(job, place, in_process, False, Orders(allow=allow, quiet=quiet))
    if summary["status"] != "ok":
        raise RunError(str(summary["error"]), Path(summary["run_dir"]))
    return Run(Path(summary["run_dir"]))


def load(folder: str | Path, epoch: int | None = None) -> Run:
    """Open a run's folder.

    Args:
        folder: the run's, or `latest`: the newest under `runs/`.
        epoch: which saved epoch its model is; the last that is whole if None.

    Raises:
        JobError: there is no such run, or no such epoch.
        DataError: it has not ended, or a file of it is torn.
    """
    return Run(find_run(folder), epoch)


def _override(key: str, value: Any) -> str:
    """Return a setting as the command line would write it; of sections with the same key the job's first has it.

    Raises:
        JobError: no key is called so.
    """
    keys = [path for path, field in fields() if section(field) is None]
    found = next((path for path in keys if f".{path}".endswith(f".{key}")), None)
    if found is None and "." not in key:
        meant = close(key, [path.rpartition(".")[2] for path in keys])
        raise JobError(
            f"{key}: is no key of a job; {'did you mean ' + meant[0] if meant else '`fedps config show` lists them'}"
        )
    if isinstance(value, Path):
        value = str(Path.cwd() / value)
    return f"{found or key}={json.dumps(value)}"


def _summary(run_dir: Path) -> Mapping[str, Any]:
    path = run_dir / "summary.json"
    try:
        summary = read_summary(run_dir)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: is no JSON ({error}); the run's events.jsonl has what it was made of") from None
    if not summary:
        raise DataError(
            f"{path}: is not there: the run goes on, or was killed; `fedps doctor {run_dir}` tells what is whole"
        )
    return summary
