"""Imported once by the fork server: all that every worker needs, so that a worker starts in milliseconds.

Nothing here opens a connection or starts a thread, which would not survive a fork.
"""

import fedps.client.compiled
import fedps.client.worker
import fedps.launch.lives

__all__ = ["fedps"]
