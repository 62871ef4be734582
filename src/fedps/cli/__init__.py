"""The command line. Each command imports its room when it runs, so that `--help` answers at once.

Exit codes: 0 all is well, 1 a role failed, 2 the job, a flag or the data is wrong, 130 stopped by Ctrl-C, 141 nobody
reads what is printed.
"""

from fedps.cli import audit, certs, config, data, first, kits, model, roles, runs, serve, vertical
from fedps.cli.app import FAILED, INTERRUPTED, WRONG, app, main

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "WRONG",
    "app",
    "audit",
    "certs",
    "config",
    "data",
    "first",
    "kits",
    "main",
    "model",
    "roles",
    "runs",
    "serve",
    "vertical",
]
