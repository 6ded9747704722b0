"""JSON that can be read in one way only, held against a pydantic model and written anew."""

import json
from collections.abc import ValuesView
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.docker_proxy.refused import Refused, shown

# How many a list or an object may have.
ONE = Field(min_length=1, max_length=1)
NONE = Field(max_length=0)
# A payload has half as many. Of as many wrong ones, what is told of each is 20 MB.
MAX_VALUES = 20_000
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
        value = json.loads(text, object_pairs_hook=_without_doubles, parse_constant=_no_constant)
        _require_few(value)
        # Half of a surrogate pair is a character to Python, and to no other.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Refused(f"cannot read {what} as JSON: {shown(str(error))}") from error
    return value


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
        case "too_short" | "too_long":
            return f"{shown(place)} may not have {len(found['input'])} items"
    given = found["input"]
    if isinstance(given, str | int | float | None):
        return f"{shown(place)} may not be {shown(given)}"
    if found["type"] == "value_error":
        return f"{shown(place)}: {found['msg'].removeprefix('Value error, ')}"
    return f"{shown(place)} may not be {type(given).__name__}"


def _require_few(value: object) -> None:
    found, left = [value], MAX_VALUES
    while found:
        value = found.pop()
        inner = value.values() if isinstance(value, dict) else value
        if isinstance(inner, list | ValuesView):
            left -= len(inner)
            if left < 0:
                raise ValueError("too many values")
            found += inner


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")
