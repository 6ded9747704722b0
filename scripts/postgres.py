"""A Postgres of our own, for Prefect's server: SQLite serves a first run, not work."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from scripts.stack import free_port

_USER = "postgres"
_DATABASE = "postgres"


class PostgresMissing(Exception):
    """There is no Postgres on this machine."""


class Postgres:
    """One cluster in a temporary folder, on loopback, gone when the block ends."""

    def __init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        initdb = str(found[-1]) if found else shutil.which("initdb")
        if initdb is None:
            raise PostgresMissing("install Postgres (Debian's package is postgresql)")
        self._bin = Path(initdb).resolve().parent
        self._folder = Path(tempfile.mkdtemp(prefix="moonmind-postgres-"))
        self.port = free_port()

    @property
    def url(self) -> str:
        """For PREFECT_SERVER_DATABASE_CONNECTION_URL."""
        return f"postgresql+asyncpg://{_USER}@127.0.0.1:{self.port}/{_DATABASE}"

    @property
    def pid(self) -> int:
        """Of the postmaster, the parent of all its processes."""
        return int((self._folder / "data/postmaster.pid").read_text().splitlines()[0])

    @property
    def size_bytes(self) -> int:
        """What the database takes on disk, its indexes included."""
        return self._ask("select pg_database_size(current_database())")

    @property
    def commits(self) -> int:
        """Transactions that were committed since the start."""
        return self._ask("select sum(xact_commit)::bigint from pg_stat_database")

    def __enter__(self) -> Self:
        data = str(self._folder / "data")
        if os.geteuid() == 0:
            # Postgres refuses to run as root.
            os.chown(self._folder, pwd.getpwnam(_USER).pw_uid, -1)
        self._run("initdb", "--pgdata", data, "--auth", "trust", "--username", _USER, "--no-sync")
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= "
            "-c max_connections=200"
        )
        log = str(self._folder / "log")
        self._run("pg_ctl", "--pgdata", data, "--log", log, "-o", options, "--wait", "start")
        return self

    def __exit__(self, *_: object) -> None:
        data = str(self._folder / "data")
        self._run("pg_ctl", "--pgdata", data, "--mode", "immediate", "--wait", "stop")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ask(self, query: str) -> int:
        words = ["-h", "127.0.0.1", "-p", str(self.port), "-U", _USER, "-d", _DATABASE, "-Atc"]
        return int(subprocess.check_output([str(self._bin / "psql"), *words, query], text=True))

    def _run(self, program: str, *words: str) -> None:
        user = ["runuser", "-u", _USER, "--"] if os.geteuid() == 0 else []
        # A pipe would be held open by the server that pg_ctl leaves behind.
        with (self._folder / "setup.log").open("ab") as log:
            done = subprocess.run(
                [*user, str(self._bin / program), *words],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
        if done.returncode:
            said = (self._folder / "setup.log").read_text(errors="replace")[-2000:]
            raise PostgresMissing(f"{program} failed: {said}")
