"""What kinds of merges and rules there are, said once for checks, clients and servers."""

LOCKSTEP = ("heat", "adaptive")  # values of `geo_merge` by which a window's pushes are merged together
MERGED = (*LOCKSTEP, "buffered")  # by which several pushes become one change, that a server optimizer could take
AVERAGED = ("mean", *MERGED)  # by which a change counts for less, the more clients there are
ADAMS = ("adam", "lazy_adam", "shared_adam")  # classes of optimizer
