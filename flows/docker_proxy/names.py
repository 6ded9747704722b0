"""The names that tasks have on an engine, as patterns; a whole string must match. Pure."""

import re
from typing import NamedTuple

from pydantic import AfterValidator

from flows.spec import NAME_PREFIX

UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
# One task's container, and the one that gives its files back to the worker.
CONTAINER = rf"{NAME_PREFIX}{UUID}-[0-9]{{1,9}}(?:-files)?"
RUN_VOLUME = rf"{CONTAINER}-workspace"
ID = "[0-9a-f]{64}"
# Docker's own rule wants two characters; it says so itself.
VOLUME = "[A-Za-z0-9][A-Za-z0-9_.-]{0,254}"
_PART = "[A-Za-z0-9][A-Za-z0-9._:-]*"
IMAGE = rf"(?:{_PART})(?:/{_PART})*(?:@sha256:{ID})?"
TAG = rf"(?:[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}}|sha256:{ID})"
PLATFORM = "[A-Za-z0-9]+(?:/[A-Za-z0-9._-]+){0,2}"
# Absolute, and nothing that leads elsewhere.
PATH = r"(?:/(?!\.\.?(?:/|$))[^/\x00-\x1f\x7f]+)+"
# Of what a task may cover with a mount; the rest of these is the kernel's.
TARGET = rf"(?!/(?:proc|sys|dev)(?:/|$)){PATH}"


def matching(pattern: str) -> AfterValidator:
    """For a string in a model: the whole of it must match."""
    whole = re.compile(pattern)

    def check(text: str) -> str:
        if not whole.fullmatch(text):
            raise ValueError("no match")
        return text

    return AfterValidator(check)


class Task(NamedTuple):
    """What a container's name says."""

    job_id: str
    is_helper: bool


def task_of(name: str) -> Task | None:
    """Whose container has this name; None where it is no task's."""
    if not re.fullmatch(CONTAINER, name):
        return None
    job_id = name.removeprefix(NAME_PREFIX)[:36]
    return Task(job_id, name.endswith("-files"))
