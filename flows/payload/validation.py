"""From pydantic's errors, and from what is not JSON at all, to sentences with a JSON path."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from flows.errors import Fault
from flows.payload import refused_keys
from flows.payload.container import Container

# Prefect's API refuses larger parameters by default; the same figure holds for every way in.
MAX_PAYLOAD_BYTES = 512 * 1024
MAX_DEPTH = 64
MAX_VALUES = 10_000
MAX_FAULTS = 50
# Prefect reads these keys as instructions wherever they stand in a parameter.
_PREFECT_KEYS = ("$ref", "__prefect_kind")
_MESSAGES = {
    "missing": "is missing",
    "string_type": "is not a string: put it in double quotes",
    "tuple_type": "is not an array",
    "dict_type": "is not an object",
    "model_type": "is not an object",
    "int_type": "is not a whole number",
    "float_type": "is not a number",
    "finite_number": "is not a finite number",
    "greater_than_equal": "is too small",
    "less_than_equal": "is too large",
    "literal_error": "is not one of the words known here",
}
# Other keys could be read as more of the path, or would garble the line that shows it.
_PLAIN_KEY = re.compile(r"[\w$-]{1,80}")
_MAKE_SMALLER = "put large inputs into the repository or a cache volume"


def json_faults(raw: object) -> list[Fault]:
    """What keeps `raw` from being plain JSON of a sane size and depth; empty when it is."""
    if not isinstance(raw, dict):
        return [Fault("payload", f"is {_json_type(raw)}; it takes a JSON object")]
    faults: list[Fault] = []
    for count, (path, value) in enumerate(_walk(raw), start=1):
        faults += _value_faults(path, value)
        if count > MAX_VALUES:
            return [Fault("payload", f"has more than {MAX_VALUES} values; {_MAKE_SMALLER}")]
        if len(faults) > MAX_FAULTS:
            return _limited(faults)
    if faults:
        return faults
    size = len(json.dumps(raw).encode())
    if size > MAX_PAYLOAD_BYTES:
        message = f"has {size} bytes and the limit is {MAX_PAYLOAD_BYTES}; {_MAKE_SMALLER}"
        return [Fault("payload", message)]
    return []


def faults_of(error: ValidationError, model: type[BaseModel]) -> list[Fault]:
    """Translate pydantic's errors for `model`, each with what the place would accept."""
    items = error.errors(include_url=False, include_input=False)
    found = (_fault(model, item["loc"], item) for item in items[: MAX_FAULTS + 1])
    return _limited(list(dict.fromkeys(found)))


def _limited(faults: list[Fault]) -> list[Fault]:
    if len(faults) <= MAX_FAULTS:
        return faults
    return [*faults[:MAX_FAULTS], Fault("payload", "has more faults; these are the first")]


def _fault(model: type[BaseModel], loc: tuple[int | str, ...], item: Any) -> Fault:
    path, field, owner = _resolve(model, loc)
    if item["type"] == "extra_forbidden":
        return Fault(path, _unknown_key(str(loc[-1]), owner))
    if item["type"] == "value_error":
        message = str(item["ctx"]["error"])
    else:
        message = _MESSAGES.get(item["type"], "is not acceptable: " + item["msg"])
    return Fault(path, f"{message}; it takes {accepted(field)}" if field else message)


def accepted(field: FieldInfo) -> str:
    """What a field takes, to end a sentence: the keys of its model, or what is said of it first."""
    if (model := _alone(field.annotation)) is not None:
        *others, last = by_alias(model)
        return "an object with " + " and ".join(filter(None, (", ".join(others), last)))
    first = (field.description or "").partition(". ")[0].rstrip(".").replace("`", "")
    return first[:1].lower() + first[1:]


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
        path = _join(path, part)
        if inside is not None:
            owner = inside
            field = by_alias(owner).get(part)
            inside = _model_in(field.annotation) if field else None
    return path or "payload", field, owner


def by_alias(model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _alone(annotation: object) -> type[BaseModel] | None:
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not type(None)]
    only = kinds[0] if len(kinds) == 1 else None
    return only if isinstance(only, type) and issubclass(only, BaseModel) else None


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _unknown_key(key: str, owner: type[BaseModel]) -> str:
    if owner is Container and (text := refused_keys.told(key)):
        return text
    known = list(by_alias(owner))
    lowered = {name.lower(): name for name in known}
    near = get_close_matches(key.lower().replace("_", ""), lowered, n=1)
    deeper = [f"{inner}.{key}" for inner, field in by_alias(owner).items() if key in keys_in(field)]
    if deeper:
        hint = f"did you mean {deeper[0]!r}?"
    else:
        hint = f"did you mean {lowered[near[0]]!r}?" if near else f"known are {', '.join(known)}"
    return f"is not a key that exists here; {hint}"


def keys_in(field: FieldInfo) -> frozenset[str]:
    """The keys of the object that a field takes; none of one that takes something else."""
    model = _alone(field.annotation)
    return frozenset(by_alias(model)) if model else frozenset()


def _walk(root: object) -> Iterator[tuple[str, object]]:
    """Every value with its path, without recursion: depth is the sender's choice."""
    yield "", root
    stack = [_children("", root)]
    while stack:
        path, value = next(stack[-1], (None, None))
        if path is None:
            stack.pop()
            continue
        yield path, value
        if len(stack) < MAX_DEPTH:
            stack.append(_children(path, value))
        elif isinstance(value, dict | list) and value:
            yield path, _TooDeep()


def _children(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        return ((_join(path, key), item) for key, item in value.items())
    if isinstance(value, list):
        return ((f"{path}[{i}]", item) for i, item in enumerate(value))
    return iter(())


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
    return f"is {_json_type(value)}, which is not a JSON value"


def _join(path: str, key: object) -> str:
    name = key if isinstance(key, str) else type(key).__name__
    if not _PLAIN_KEY.fullmatch(name):
        return f"{path}[{json.dumps(name[:80])}]"
    return f"{path}.{name}" if path else name


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _json_type(value: object) -> str:
    names = {list: "an array", str: "a string", type(None): "null", bool: "a boolean"}
    return names.get(type(value), f"of type {type(value).__name__}")
