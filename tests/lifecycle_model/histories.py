"""Histories: moves of a world, drawn from steps of its processes, faults, people and time."""

import random
from collections.abc import Sequence

from tests.lifecycle_model.world import JOBS

HOSTS = ("a", "b")
FAULTS = (
    "exits",
    "fails",
    "engine restarts",
    "container removed",
    "worker killed",
    "worker told to end",
    "power cut",
    "power back",
    "power back",
    "disk lost",
    "cut from server",
    "cut from server",
    "server back",
    "cut from engine",
    "engine back",
    "answer lost",
)
PEOPLE = (
    "cancel",
    "suspend",
    "resume",
    "resume",
    "retry",
    "retry",
    "delete",
    "mark completed",
    "mark failed",
    "mark cancelled",
    "late",
)
# Steps that are enough for a job to come to its end, where nothing keeps it.
_WHOLE = {"poll": 3, "claim": 5, "sweep": 16, "take over": 8, "carry": 16}


def whole(host: str, *jobs: str) -> list[str]:
    """Each job of a host from its beginning to its end."""
    return [move for job in jobs for move in [f"{host} {job}"] * _WHOLE[job]]


def patience(host: str) -> list[str]:
    """Time in which this host alone goes on."""
    return [move for _ in range(10) for move in ["tick", *whole(host, "poll", "take over")]]


def _chunks() -> list[list[str]]:
    """All moves by themselves, jobs as a whole, and a host's patience."""
    steps = [[f"{host} {job}"] for host in HOSTS for job in (*JOBS, "carry")]
    faults = [[f"{host} {fault}"] for host in HOSTS for fault in sorted(set(FAULTS))]
    people = [[word] for word in sorted(set(PEOPLE))]
    jobs = [whole(host, job) for host in HOSTS for job in _WHOLE]
    return [["tick"], *steps, *faults, *people, *jobs, *jobs, *map(patience, HOSTS)]


CHUNKS = _chunks()


def chunk(draw: random.Random, faults: float, people: float) -> list[str]:
    """The next few moves."""
    kind, host = draw.random(), draw.choice(HOSTS)
    if kind < faults:
        return [f"{host} {draw.choice(FAULTS)}"]
    if kind < faults + people:
        return [draw.choice(PEOPLE)]
    if kind < faults + people + 0.12:
        return patience(host) if draw.random() < 0.12 else ["tick"]
    job = draw.choice((*JOBS, "poll", "claim", "carry", "carry", "carry"))
    return whole(host, job) if draw.random() < 0.3 else [f"{host} {job}"] * draw.choice((1, 2, 4))


def walk(seed: int) -> tuple[Sequence[str], str | None]:
    """A history, and the host that stays gone at its end."""
    draw = random.Random(seed)
    faults, people = draw.choice((0.04, 0.08, 0.15)), draw.choice((0.0, 0.03, 0.06))
    moves = list[str]()
    host = draw.choice(HOSTS)
    if draw.random() < 0.2:
        moves += [*whole(host, "poll", "claim", "carry"), f"{host} exits", *whole(host, "carry")]
        moves.append("retry")
    if draw.random() < 0.8:
        moves += [*whole(host, "poll", "claim"), *[f"{host} carry"] * draw.randint(3, 18)]
    length = len(moves) + draw.randint(20, 200)
    while len(moves) < length:
        moves += chunk(draw, faults, people)
    return moves, draw.choice((None, None, *HOSTS))
