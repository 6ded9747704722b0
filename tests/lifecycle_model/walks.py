"""Plays many random histories: `python -m tests.lifecycle_model.walks 100000`."""

import sys
import time
from collections.abc import Iterable, Sequence

from tests.lifecycle_model.decisions import Decisions
from tests.lifecycle_model.histories import walk
from tests.lifecycle_model.judge import Broken
from tests.lifecycle_model.world import World


def settled(decide: Decisions, moves: Sequence[str], gone: str | None = None) -> World:
    """The world after these moves, and after all faults but a `gone` host have ended."""
    world = World(decide)
    world.play(moves)
    world.settle(gone=gone)
    return world


def broken(kind: type[Decisions], seeds: Iterable[int]) -> dict[int, str]:
    """The seeds of walks that break an invariant, and which."""
    found = dict[int, str]()
    for seed in seeds:
        moves, gone = walk(seed)
        try:
            settled(kind(), moves, gone)
        except Broken as error:
            found[seed] = str(error)
    return found


if __name__ == "__main__":
    began, number = time.process_time(), int(sys.argv[1])
    found = broken(Decisions, range(number))
    seconds = time.process_time() - began
    sys.stdout.write(f"{number} histories, {seconds:.0f} CPU-s, broken: {found or 'none'}\n")
    sys.exit(bool(found))
