"""The job file: what it may say, how it is read, every mistake in it at once, and what it comes to in the end."""

from fedps.config.allow import Allow
from fedps.config.checks import notes_of
from fedps.config.description import describe
from fedps.config.job import HyperParameters, Job, LimitSettings, Optimizer, Runner
from fedps.config.loading import load_job

__all__ = [
    "Allow",
    "HyperParameters",
    "Job",
    "LimitSettings",
    "Optimizer",
    "Runner",
    "describe",
    "load_job",
    "notes_of",
]
