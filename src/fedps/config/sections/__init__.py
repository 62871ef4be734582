"""The sections of a job, and the kinds of values that their keys hold."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

BOOLEANS = "YAML reads off, no, on and yes as true or false"


def word(value: Any) -> Any:
    """Explain YAML's habit of reading off, no and yes as booleans where a word is due."""
    if isinstance(value, bool):
        raise ValueError(f"put the word in quotes: {BOOLEANS}")
    return value


def lower(value: Any) -> Any:
    """Take a word in capitals for the same in small letters."""
    return value.lower() if isinstance(value, str) else word(value)


def word_or_none(value: Any) -> Any:
    """Take the word None, which is text in YAML, for nothing."""
    return None if value == "None" else word(value)


def number(value: Any) -> Any:
    """Refuse booleans, which Python takes for 0 and 1."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number; {BOOLEANS}")
    return value


Word = Annotated[str, BeforeValidator(word)]
Whole = Annotated[int, Field(ge=0), BeforeValidator(number)]
Count = Annotated[int, Field(ge=1), BeforeValidator(number)]
Finite = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(number)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(number)]
Fraction = Annotated[float, Field(ge=0, le=1), BeforeValidator(number)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), BeforeValidator(number)]
Rate = Annotated[Positive, Field(le=1e6)]  # more than that a server refuses
Seconds = Positive


class Section(BaseModel):
    """A section of the job file: unknown keys are mistakes, values do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), populate_by_name=True)
