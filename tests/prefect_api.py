"""A Prefect API for flows that run in the tests' process.

Prefect's own test harness loads the whole server into this process and migrates an empty database
each time: seven seconds of a processor for each process of pytest.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import prefect
from prefect.context import _temporary_global_settings_context, get_settings_context
from prefect.settings import PREFECT_API_URL, temporary_settings

from scripts.stack import ROOT, Stack, free_port

_MIGRATED = ROOT / ".cache" / f"prefect-{prefect.__version__}.db"


@contextmanager
def prefect_api_in(folder: Path) -> Iterator[None]:
    """For the block, the API of a server with an empty database in `folder`."""
    database = folder / "prefect.db"
    if is_migrated := _MIGRATED.exists():
        shutil.copyfile(_MIGRATED, database)
    settings = {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
        "PREFECT_UI_ENABLED": "false",
        # A test waits for its events; by default they are stored every five seconds.
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.1",
    }
    with Stack(folder, free_port(), settings) as server:
        server.start_server()
        if not is_migrated:
            _keep(database)
        with (
            temporary_settings({PREFECT_API_URL: f"{server.address}/api"}),
            # For tasks and threads whose context was copied before.
            _temporary_global_settings_context(get_settings_context()),
        ):
            yield


def _keep(database: Path) -> None:
    """Several processes may be at it: each writes a file of its own, and the last one stays."""
    _MIGRATED.parent.mkdir(exist_ok=True)
    copy = _MIGRATED.with_name(f"{_MIGRATED.name}.{os.getpid()}")
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    copy.replace(_MIGRATED)
