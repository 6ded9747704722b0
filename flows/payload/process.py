"""Pydantic validators of what a process is given: its arguments and its environment.

As in `fields`, the message of an error completes the sentence "<JSON path> …". The length of an
argument is Linux's MAX_ARG_STRLEN.
"""

import re
from collections.abc import Mapping

RESERVED_ENV = ("JOB_ID", "REPOSITORY", "ARTIFACT_DIR")
_MAX_ARGUMENT_BYTES = 128 * 1024 - 1


def command(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("is empty")
    return value


def argument(value: str) -> str:
    """What execve(2) can carry: no NUL, and below the kernel's length for one argument."""
    if "\0" in value:
        raise ValueError("has a NUL character, which no process can receive")
    if len(value.encode()) > _MAX_ARGUMENT_BYTES:
        raise ValueError(
            f"has more than {_MAX_ARGUMENT_BYTES} bytes, the most that Linux passes to a process"
        )
    return value


def variable(name: str, value: str) -> str:
    """What execve(2) can carry of an environment, where name and value are one string."""
    if len(f"{name}={value}".encode()) > _MAX_ARGUMENT_BYTES:
        raise ValueError(
            f"has more than {_MAX_ARGUMENT_BYTES} bytes with its name, the most that Linux passes "
            "to a process: put it into a file"
        )
    return argument(value)


def variables(value: Mapping[str, str]) -> Mapping[str, str]:
    for name, content in value.items():
        try:
            variable(name, content)
        except ValueError as error:
            raise ValueError(f"has {name}, which {error}") from None
    return value


def env_name(value: str) -> str:
    if value in RESERVED_ENV:
        raise ValueError(
            f"is reserved: the runner sets {', '.join(RESERVED_ENV)} itself; leave it out, or give "
            "yours another name"
        )
    if not value or re.search(r"[=\0\s]", value):
        raise ValueError("is not a name for an environment variable: no '=', no white space")
    return value
