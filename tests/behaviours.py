"""What the programs of a fake engine's containers do in the tests of the engines and of a run."""

import itertools

from flows.testing import CommandMissing, FakeEngine, Process, Terminated
from tests.runs import BUSYBOX


def behave(process: Process) -> int:
    """The command is the name of a behaviour, with its arguments."""
    behaviour, *words = process.spec.command
    match behaviour:
        case "print":
            process.print(*words)
        case "exit":
            return int(words[0])
        case "eat-memory":
            raise MemoryError
        case "sleep":
            process.print("up")
            process.sleep(float(words[0]))
        case "count":
            for number in itertools.count(1):
                process.print(number)
                process.sleep(float(words[0]))
        case "ignore-sigterm":
            process.print("up")
            try:
                process.sleep(float(words[0]))
            except Terminated:
                process.sleep(float(words[0]))
        case _:
            raise CommandMissing
    return 0


def busybox(*, breaks_at: str = "", times: int = 10**6, hangs_at: str = "") -> FakeEngine:
    """An engine with one image, which has few folders."""
    return FakeEngine(
        behave,
        images=(BUSYBOX,),
        folders=("/", "/bin"),
        breaks_at=breaks_at,
        times=times,
        hangs_at=hangs_at,
    )
