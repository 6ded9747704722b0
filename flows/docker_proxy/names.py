"""The names that tasks have on an engine, as patterns; a whole string must match. Pure."""

import re
from typing import NamedTuple

from pydantic import AfterValidator

from flows.spec import CONTAINER_NAME, JOB_ID, NAME_PREFIX, RUN_VOLUME_SUFFIX

CONTAINER = CONTAINER_NAME
RUN_VOLUME = rf"{CONTAINER}{RUN_VOLUME_SUFFIX}"
# Of a job, below all of them: while it has one, and while one that was removed is not empty yet.
FOLDER = rf"{JOB_ID}|\.removed-{JOB_ID}-[0-9a-f]{{8}}"
ID = "[0-9a-f]{64}"
# Docker's own rule wants two characters; it says so itself.
VOLUME = "[A-Za-z0-9][A-Za-z0-9_.-]{0,254}"
CACHE = rf"(?!{NAME_PREFIX}){VOLUME}"
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

    def has(self, folder: str) -> bool:
        """Whether a folder is the job's. A removed one is the helper's to give back."""
        if folder == self.job_id:
            return True
        is_removed = folder.startswith(f".removed-{self.job_id}-") and self.is_helper
        return is_removed and re.fullmatch(FOLDER, folder) is not None


def task_of(name: str) -> Task | None:
    """Whose container has this name; None where it is no task's."""
    if not re.fullmatch(CONTAINER, name):
        return None
    job_id = name.removeprefix(NAME_PREFIX)[:36]
    return Task(job_id, name.endswith("-files"))
