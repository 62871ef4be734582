"""Imported once by the fork server: all that every worker needs, so that a worker starts in milliseconds.

Nothing here opens a connection or starts a thread, which would not survive a fork.
"""

import grpc._channel  # which grpc imports with the first connection
import numpy.ma  # and numpy where it is first asked for distinct values

import fedps.client.compiled
import fedps.client.worker
import fedps.launch.lives

__all__ = ["fedps", "grpc", "numpy"]
