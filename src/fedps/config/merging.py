"""What kinds of merges and rules there are, and how much one client's word counts: said once for checks, clients, servers."""

from collections.abc import Sequence
from statistics import median

LOCKSTEP = ("heat", "adaptive")  # values of `geo_merge` by which a window's pushes are merged together
MERGED = (*LOCKSTEP, "buffered")  # by which several pushes become one change, that a server optimizer could take
AVERAGED = ("mean", *MERGED)  # by which a change counts for less, the more clients there are
ADAMS = ("adam", "lazy_adam", "shared_adam")  # classes of optimizer
CLAIM_LIMIT = (
    16  # medians of what all clients claim of themselves, samples or weights, that one's claim counts as at most
)


def bounded(claims: Sequence[float]) -> list[float]:
    """Cut each claim to `CLAIM_LIMIT` medians of all: no client can buy a mean with a number."""
    most = CLAIM_LIMIT * median(claims) if claims else 0.0
    return [min(claim, most) for claim in claims]
