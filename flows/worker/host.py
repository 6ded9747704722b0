"""A worker's host as its sweeps see it: Prefect's API, settings, and the attempts on disk."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from prefect.client.orchestration import PrefectClient

from flows.runtime.context import Job
from flows.runtime.store import AttemptStore, IsCarried, carries_nothing
from flows.settings import HostSettings
from flows.workspace.logs import Logger


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class SweptHost:
    """What a sweep works with. With `dry_run` it only says what it would do."""

    client: PrefectClient
    settings: HostSettings
    logger: Logger
    is_carried: IsCarried = carries_nothing
    dry_run: bool = False
    now: Callable[[], datetime] = _utc_now

    def store(self, job_id: str) -> AttemptStore:
        """What is known of a job; its lock counts as held while this process runs the job."""
        return AttemptStore(self.settings.workdir, job_id, self.is_carried)

    def job(self, store: AttemptStore) -> Job:
        """A job, for those that end or restart it."""
        return Job(store, self.logger, host=self.settings)

    def log(self, done: list[str]) -> list[str]:
        """Say in the log what was done, or would be; returns it."""
        for sentence in done:
            self.logger.info(f"Would: {sentence}" if self.dry_run else sentence)
        return done
