"""The job file: what it may say, how it is read, every mistake in it at once, and what it comes to in the end."""

from fedps.config.description import describe
from fedps.config.job import Allow, Job
from fedps.config.loading import load_job
from fedps.config.notes import notes_of
from fedps.config.sections.runner import Runner
from fedps.config.sections.training import Optimizer, ServerOptimizer, TableOptimizer, TableParameters

__all__ = [
    "Allow", "Job", "Optimizer", "Runner", "ServerOptimizer", "TableOptimizer", "TableParameters", "describe", "load_job",
    "notes_of",
]  # fmt: skip
