"""What masking costs output: 100 MB of a container's, into `runner.log`, with secrets and without.

By turns on the same engine, through all that output goes through: the engine, the masker, the file
and the live log. Prints the rates, their ratio, and the rate of the masker alone.
"""

import asyncio
import hashlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated
from uuid import uuid4

from cyclopts import App, Parameter
from prefect.logging import disable_run_logger
from rich.console import Console

from benchmarks.measures import FLOOD
from flows.engine.selection import open_engine
from flows.masking import Masker
from flows.payload.policy import Policy
from flows.runtime import execution
from flows.spec import Run
from flows.workspace.folder import Workspace
from flows.workspace.logs import RunnerLog
from tests.runs import BUSYBOX
from tests.specs import compiled, new_run
from tests.strategies import enabled

app = App(name="scripts/benchmark masking", help=__doc__)
console = Console()

# `FLOOD` prints a million lines of 100 bytes.
_OUTPUT_BYTES = 100_000_000
_ALONE_BYTES = 50_000_000


def secret(size: int) -> str:
    """A key of many lines, as a kubeconfig has them."""
    lines = (f"  key-{i}: {hashlib.sha256(str(i).encode()).hexdigest()}" for i in range(size))
    return "\n".join(lines)[:size]


async def logged(masker: Masker) -> float:
    """Megabytes a second of a container's output on their way into `runner.log`."""
    run: Run = new_run()
    with tempfile.TemporaryDirectory() as root:
        workspace = Workspace(Path(root), run.job_id)
        await asyncio.to_thread(workspace.create, "container", None)
        raw = enabled(image=BUSYBOX, command=["sh", "-c", FLOOD], workdir="/", pull="never")
        spec = compiled(raw, mount=workspace.mount, run=run)
        async with open_engine(Policy()) as engine:
            with RunnerLog(workspace, "container", lambda _: None, masker=masker) as log:
                began = time.monotonic()
                with disable_run_logger():
                    outcome = await execution.run(engine, spec, log)
                seconds = time.monotonic() - began
                size = log.so_far().bytes
    if outcome.exit_code != 0 or size != _OUTPUT_BYTES:
        raise SystemExit(f"{size} bytes came, and the outcome is {outcome}")
    return _OUTPUT_BYTES / seconds / 1e6


def alone(masker: Masker) -> float:
    """Megabytes a second that the masker takes where nothing else is to be done."""
    stream, piece = masker.stream(), (b"0" * 98 + b"\n") * 165
    began = time.thread_time()
    for _ in range(_ALONE_BYTES // len(piece)):
        stream.feed(piece)
    return _ALONE_BYTES / (time.thread_time() - began) / 1e6


@app.default
def main(
    rounds: Annotated[int, Parameter(help="Each of them once a round")] = 3,
) -> None:
    """Measure, by turns."""
    maskers = {"none": Masker(), "40 bytes": Masker([uuid4().hex + "-" + uuid4().hex[:7]])}
    maskers |= {f"{size:,} bytes": Masker([secret(size)]) for size in (10_000, 100_000)}
    rates: dict[str, list[float]] = {name: [] for name in maskers}
    for _ in range(rounds):
        for name, masker in maskers.items():
            rates[name].append(asyncio.run(logged(masker)))
    plain = rates["none"]
    for name, masker in maskers.items():
        ratio = statistics.median(a / b for a, b in zip(rates[name], plain, strict=True))
        by_itself = f", the masker alone {alone(masker):.0f} MB/s" if name != "none" else ""
        console.print(
            f"secret of {name}: {statistics.median(rates[name]):.1f} MB/s, {ratio:.2f} of "
            f"unmasked{by_itself}"
        )


if __name__ == "__main__":
    app()
