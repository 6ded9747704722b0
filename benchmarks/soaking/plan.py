"""What a soak does, by its seed alone: tasks of ten kinds, words of people, deeds of a storm.

Chosen is what happens, to whom, and how long after what; when that is depends on the machine.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tests.runs import EAT_MEMORY, shell

IMAGE = "moonmind-local/soak:1"
VOLUME = "witness"
_STARTS = 10


@dataclass(frozen=True, slots=True)
class Kind:
    """A task that is made to end in one way.

    `ends` is the name of its final state, `exit_code` what `finished` tells; `verdicts` is how many
    attempts a start has that end by the task's own doing.
    """

    name: str
    script: str
    ends: str = "Completed"
    exit_code: int | None = 0
    verdicts: int = 1
    container: tuple[tuple[str, Any], ...] = ()

    def payload(self, work_seconds: int) -> Any:
        """`work_seconds` come before what it is made for."""
        given = dict(self.container)
        retry = {"infrastructure": _STARTS, **given.pop("retry", {})}
        if "timeoutSeconds" in given:
            given["timeoutSeconds"] += work_seconds
        script = f"{WITNESS}\nwork {work_seconds}\n{self.script}"
        witness = {"name": VOLUME, "target": "/witness"}
        return shell(script, image=IMAGE, retry=retry, cacheVolumes=[witness], **given)


# $w is a folder that all containers of a run share, on all hosts, outside of its job's folder. Who
# has its lock has it from the kernel until its last process is dead: two cannot have it.
WITNESS = """
w=/witness/$JOB_ID; mkdir -p $w; exec 9>>$w/lock
say() { read up _ </proc/uptime; echo "$up $(cat /etc/soak-host) $(hostname) $*" >>$w/log; }
flock -n 9 && say begin || say second
work() { for n in $(seq $1); do say beat; echo beat $n; sleep 1; done; }
end() { say end $1; exit $1; }
""".strip()
_REPORT = """
mkdir -p out $ARTIFACT_DIR/test-results; echo built >out/a.txt
cat >$ARTIFACT_DIR/test-results/t.xml <<.
<testsuite name="t"><testcase name="a"/><testcase name="b"><failure/></testcase></testsuite>
.
end 0
""".strip()
FLOOD_LINES = 300_000

KINDS = (
    Kind("success", "end 0"),
    Kind("failure", "end 3", "Failed", 3, 2, (("retry", {"exitCodes": {"3": 1}}),)),
    Kind(
        "retried",
        "[ -e $w/again ] || { : >$w/again; end 75; }; end 0",
        verdicts=2,
        container=(("retry", {"exitCodes": {"75": 1}}),),
    ),
    Kind("timed-out", "sleep 60; end 0", "TimedOut", None, container=(("timeoutSeconds", 2),)),
    # Not its last process: of that one's kill not every engine hears.
    Kind(
        "out-of-memory",
        f"{EAT_MEMORY}; end 137",
        "OutOfMemory",
        137,
        container=(("resources", {"memory": "32m"}),),
    ),
    Kind(
        "deaf",
        "trap '' TERM; while :; do sleep 1; done",
        "TimedOut",
        None,
        container=(("timeoutSeconds", 2), ("stopGraceSeconds", 1)),
    ),
    Kind("flood", f"seq {FLOOD_LINES}; end 0"),
    Kind("report", _REPORT, container=(("outputs", [{"path": "out/a.txt", "required": True}]),)),
    Kind("heartbeat", "work 10; end 0"),
    Kind("rejected", "end 0", "Rejected", None, 0, (("timeoutSecond", 1),)),
)


class Word(StrEnum):
    """What a person says of a run."""

    CANCEL = "cancel"
    SUSPEND = "suspend"
    RESUME = "resume"
    RETRY = "retry"
    DELETE = "delete"
    SET_FAILED = "set-failed"
    SET_COMPLETED = "set-completed"
    SET_CANCELLED = "set-cancelled"


@dataclass(frozen=True, slots=True)
class Saying:
    """A word, said `seconds` after the run was first seen to be `when`."""

    word: Word
    when: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Task:
    """One of the soak's runs."""

    number: int
    kind: Kind
    work_seconds: int
    sayings: tuple[Saying, ...] = ()

    @property
    def payload(self) -> Any:
        return self.kind.payload(self.work_seconds)


_SAID_OF = 0.2
_RETRIED = 0.05


def tasks(seed: int, count: int) -> list[Task]:
    """As many of each kind, in any order."""
    chance = random.Random(f"tasks {seed}")
    kinds = [KINDS[number % len(KINDS)] for number in range(count)]
    chance.shuffle(kinds)
    return [_task(chance, number, kind) for number, kind in enumerate(kinds)]


def _task(chance: random.Random, number: int, kind: Kind) -> Task:
    if chance.random() >= _SAID_OF:
        retry = Saying(Word.RETRY, "over", chance.uniform(0, 20))
        is_retried = chance.random() < _RETRIED
        return Task(number, kind, chance.choice((0, 0, 1, 3)), (retry,) if is_retried else ())
    return Task(number, kind, chance.randint(8, 20), tuple(_sayings(chance)))


def _sayings(chance: random.Random) -> Iterator[Saying]:
    when = chance.choice(("asked", "running", "running", "running"))
    word = chance.choice([word for word in Word if word not in (Word.RESUME, Word.RETRY)])
    if word is Word.SUSPEND:
        # A run that does not run cannot be suspended.
        yield Saying(word, "running", chance.uniform(0, 6))
        yield Saying(Word.RESUME, "suspended", chance.choice((2, 5, 30)))
    else:
        yield Saying(word, when, chance.uniform(0, 6))
    if word is not Word.DELETE and chance.random() < 0.3:
        yield Saying(Word.RETRY, "over", chance.uniform(0, 20))


class What(StrEnum):
    """What a storm does to a host."""

    KILL_WORKER = "kill the worker"
    STOP_WORKER = "stop the worker"
    CUT_API = "cut the connections to the server"
    REFUSE_API = "cut the host off from the server"
    HANG_API = "have the server not answer the host"
    LOSE_API = "lose answers of the server"
    CUT_ENGINE = "cut the connections to the engine"
    REFUSE_ENGINE = "cut the worker off from its engine"
    HANG_ENGINE = "have the engine not answer"
    LOSE_ENGINE = "lose answers of the engine"
    RESTART_ENGINE = "restart the engine"
    KILL_ENGINE = "kill the engine"
    DIE = "cut the power"
    LOSE_DISK = "cut the power, and return it without its disk"
    RESTART_SERVER = "restart the server"
    KILL_SERVER = "kill the server"


@dataclass(frozen=True, slots=True)
class Deed:
    """`pause` seconds after the one before it was over; it lasts `seconds`."""

    pause: float
    what: What
    seconds: float


_MOMENT, _WHILE, _LONG = (0.0, 3.0), (10.0, 40.0), (90.0, 150.0)
# A host is in bad weather for a third of the time, so that tasks get on.
_TO_A_HOST = (
    (12, What.KILL_WORKER, _MOMENT),
    (9, What.STOP_WORKER, _MOMENT),
    (6, What.CUT_API, _MOMENT),
    (6, What.REFUSE_API, _WHILE),
    (1, What.REFUSE_API, _LONG),
    (6, What.HANG_API, _WHILE),
    (1, What.HANG_API, _LONG),
    (6, What.LOSE_API, _WHILE),
    (6, What.CUT_ENGINE, _MOMENT),
    (6, What.REFUSE_ENGINE, _WHILE),
    (1, What.REFUSE_ENGINE, _LONG),
    (6, What.HANG_ENGINE, _WHILE),
    (1, What.HANG_ENGINE, _LONG),
    (6, What.LOSE_ENGINE, _WHILE),
    (3, What.RESTART_ENGINE, _MOMENT),
    (3, What.KILL_ENGINE, _MOMENT),
    (2, What.DIE, _WHILE),
    (1, What.DIE, _LONG),
    (1, What.LOSE_DISK, _WHILE),
)
_TO_THE_SERVER = ((2, What.RESTART_SERVER, _MOMENT), (1, What.KILL_SERVER, (10.0, 30.0)))


def deeds(seed: int, whom: str) -> Iterator[Deed]:
    """Without an end, what is done to a host, or to the `server`."""
    chance = random.Random(f"storm {seed} {whom}")
    table, pauses = (_TO_THE_SERVER, (120, 360)) if whom == "server" else (_TO_A_HOST, (10, 40))
    while True:
        (row,) = chance.choices(table, [weight for weight, _, _ in table])
        yield Deed(chance.uniform(*pauses), row[1], chance.uniform(*row[2]))
