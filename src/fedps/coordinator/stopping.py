"""When a job ends before its last round: its target is reached, or it has not become better for some rounds."""

from collections.abc import Mapping

from fedps.config import Runner

LOWER_IS_BETTER = ("loss",)


class Stopping:
    """Watches one merged figure, round by round.

    Args:
        runner: the job's; its `target` and `patience`.

    Attributes:
        best: the best value seen.
        since: rounds seen since then.
        reason: why the job is to end, None while it goes on.
    """

    def __init__(self, runner: Runner) -> None:
        self._target, self._patience = runner.target, runner.patience
        self._sign = -1 if runner.target.metric in LOWER_IS_BETTER else 1
        self.best: float | None = None
        self.since = 0
        self.reason: str | None = None

    def saw(self, round_: int, figures: Mapping[str, float | None]) -> None:
        """Look at the figures of a round; one without the watched figure does not count."""
        metric, aim = self._target.metric, self._target.value
        value = figures[metric]
        if value is None:
            return
        if self.best is None or self._sign * value > self._sign * self.best:
            self.best, self.since = value, 0
        else:
            self.since += 1
        if aim is not None and self._sign * value >= self._sign * aim:
            self.reason = f"{metric} {value:g} has reached the target {aim:g} in round {round_}"
        elif self._patience is not None and self.since >= self._patience:
            self.reason = f"{metric} has not become better than {self.best:g} for {self.since} rounds"
