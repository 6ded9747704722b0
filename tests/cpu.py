"""How much CPU a call takes, on a machine that may be slow and busy."""

import gc
import json
import statistics
import time
from collections.abc import Callable


def cpu_seconds(call: Callable[[], object]) -> float:
    """Of this thread alone: neither what others do meanwhile counts, nor that the garbage collector
    looks through what was there before."""
    gc.freeze()
    try:
        began = time.thread_time()
        call()
        return time.thread_time() - began
    finally:
        gc.unfreeze()


def is_slow(call: Callable[[], object], seconds: float) -> bool:
    """Whether it takes longer than so much of an ordinary machine's CPU, four times in a row: what
    others have in the processor's caches, and do in the middle of a call, takes time as well."""
    return cpu_seconds(call) > seconds and all(
        cpu_seconds(call) > _seconds_here(seconds) for _ in range(3)
    )


def _seconds_here(seconds: float) -> float:
    """What takes so long on an ordinary machine, on this one as it goes now."""
    unit = statistics.median(cpu_seconds(_work) for _ in range(5))
    return seconds * max(1.0, unit / _UNIT_SECONDS)


# What `_work` takes where nobody else is.
_UNIT_SECONDS = 0.004


def _work() -> None:
    text = json.dumps([{"a": str(number), "b": [number]} for number in range(4_000)])
    json.loads(text)
