"""Ways to get a payload wrong, each with the message that it produces, from the run's own state.

The table is in tests/mistakes.py, as a page of the documentation is made of it.
"""

import json
import re
from collections.abc import Iterator, Mapping

import pytest

from flows.testing import ContainerTaskRun
from tests import test_doctor, test_doctor_server
from tests.git_server import commit_all, git_daemon, git_http
from tests.host_mistakes import HOST_MISTAKES, mistakes_held
from tests.mistakes import IMAGE, MISTAKES, PAGE, Mistake, page
from tests.registry import Registry
from tests.runs import BUSYBOX


@pytest.fixture(scope="module")
def stand_ins(
    registry: Registry, private_registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, str]]:
    """What there is for each name in the table."""
    base = tmp_path_factory.mktemp("git")
    (base / "game").mkdir()
    (base / "game" / "README").touch()
    commit_all(base / "game", "First")
    with git_daemon(base) as daemon, git_http(base) as code:
        yield {
            IMAGE: BUSYBOX,
            "registry.example.org": registry.host,
            "private.example.org": private_registry.host,
            "git://git.example.org": daemon,
            "code.example.org": code,
        }


@pytest.mark.docker
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.what)
def test_a_mistake_is_told_with_what_is_wrong_and_where_and_what_to_do(
    container_task_run: ContainerTaskRun, stand_ins: Mapping[str, str], mistake: Mistake
) -> None:
    written = json.dumps(mistake.payload)
    for name, real in stand_ins.items():
        written = written.replace(name, real)
    result = container_task_run(json.loads(written), "docker")
    told = result.message.replace(result.folder.name, "<job_id>")
    for name, real in stand_ins.items():
        told = told.replace(real, name)
    assert _alike(told) == _alike(mistake.message)
    assert result.outcome != "succeeded"


def _alike(message: str) -> str:
    """Without what differs by host: its processors, and the number of a process."""
    message = re.sub(r"to \d+\.00, as there are only \d+ CPUs", "as many as there are", message)
    return re.sub(r"tini \(\d+\)", "tini", message)


def test_the_page_has_every_message() -> None:
    assert PAGE.read_text() == page(), "make it anew: python -m tests.mistakes"


def test_doctor_is_held_to_every_message_about_a_host() -> None:
    held = [each for tests in (test_doctor, test_doctor_server) for each in mistakes_held(tests)]
    assert sorted(each.what for each in held) == sorted(each.what for each in HOST_MISTAKES)
