"""How roles that do not trust each other, or what lies between them, are protected.

How connections are is each machine's own affair: `certs` and `insecure` are compared with nobody's.
"""

from pathlib import Path

from pydantic import Field

from fedps.config.sections import Section


class Security(Section):
    """How connections to other machines, and clients from servers, are protected."""

    certs: Path | None = Field(
        None,
        description="folder of this role's certificate, or of an authority: connections are encrypted, and all are who they say"
        " they are; left out: in the clear, on one machine alone",
    )
    insecure: bool = Field(
        False, description="connect in the clear to other machines: whoever is on the way reads and changes all"
    )
    clients: tuple[str, ...] | None = Field(
        None,
        description="names of the clients that servers and the coordinator let in; left out: under `fedps run` those that the data"
        " is of, else any, with certificates any that the authority has signed",
    )
    same_table: bool | None = Field(
        None,
        description="the coordinator compares what servers give the clients, and ends the run where that differs, or can be"
        " compared with nobody's; left out: the same where there is a coordinator and what is pulled has a clock (sync, round,"
        " geo_merge heat, adaptive, buffered), but what can be compared with nobody's is told, and the run goes on",
    )
