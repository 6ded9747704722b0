"""What an upload costs: a tree of many files to an S3 endpoint, by us and by a plain client.

Both run in processes of their own, by turns, each against a fresh endpoint (moto's server, which
keeps everything in memory) on the same machine. The plain client is boto3's `upload_file` in as
many threads. Prints seconds, processor time and peak memory over idle, and their ratio.
"""

import asyncio
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import psutil
import s3fs  # noqa: F401 - loaded with the first upload: memory of the idle process
from cyclopts import App, Parameter
from prefect.types import SecretDict
from rich.console import Console

from benchmarks.counts import report
from benchmarks.measures import MIB, cpu_seconds
from blocks.storage import ArtifactStorage
from flows.outputs.upload import files_of, upload
from flows.outputs.upload_plan import UploadJournal
from flows.workspace.folder import Workspace
from tests.finished import finished
from tests.s3 import BUCKET, Endpoint, endpoint

app = App(name="scripts/benchmark upload", help=__doc__)
console = Console(stderr=True)

_JOB = "00000000-0000-4000-8000-000000000000"
_FOLDERS = 100


@dataclass(frozen=True, slots=True)
class Spent:
    """What one upload took."""

    seconds: float
    cpu_seconds: float
    server_cpu_seconds: float
    peak_mib_over_idle: float


class _Meter:
    """Seconds, processor time and peak memory of this process in a block."""

    seconds = cpu_seconds = peak_mib = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        # Has the kernel start the peak anew.
        Path("/proc/self/clear_refs").write_text("5")
        idle = psutil.Process().memory_info().rss
        began, cpu = time.monotonic(), time.process_time()
        yield
        self.seconds, self.cpu_seconds = time.monotonic() - began, time.process_time() - cpu
        self.peak_mib = (_peak_bytes() - idle) / MIB


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _ours(root: Path, s3: Endpoint, threads: int) -> _Meter:
    files = files_of(Workspace(root, _JOB), 1, 1)
    options = SecretDict(s3.options())
    storage = ArtifactStorage(url=f"s3://{BUCKET}/ours", options=options, parallel_uploads=threads)
    journal = UploadJournal(root, _JOB, 1)
    meter = _Meter()
    with meter.running():
        asyncio.run(upload(storage, journal, files, logging.getLogger(), 3600))
    return meter


def _plain(root: Path, s3: Endpoint, threads: int) -> _Meter:
    files = [path for path in (root / _JOB / "artifacts").rglob("*") if path.is_file()]
    client, meter = s3.client, _Meter()
    with meter.running(), ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda path: client.upload_file(str(path), BUCKET, str(path)), files))
    return meter


def _measured(
    work: Callable[[Path, Endpoint, int], _Meter], root: Path, threads: int, files: int
) -> Spent:
    fresh = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    with endpoint() as s3, fresh as process:
        assert s3.process is not None
        port, server = s3.port, cpu_seconds(s3.process.pid)
        meter = process.submit(work, root, Endpoint(port), threads).result()
        server = cpu_seconds(s3.process.pid) - server
        assert len(s3.keys()) in (files, files + 1), "not every file arrived"
    spent = Spent(
        *(round(each, 1) for each in (meter.seconds, meter.cpu_seconds, server, meter.peak_mib))
    )
    console.print(f"{work.__name__.strip('_')}: {spent}")
    return spent


def _fill(folder: Path, files: int, size_bytes: int) -> None:
    for number in range(files):
        path = folder / f"folder-{number % _FOLDERS}" / f"file-{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size_bytes // files))


def _figures(who: str, spent: list[Spent]) -> dict[str, list[float]]:
    rounds = list(map(asdict, spent))
    return {f"{who} {key}": [each[key] for each in rounds] for key in rounds[0]}


@app.default
def upload_benchmark(
    *,
    files: Annotated[int, Parameter(help="How many files.")] = 10_000,
    mib: Annotated[int, Parameter(help="How large they are together.")] = 1024,
    threads: Annotated[int, Parameter(help="How many are sent at a time.")] = 8,
    rounds: Annotated[int, Parameter(help="How often each client has its turn.")] = 3,
    most: Annotated[float, Parameter(help="Exit 1 above so many times the plain client.")] = 2.0,
) -> None:
    """Run the benchmark and print its figures."""
    with tempfile.TemporaryDirectory(prefix="moonmind-upload-") as folder:
        root = Path(folder)
        attempt = finished(root, job_id=_JOB)
        console.print(f"Making {files:,} files, {mib:,} MiB.")
        _fill(attempt.prepared.workspace.artifacts, files, mib * MIB)
        both = [
            (_measured(_ours, root, threads, files), _measured(_plain, root, threads, files))
            for _ in range(rounds)
        ]
    ratios = [round(ours.seconds / plain.seconds, 2) for ours, plain in both]
    facts = {
        "files": files,
        "mib": mib,
        "threads": threads,
        **_figures("ours", [ours for ours, _ in both]),
        **_figures("plain", [plain for _, plain in both]),
        "ratios": ratios,
        "ok": statistics.median(ratios) <= most,
    }
    report("Upload", facts)
    sys.exit(0 if facts["ok"] else 1)


if __name__ == "__main__":
    app()
