"""`fedps config`: look at a job without running it."""

from cyclopts import App

from fedps.cli.app import JobFile, Override, app, load, named, note, note_job

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
    from fedps.data.read.client import check_files  # noqa: PLC0415
    from fedps.errors import DataError, JobError  # noqa: PLC0415
    from fedps.launch.progress import places  # noqa: PLC0415
    from fedps.training.plan import look_at  # noqa: PLC0415

    notes, mistakes, where = list[str](), list[str](), ""
    try:
        notes = check_files(resolved, Allow(commands=True))
    except DataError as error:
        mistakes.append(str(error))
    try:
        where = places(look_at(resolved))
    except JobError as error:
        mistakes += error.mistakes
    if mistakes:
        raise JobError(mistakes)
    for text in notes:
        note(text)
    print(f"{where}\n{job}: no mistakes")
