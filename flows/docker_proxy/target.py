"""A request's target, taken apart: API version, path and parameters, each decoded once. Pure."""

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from flows.docker_proxy.refused import Refused, shown

# Of Engine 20.10, the oldest that the runner knows. In an older version, the same creation makes
# another container: some keys have other defaults, and some are passed over.
_OLDEST_MINOR = 41
_VERSION = re.compile(r"(/v1\.([1-9][0-9]{0,2}))(/.*)", re.DOTALL)
_ENCODED = re.compile("(?:[^%]|%[0-9A-Fa-f]{2})*")


class Target(NamedTuple):
    """`version` is empty, or as in a path: `/v1.41`."""

    version: str
    path: str
    query: Sequence[tuple[str, str]]


def taken_apart(target: str) -> Target:
    """Raises `Refused` for what is no path with parameters, each named once."""
    if not target.startswith("/") or "#" in target:
        raise Refused(f"refuses {shown(target)}: it is no path")
    path, _, query = target.partition("?")
    version, rest = _versioned(_decoded(path))
    parameters = [_parameter(each) for each in query.split("&")] if query else []
    if len({name for name, _ in parameters}) < len(parameters):
        raise Refused("refuses a parameter that is there twice")
    return Target(version, rest, parameters)


def _versioned(path: str) -> tuple[str, str]:
    if not (match := _VERSION.fullmatch(path)):
        return "", path
    version, minor, rest = match.groups()
    if int(minor) < _OLDEST_MINOR:
        raise Refused("refuses this version of the API: use 1.41 or newer")
    return version, rest


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.replace("+", " ").partition("=")
    if not equals:
        raise Refused(f"refuses the parameter {shown(text)}: it has no value")
    return _decoded(name), _decoded(value)


def _decoded(text: str) -> str:
    """Without percent signs, once. Raises `Refused` for what is not encoded UTF-8."""
    if not _ENCODED.fullmatch(text):
        raise Refused(f"cannot read {shown(text)}: a percent sign is followed by no byte")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError as error:
        raise Refused(f"cannot read {shown(text)}: it is not UTF-8") from error
