"""The job file: what it may say, how it is read, every mistake in it at once, and what it comes to in the end."""

from fedps.config.allow import Allow
from fedps.config.description import describe
from fedps.config.job import HyperParameters, Job, LimitSettings, Runner, TableParameters
from fedps.config.loading import load_job
from fedps.config.notes import notes_of
from fedps.config.sections.optimizer import Optimizer, TableOptimizer
from fedps.config.sections.server_optimizer import ServerOptimizer

__all__ = [
    "Allow",
    "HyperParameters",
    "Job",
    "LimitSettings",
    "Optimizer",
    "Runner",
    "ServerOptimizer",
    "TableOptimizer",
    "TableParameters",
    "describe",
    "load_job",
    "notes_of",
]
