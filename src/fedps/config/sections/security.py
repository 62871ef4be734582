"""How connections are protected: each machine's own affair, so these keys are compared with nobody's."""

from pathlib import Path

from pydantic import Field

from fedps.config.sections import Section


class Security(Section):
    """How connections to other machines are protected."""

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
