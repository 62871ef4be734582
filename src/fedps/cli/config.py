"""`fedps config`: look at a job without running it."""

from cyclopts import App

from fedps.cli.app import JobFile, Override, app, load, named, note_job

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
    """Say whether a job is right, or all that is wrong with it."""
    note_job(load(job, override or []))
    print(f"{job}: no mistakes")
