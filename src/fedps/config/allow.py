"""What a person at the command line allows, and no job file can."""

from typing import NamedTuple


class Allow(NamedTuple):
    """Two things that a job may ask for and only a flag can grant."""

    commands: bool = False  # --allow-commands: run `runner.pipe_command`
    private_dump: bool = False  # --allow-private-dump: write what is private to a client into its dumps
