"""What is wrong with hosts, and what `container-task doctor` tells of it: the tests of doctor hold
it to these words, and `python -m tests.mistakes` writes them into the documentation."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType

import pytest

from flows.cli.doctor.checkup import Finding


@dataclass(frozen=True)
class HostMistake:
    """One finding. Names and addresses in it stand for what a test has of them."""

    what: str
    says: str
    mend: str


class Told:
    """Holds findings to the words of one mistake."""

    def __init__(self, mistake: HostMistake) -> None:
        self._mistake = mistake
        self.is_held = False

    def __call__(self, found: Finding, stand_ins: Mapping[str, str] | None = None) -> None:
        """Fail unless these are its words; `stand_ins` are the names there for those here."""
        says, mend = found.says, found.mend
        for real, name in (stand_ins or {}).items():
            says, mend = says.replace(real, name), mend.replace(real, name)
        assert (says, mend) == (self._mistake.says, self._mistake.mend)
        self.is_held = True


def tells(mistake: HostMistake) -> pytest.MarkDecorator:
    """Mark the test that holds doctor to these words; its fixture `told` does so."""
    return pytest.mark.parametrize("told", [mistake], indirect=True, ids=[mistake.what])


def mistakes_held(tests: ModuleType) -> Iterator[HostMistake]:
    """What the tests of a module are marked with."""
    for test in vars(tests).values():
        for mark in getattr(test, "pytestmark", ()):
            if mark.args[:1] == ("told",):
                yield from mark.args[1]


SETTING = HostMistake(
    "A setting has a value that it does not take",
    "MOONMIND_WORKER_CPUS is 'many' on this worker, but takes a number of processors above 0, "
    "such as 3.5",
    "correct it in the environment of the worker; docs/operating.md lists them",
)
OLD_GIT = HostMistake(
    "git is too old",
    "git version 2.17.1 is too old for this runner",
    "install git 2.31 or newer for the worker",
)
FULL_DISK = HostMistake(
    "The disk is nearly full",
    "only 1 MiB are free at /work/agent_jobs: a checkout or an image would fill it",
    "make room there: remove old job folders (docs/storage.md) or unused images",
)
NO_ENGINE = HostMistake(
    "No engine answers",
    "Docker at tcp://docker.example.org:2375 does not answer while answering doctor: Connection "
    "refused",
    "start the engine, or name the right one in DOCKER_HOST; check that the engine runs, that "
    "DOCKER_HOST names it, and that this worker may use it",
)
FORBIDDEN = HostMistake(
    "A proxy before the engine refuses calls",
    "what answers at tcp://docker.example.org:2375 does not let through: POST "
    "/containers/<name>/attach, DELETE /volumes/<name>-workspace (403: not here)",
    "allow these calls in the proxy; the docker-proxy of docker-compose.yaml does",
)
CUT = HostMistake(
    "A proxy before the engine cuts quiet connections",
    "one to tcp://docker.example.org:2375 was cut after 2 s, and should last 8 s",
    "raise the time-outs of the proxy for client, server and tunnel: a task may be quiet for as "
    "long as it runs; until then, each cut costs a run a reconnect",
)
CLOCK = HostMistake(
    "A clock is wrong",
    "the clock of the engine's host is 180 s ahead of this one's",
    "set both by NTP: time limits, expiry and the order of logs go by these clocks",
)
OTHER_FOLDER = HostMistake(
    "The engine does not see the job folders",
    "a container does not see in /work/agent_jobs what this process wrote there",
    "run the worker on the engine's host with MOONMIND_WORKDIR at the same path on both, or put "
    "it into a volume and name that in MOONMIND_CONTAINER_WORKSPACE_VOLUME",
)
NO_API = HostMistake(
    "Prefect's API is away",
    "Prefect's API at http://prefect.example.org/api does not answer (All connection attempts "
    "failed)",
    "check that the server runs and that PREFECT_API_URL names it",
)
LOG_IN = HostMistake(
    "Prefect's API refuses the log-in",
    "Prefect's API at http://prefect.example.org/api refuses this log-in (401)",
    "set PREFECT_API_AUTH_STRING to user:password, or PREFECT_API_KEY for Prefect Cloud",
)
NO_DEPLOYMENT = HostMistake(
    "The deployment is missing",
    "there is no deployment container-task/none on this server",
    "register it with prefect deploy --all, in a checkout with this package's prefect.yaml",
)
NO_WORKER = HostMistake(
    "No worker is online",
    "no worker of the pool lonely is online: what is submitted waits",
    "start one: prefect worker start --pool lonely",
)
PAUSED = HostMistake(
    "The work queue is paused",
    "the queue default of the pool lonely is paused: its runs wait",
    "resume it: prefect work-queue resume default --pool lonely",
)
OTHER_TYPE = HostMistake(
    "The work pool is of another type",
    "the pool cloudy is of the type kubernetes, whose workers run no such tasks",
    "delete it, and create it anew with --type container-task",
)
NO_STORAGE = HostMistake(
    "The storage takes no files",
    "file:///mnt/results does not take files (NotADirectoryError: [Errno 20] Not a directory: "
    "'/mnt/results')",
    "see whether it exists, and whether the block's credentials may write there",
)
HOST_MISTAKES = [each for each in list(globals().values()) if isinstance(each, HostMistake)]
