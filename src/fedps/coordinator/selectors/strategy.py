"""What a selector may say of one client: a word, an `FLStrategy`, or a mapping of its fields; checked, never guessed."""

import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

from fedps.config import Job
from fedps.config.checks.rounds import unfit
from fedps.errors import FedpsError

State = Literal["JOIN", "WAIT", "FINISH"]
STATES: tuple[State, ...] = get_args(State)
MAX_EXTRA = 4096  # bytes of `extra`, as JSON
MAX_COUNT = 2**31 - 1


@dataclass(slots=True)  # what is asked for may be set field by field; a field that there is not is an error
class FLStrategy:
    """What one client shall do in a round.

    Args:
        next_state: JOIN (train), WAIT (sit out this round) or FINISH (leave for good).
        iteration_num: batches to train; None takes the job's `round_iterations`, a pass over the client's data if unset.
        learning_rate: step size of this round; None takes the job's.
        batch_size: samples of a batch in this round; None takes the job's.
        deadline: seconds after which the others go on without this client; None takes the job's `selector.deadline`.
        extra: what your own handlers shall know, as JSON has it; they find it in `client.assignment.extra`.
        geo_step: batches of a window in this round, in sync_mode geo; None takes the job's.
        client_id: not looked at, as in the original: the key of the answer says whose strategy it is.
    """

    JOIN: ClassVar[State] = "JOIN"
    WAIT: ClassVar[State] = "WAIT"
    FINISH: ClassVar[State] = "FINISH"

    next_state: State = "JOIN"
    iteration_num: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    deadline: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    geo_step: int | None = None
    client_id: Any = None


FIELDS = tuple(f.name for f in fields(FLStrategy))


def read_strategy(said: Any, who: str, job: Job) -> FLStrategy:
    """Return what was said of a client as a checked strategy of plain Python values.

    Args:
        said: a state, a strategy, or a mapping of a strategy's fields.
        who: whom the errors name, e.g. `Mine.select(), client '3'`.
        job: the job that it is to fit.

    Raises:
        FedpsError: it cannot be followed; names field, value and remedy.
    """
    if isinstance(said, Mapping):
        if unknown := [name for name in said if name not in FIELDS]:
            raise FedpsError(
                f"{who}: {unknown[0]!r} is no field of a strategy; there are {', '.join(FIELDS)}: put what is"
                " your own into extra"
            )
        said = FLStrategy(**said)
    strategy = FLStrategy(said) if isinstance(said, str) and said in STATES else said
    if not isinstance(strategy, FLStrategy) or strategy.next_state not in STATES:
        raise FedpsError(f"{who}: {said!r}: say one of {', '.join(STATES)}, or an FLStrategy")
    checked = FLStrategy(
        strategy.next_state,
        _count(who, "iteration_num", strategy.iteration_num),
        _positive(who, "learning_rate", strategy.learning_rate),
        _count(who, "batch_size", strategy.batch_size),
        _positive(who, "deadline", strategy.deadline),
        _extra(who, strategy.extra),
        _count(who, "geo_step", strategy.geo_step),
    )
    if why := unfit(job, checked.learning_rate, checked.batch_size, checked.geo_step):
        raise FedpsError(f"{who}: {why}")
    return checked


def _count(who: str, name: str, value: Any) -> int | None:
    if value is None:
        return None
    whole = operator.index(value) if hasattr(value, "__index__") else 0  # numpy's whole numbers too
    if not 0 < whole <= MAX_COUNT or isinstance(value, bool):
        raise FedpsError(f"{who}: {name} {value!r}: must be a positive whole number")
    return whole


def _positive(who: str, name: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < float("inf"):
        raise FedpsError(f"{who}: {name} {value!r}: must be a positive number")
    return number


def _extra(who: str, extra: Any) -> dict[str, Any]:
    """Return a copy of the free fields, as it will arrive."""
    if not isinstance(extra, Mapping):
        raise FedpsError(f"{who}: extra {extra!r}: must be a mapping of names to values")
    copy: dict[str, Any] = as_json(f"{who}: extra", dict(extra))
    size = len(json.dumps(copy).encode())
    if size > MAX_EXTRA:
        raise FedpsError(f"{who}: extra has {size} bytes as JSON; {MAX_EXTRA} are allowed")
    return copy


def as_json(what: str, value: Any) -> Any:
    """Return a copy of a value as JSON has it.

    Raises:
        FedpsError: it cannot have it; begins with `what`.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise FedpsError(f"{what}: {error}; use texts, numbers, lists and mappings of these") from error
