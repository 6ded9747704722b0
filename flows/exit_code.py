"""Exit codes of processes: the signal behind one (128 + its number), in words, and what to do."""

import signal

from flows.spec import ContainerSpec

KILLED = 128 + signal.SIGKILL
_SIGNAL_ADVICE: dict[int, str] = {
    signal.SIGSEGV: "the program used memory that is not its own; see the end of runner.log",
    signal.SIGILL: "the program has instructions that this host's processor lacks: see whether "
    "the image is made for it",
    signal.SIGABRT: "the program gave itself up; see the end of runner.log for its last words",
    signal.SIGPIPE: "the program wrote to a pipe that nobody read any more; see the end of "
    "runner.log",
}


def signal_of(exit_code: int | None) -> int | None:
    """The signal that ended a process, as its exit code tells it."""
    return exit_code - 128 if exit_code is not None and 128 < exit_code <= 128 + 64 else None


def signal_name(number: int) -> str:
    """`SIGTERM` for 15; the number where it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def ending(exit_code: int | None) -> str:
    """`exited 143, ended by SIGTERM`."""
    number = signal_of(exit_code)
    killed = "" if number is None else f", ended by {signal_name(number)}"
    return f"exited {exit_code}{killed}"


def advice(exit_code: int | None) -> str:
    """What to do about an exit code that means nothing particular."""
    return _SIGNAL_ADVICE.get(signal_of(exit_code) or 0, "see the end of runner.log")


def not_runnable(exit_code: int, spec: ContainerSpec) -> str:
    """The sentence for 126 and 127, by which a shell tells what it could not run."""
    program = (*(spec.entrypoint or ()), *spec.command)[0]
    if exit_code == 126:
        return (
            "exited 126, which usually means that a file is not executable: check the "
            f"permissions of {spec.command[0]!r} and of what it calls"
        )
    if len(program.split()) > 1:
        return (
            f"exited 127, as no program has the name {program!r}: in task.container.command, give "
            'each word as a string of its own, or the line to a shell, as in ["sh", "-c", "…"]'
        )
    return (
        "exited 127, which usually means that a command was not found: check that "
        f"{spec.command[0]!r}, and what it calls, is in the image {spec.image}"
    )
