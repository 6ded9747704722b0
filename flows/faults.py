"""From pydantic's errors, and from what is not JSON at all, to sentences with a JSON path."""

import json
import math
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from flows.errors import Fault

# Prefect's API refuses larger parameters by default; the same figure holds for every way in.
MAX_PAYLOAD_BYTES = 512 * 1024
MAX_DEPTH = 64
MAX_VALUES = 100_000

# Prefect reads these keys as instructions wherever they stand in a parameter.
_PREFECT_KEYS = ("$ref", "__prefect_kind")

_MESSAGES = {
    "missing": "is missing",
    "string_type": "is not a string",
    "tuple_type": "is not an array",
    "dict_type": "is not an object",
    "model_type": "is not an object",
    "int_type": "is not a whole number",
    "float_type": "is not a number",
    "finite_number": "is not a finite number",
    "too_short": "is empty",
    "greater_than_equal": "is too small",
    "less_than_equal": "is too large",
    "literal_error": "is not one of the words known here",
}
_MAKE_SMALLER = "put large inputs into the repository or a cache volume"


def json_faults(raw: object) -> list[Fault]:
    """What keeps `raw` from being plain JSON of a sane size and depth; empty when it is."""
    if not isinstance(raw, dict):
        return [Fault("payload", f"is {_kind(raw)}; it takes a JSON object")]
    faults: list[Fault] = []
    for count, (path, value) in enumerate(_walk(raw), start=1):
        faults += _value_faults(path, value)
        if count > MAX_VALUES:
            return [Fault("payload", f"has more than {MAX_VALUES} values; {_MAKE_SMALLER}")]
    if faults:
        return faults
    size = len(json.dumps(raw).encode())
    if size > MAX_PAYLOAD_BYTES:
        return [
            Fault(
                "payload",
                f"has {size} bytes and the limit is {MAX_PAYLOAD_BYTES}; {_MAKE_SMALLER}",
            )
        ]
    return []


def faults_of(error: ValidationError, model: type[BaseModel]) -> list[Fault]:
    """Translate pydantic's errors for `model`, each with what the place would accept."""
    found = (_fault(model, item["loc"], item) for item in error.errors(include_url=False))
    return list(dict.fromkeys(found))


def _fault(model: type[BaseModel], loc: tuple[int | str, ...], item: Any) -> Fault:
    path, field, owner = _resolve(model, loc)
    if item["type"] == "extra_forbidden":
        return Fault(path, _unknown_key(str(loc[-1]), owner))
    if item["type"] == "value_error":
        message = str(item["ctx"]["error"])
    else:
        message = _MESSAGES.get(item["type"], "is not acceptable: " + item["msg"])
    accepted = f"; it takes {field.description}" if field and field.description else ""
    return Fault(path, message + accepted)


def _resolve(
    model: type[BaseModel], loc: tuple[int | str, ...]
) -> tuple[str, FieldInfo | None, type[BaseModel]]:
    """The JSON path of `loc`, the field it lies in, and the model that owns the last key."""
    path, field, owner = "", None, model
    inside: type[BaseModel] | None = model
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
            continue
        if part == "[key]":
            continue
        path += f".{part}" if path else part
        if inside is not None:
            owner = inside
            field = _by_alias(owner).get(part)
            inside = _model_in(field.annotation) if field else None
    return path or "payload", field, owner


def _by_alias(model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _unknown_key(key: str, owner: type[BaseModel]) -> str:
    known = list(_by_alias(owner))
    lowered = {name.lower(): name for name in known}
    near = get_close_matches(key.lower().replace("_", ""), lowered, n=1)
    hint = f"did you mean {lowered[near[0]]!r}?" if near else f"known are {', '.join(known)}"
    return f"is not a key that exists here; {hint}"


def _walk(root: object) -> Iterator[tuple[str, object]]:
    """Every value with its path, without recursion: depth is the sender's choice."""
    stack: list[tuple[str, object, int]] = [("", root, 0)]
    while stack:
        path, value, depth = stack.pop()
        yield path, value
        if depth >= MAX_DEPTH and isinstance(value, dict | list) and value:
            yield path, _TooDeep()
            continue
        if isinstance(value, dict):
            children = [(_join(path, key), item, depth + 1) for key, item in value.items()]
        elif isinstance(value, list):
            children = [(f"{path}[{i}]", item, depth + 1) for i, item in enumerate(value)]
        else:
            continue
        stack.extend(reversed(children))


class _TooDeep:
    """Stands in the walk for what lies below the depth limit."""


def _value_faults(path: str, value: object) -> Iterator[Fault]:
    if isinstance(value, dict):
        yield from _key_faults(path, value)
    elif (message := _not_json(value)) is not None:
        yield Fault(path or "payload", message)


def _key_faults(path: str, value: Mapping[object, object]) -> Iterator[Fault]:
    for key in value:
        if not isinstance(key, str) or not _is_text(key):
            yield Fault(path or "payload", "has a key that is no text; JSON keys are strings")
        elif key in _PREFECT_KEYS:
            message = "is a key that Prefect would act on, and not allowed anywhere"
            yield Fault(_join(path, key), message)


def _not_json(value: object) -> str | None:
    match value:
        case _TooDeep():
            return f"is nested more than {MAX_DEPTH} levels deep; flatten it"
        case str() if not _is_text(value):
            return "has half of a surrogate pair; it takes valid Unicode text"
        case float() if not math.isfinite(value):
            return "is not a finite number"
        case bool() | None | str() | float() | list():
            return None
        case int():
            return "is a number beyond 64 bits" if value.bit_length() > 64 else None
    return f"is {_kind(value)}, which is not a JSON value"


def _join(path: str, key: object) -> str:
    name = str(key).encode("utf-8", "replace").decode()[:80]
    return f"{path}.{name}" if path else name


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", type(None): "null", bool: "a boolean"}
    return names.get(type(value), f"of type {type(value).__name__}")
