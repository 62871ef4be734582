"""Imported once by the fork server: all that every worker needs, so that a worker starts in milliseconds.

Nothing here opens a connection or starts a thread, which would not survive a fork.
"""

import email.parser  # which the versions of packages are read with
import mmap  # data that was read before is mapped

import grpc._channel  # which grpc imports with the first connection
import numpy.ma  # and numpy where it is first asked for distinct values
import numpy.random

import fedps.client.life
import fedps.launch.local.entry
import fedps.training.compiled

__all__ = ["email", "fedps", "grpc", "mmap", "numpy"]
