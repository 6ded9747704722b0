"""How much CPU a call takes, on a machine that may be slow and busy."""

import hashlib
import time
from collections.abc import Callable


def cpu_seconds(call: Callable[[], object]) -> float:
    """Of this thread alone: what others do meanwhile does not count."""
    began = time.thread_time()
    call()
    return time.thread_time() - began


def seconds_here(seconds: float) -> float:
    """What takes so long on an ordinary machine, on this one as it goes now."""
    data = bytes(4 * 1024**2)
    unit = min(cpu_seconds(lambda: hashlib.md5(data).digest()) for _ in range(3))
    return seconds * max(1.0, unit / _UNIT_SECONDS)


# MD5, which no processor has an instruction for, of 4 MiB.
_UNIT_SECONDS = 0.007
