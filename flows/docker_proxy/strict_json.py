"""JSON that can be read in one way only, held against a pydantic model and written anew."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.docker_proxy.refused import Refused, shown

# How many a list or an object may have.
ONE = Field(min_length=1, max_length=1)
NONE = Field(max_length=0)
M = TypeVar("M", bound="Exact")


class Exact(BaseModel):
    """What a call may say: keys in exactly this case, values of exactly these types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    def as_json(self) -> str:
        """What was said, and no defaults."""
        return self.model_dump_json(exclude_unset=True, by_alias=True)


def parse(text: bytes | str, what: str) -> Any:
    """The value that `text` says. Raises `Refused` for what parsers read differently."""
    try:
        if isinstance(text, bytes):
            text = text.decode()
        return json.loads(text, object_pairs_hook=_without_doubles, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refused(f"cannot read {what} as JSON: {shown(str(error))}") from error


def held(model: type[M], value: object, what: str) -> M:
    """`value` as the model has it. Raises `Refused` naming the first thing that it has not."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise Refused(f"refuses {what}: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(each) for each in found["loc"]) or "it"
    match found["type"]:
        case "extra_forbidden":
            return f"{shown(found['loc'][-1])} is nothing that a task asks for (at {shown(place)})"
        case "missing":
            return f"{place} is missing"
    given = found["input"]
    value = shown(given) if isinstance(given, str | int | float | None) else type(given).__name__
    return f"{shown(place)} may not be {value}"


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")
