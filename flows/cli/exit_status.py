"""The exit statuses of the command, which scripts act on."""

from enum import IntEnum


class ExitStatus(IntEnum):
    """Published: never change a number. Every outcome of a run has the name that it has here."""

    SUCCEEDED = 0
    FAILED = 1
    BAD_INPUT = 2
    UNREACHABLE = 3
    UNKNOWN = 4
    TIMED_OUT = 10
    OUT_OF_MEMORY = 11
    CANCELED = 12
    REJECTED = 13
    IMAGE_ERROR = 14
    INFRASTRUCTURE = 15
    INTERRUPTED = 130
    BROKEN_PIPE = 141


MEANINGS = {
    ExitStatus.SUCCEEDED: "the command did what it was asked, and the task, if it watched one, "
    "`succeeded`",
    ExitStatus.FAILED: "the task `failed`: its container exited with another status than 0; or "
    "`doctor` found a fault",
    ExitStatus.BAD_INPUT: "the words of the command, the payload or a setting are wrong; nothing "
    "was submitted",
    ExitStatus.UNREACHABLE: "Prefect's API or the Docker Engine does not answer, or refuses the "
    "log-in",
    ExitStatus.UNKNOWN: "no run or deployment has that name, or several have",
    ExitStatus.TIMED_OUT: "the task ended `timed-out`",
    ExitStatus.OUT_OF_MEMORY: "the task ended `out-of-memory`",
    ExitStatus.CANCELED: "the task was `canceled`",
    ExitStatus.REJECTED: "the task was `rejected`",
    ExitStatus.IMAGE_ERROR: "the task ended with `image-error`",
    ExitStatus.INFRASTRUCTURE: "the task ended with `infrastructure`",
    ExitStatus.INTERRUPTED: "the command was interrupted; a run that it watched goes on",
    ExitStatus.BROKEN_PIPE: "whoever read the answer, `head` for instance, stopped reading; a run "
    "that was watched goes on",
}
