"""`fedps config`: look at a job without running it."""

from collections.abc import Callable
from typing import TypeVar

from cyclopts import App

from fedps.cli.app import JobFile, Override, app, load, named, note, note_job

T = TypeVar("T")
config_app = App(name="config", help="Look at a job without running it.")
app.command(config_app)


@config_app.command
def show(job: JobFile = None, *, override: Override = None) -> None:
    """Print the job as it will run: every key with its value, where that came from, and what it means.

    The output is a job file for the same job.
    """
    from fedps.config import describe  # noqa: PLC0415

    print(describe(named(job), override or []), end="")


@config_app.command
def check(job: JobFile = None, *, override: Override = None) -> None:
    """Say whether a job and its data are right, or all that is wrong with them; and what would leave the clients."""
    resolved = load(job, override or [])
    note_job(resolved)
    from fedps.config import Allow  # noqa: PLC0415
    from fedps.coordinator.selectors import make_selector  # noqa: PLC0415
    from fedps.data.read.client import check_files, load_classes  # noqa: PLC0415
    from fedps.errors import DataError, JobError  # noqa: PLC0415
    from fedps.launch.folder import check_places, check_readers  # noqa: PLC0415
    from fedps.launch.progress import places  # noqa: PLC0415
    from fedps.training.plan import look_at  # noqa: PLC0415

    mistakes = list[str]()

    def found(look: Callable[[], T]) -> T | None:
        try:
            return look()
        except JobError as error:
            mistakes.extend(error.mistakes)
        except DataError as error:
            mistakes.append(str(error))
        return None

    found(lambda: check_places(resolved))
    found(lambda: check_readers(resolved))
    found(lambda: load_classes(resolved))
    found(lambda: make_selector(resolved))
    notes = found(lambda: check_files(resolved, Allow(commands=True)))
    checked = found(lambda: look_at(resolved))
    if mistakes or notes is None or checked is None:
        raise JobError(mistakes)
    for text in notes:
        note(text)
    print(f"{places(checked, resolved.runner.metrics)}\n{job}: no mistakes")
