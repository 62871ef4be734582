"""The job file: what it may say, how it is read, and every mistake in it at once."""

from fedps.config.job import HyperParameters, Job, LimitSettings, Optimizer, Runner
from fedps.config.loading import load_job

__all__ = ["HyperParameters", "Job", "LimitSettings", "Optimizer", "Runner", "load_job"]
