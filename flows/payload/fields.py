"""Pydantic validators of a payload's values: each returns the canonical form, or raises ValueError.

The message of the error completes the sentence "<JSON path> …".
Sources: volume names are Docker's restricted names.
"""

import re
from collections.abc import Callable, Mapping, Sized
from pathlib import PurePosixPath
from typing import TypeVar

from flows.payload.image_reference import IMAGE_ID, IMAGE_NAME, PLATFORM
from flows.spec import ARTIFACT_DIR, JOB_ROOT, NAME_PREFIX, TASK_NETWORK

T = TypeVar("T")
MAX_OUTPUTS = 100
MAX_CACHE_VOLUMES = 100
MAX_VARIABLES = 2000
MAX_SECRETS = 200
MAX_EXIT_CODES = 255
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,31})?")
# Enough for any build, and a bound on what it costs to match a tree of files.
_MAX_GLOB = 500
_MAX_GLOB_PARTS = 40
_TRUE = {"true", "yes", "on", "y", "t", "1"}
_FALSE = {"false", "no", "off", "n", "f", "0"}


def is_true(value: object) -> bool:
    """Whether `flag` accepts `value` as true."""
    return _word(value) in _TRUE


def flag(value: object) -> bool:
    """true, false, and what canonical payloads write for them."""
    if _word(value) not in _TRUE | _FALSE:
        raise ValueError(f"is {short(value)}, neither true nor false")
    return is_true(value)


def _word(value: object) -> str:
    return str(value).strip().lower() if isinstance(value, int | str) else ""


def keyword(value: object) -> str:
    """Lower-case."""
    if not isinstance(value, str) or not value.strip() or _has_control(value):
        raise ValueError(f"is {short(value)}, not a word")
    return value.strip().lower()


def capabilities(value: object) -> tuple[str, ...]:
    """Lower-cased, deduplicated, in the order given."""
    if not isinstance(value, list | tuple):
        raise ValueError("is not an array of strings")
    return tuple(dict.fromkeys(keyword(item) for item in value))


def image(value: str) -> str:
    value = value.strip()
    if len(value) > 500 or not IMAGE_NAME.fullmatch(value):
        raise ValueError(f"is {short(value)}, not an image name{_image_hint(value)}")
    if IMAGE_ID.fullmatch(value):
        raise ValueError("is an image id, which a registry cannot serve: name the image")
    return value


def _image_hint(value: str) -> str:
    scheme, found, _ = value.partition("://")
    if found and len(scheme) < 20:
        return f": leave '{scheme}://' out"
    if len(value) <= 500 and IMAGE_NAME.fullmatch(value.lower()):
        return ": what stands before the tag is lower-case"
    return ""


def platform(value: str) -> str:
    """Lower-case, as the engine writes it."""
    value = value.strip()
    if len(value) > 60 or not PLATFORM.fullmatch(value.lower()):
        raise ValueError(f"is {short(value)}, not a platform")
    return value.lower()


def text(value: str) -> str:
    """What a database can keep."""
    if "\0" in value:
        raise ValueError("has a NUL character")
    return value


def absolute_path(value: str) -> str:
    if not value.startswith("/") or ".." in value.split("/") or _has_control(value):
        raise ValueError(f"is {short(value)}, not an absolute path without '..'")
    return "/" + str(PurePosixPath(value)).lstrip("/")


def mount_target(value: str) -> str:
    path = absolute_path(value)
    if ":" in path:
        raise ValueError(f"is {short(value)}: a mount point may not contain ':'")
    for taken in (JOB_ROOT, "/proc", "/sys", "/dev"):
        if _overlap(path, taken):
            raise ValueError(f"is {short(value)}, which would cover or lie below {taken}")
    return path


def volume_name(value: str) -> str:
    value = value.strip()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{1,127}", value):
        raise ValueError(
            f"is {short(value)}, not a volume name: letters, digits, '_', '.' and '-', "
            "two or more, beginning with a letter or digit"
        )
    if value.startswith(NAME_PREFIX):
        raise ValueError(f"begins with {NAME_PREFIX!r}, which is kept for the runner's own")
    return value


def network(value: str) -> str:
    """`none`, `bridge`, or a network by name; never a namespace of the host's or another's."""
    value = value.strip()
    if value.lower() == "host":
        raise ValueError("is 'host', the host's own network, which no task gets")
    if value == TASK_NETWORK:
        raise ValueError(f"is {short(value)}, which is 'bridge' here")
    if not _NETWORK.fullmatch(value) or value.lower() in ("default", "nat"):
        raise ValueError(f"is {short(value)}, not none, bridge or the name of a network")
    return value


def user(value: str) -> str:
    """`user` or `user:group`, each by name or number, as `docker run --user` takes them."""
    value = value.strip()
    parts = value.split(":")
    too_large = any(part.isdecimal() and int(part) > 2**31 - 1 for part in parts)
    if not _USER.fullmatch(value) or too_large:
        raise ValueError(f"is {short(value)}, not a user or user:group")
    return value


def block_name(value: str) -> str:
    """The name of a block document, as Prefect takes them."""
    value = value.strip()
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,126}", value):
        raise ValueError(
            f"is {short(value)}, not the name of a block: lower-case letters, digits and '-'"
        )
    return value


def subdir(value: str) -> str:
    segments = value.split("/")
    if len(segments) > 8 or not all(map(_SEGMENT.fullmatch, segments)):
        raise ValueError(f"is {short(value)}, not a relative path of plain segments")
    if segments[:2] == ["logs", "execute.log"]:
        raise ValueError(f"is {short(value)}, where the runner writes a log of its own")
    return value


def output_path(value: str) -> str:
    """Canonical: no empty or `.` segments, `**` for all in a folder that is named with a slash."""
    path = value.replace("${ARTIFACT_DIR}", "$ARTIFACT_DIR", 1)
    base = ARTIFACT_DIR if path == ARTIFACT_DIR[:-1] or path.startswith(ARTIFACT_DIR) else ""
    below = path[len(base) :]
    parts = [part for part in below.split("/") if part not in ("", ".")]
    if below.startswith("/") or ".." in parts or "\\" in value or _has_control(value):
        raise ValueError(f"is {short(value)}, not a relative path without '..' and '\\'")
    if not parts and not base:
        raise ValueError("names no file")
    if parts and not base and parts[0][0] in "$~":
        raise ValueError(f"is {short(value)}: of variables, only $ARTIFACT_DIR/ may begin it")
    if not parts or below.endswith(("/", "/.")):
        parts.append("**")
    if len(value) > _MAX_GLOB or len(parts) > _MAX_GLOB_PARTS:
        raise ValueError(f"has more than {_MAX_GLOB} characters or {_MAX_GLOB_PARTS} segments")
    return base + "/".join(parts)


def at_most(limit: int) -> Callable[[T], T]:
    """Refuses an array or an object with more entries, before anybody looks at them."""

    def counted(value: T) -> T:
        if isinstance(value, Sized) and len(value) > limit:
            raise ValueError(f"has {len(value)} entries and the limit is {limit}")
        return value

    return counted


def exit_code(value: str) -> str:
    if not re.fullmatch(r"[1-9]\d{0,2}", value, re.ASCII) or int(value) > 255:
        raise ValueError("is not an exit code from 1 to 255")
    return value


def _overlap(one: str, other: str) -> bool:
    """Whether one of two canonical paths is the other or lies below it."""
    first, second = f"{one.rstrip('/')}/", f"{other}/"
    return first.startswith(second) or second.startswith(first)


def _has_control(value: str) -> bool:
    return bool(re.search(r"[\x00-\x1f\x7f]", value))


def short(value: object) -> str:
    """A value in a sentence: a text on one line, and the kind of what is larger."""
    if isinstance(value, Mapping | list | tuple):
        return "an object" if isinstance(value, Mapping) else "an array"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
