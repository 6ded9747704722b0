"""What is reported of a pull while it goes on, from an image store that a test leads."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.engine.images.auth import Login
from flows.engine.images.failures import image_error
from flows.engine.images.progress import PullObserver, Take
from flows.engine.images.pull import PullOptions, PullRequest, ensure_image
from flows.engine.types import Image
from flows.errors import EngineUnavailable, ImageError
from flows.report.progress import PrefectPullObserver, ProgressArtifact
from tests.specs import compiled
from tests.strategies import FULL

SPEC = replace(compiled(FULL), image="a:b")
LAYER = {"status": "Pulling fs layer", "id": "x", "progressDetail": {}}
HALF = {"status": "Downloading", "id": "x", "progressDetail": {"current": 5, "total": 10}}


class Led:
    """An image store with one image, which comes as `pull` says."""

    def __init__(self, pull: Callable[[Take], Awaitable[None]]) -> None:
        self._pull = pull
        self._image: Image | None = None
        self.tries = 0

    async def look(self, name: str) -> Image | None:
        return self._image

    async def fetch(
        self, request: PullRequest, login: Login | None, take: Take, inactivity_seconds: float
    ) -> None:
        self.tries += 1
        await self._pull(take)
        self._image = Image("sha256:1", "sha256:2", "linux/amd64")

    async def may_read(
        self, request: PullRequest, login: Login | None, inactivity_seconds: float
    ) -> None:
        raise AssertionError("nothing was present")


class Hasty(PullObserver):
    """Wants to hear much."""

    say_seconds = show_seconds = 0.01

    def __init__(self) -> None:
        self.said: list[str] = []
        self.shown: list[tuple[float, str]] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    async def show(self, percent: float, description: str) -> None:
        self.shown.append((percent, description))


async def test_a_pull_is_told_at_once_and_then_again_and_again() -> None:
    observer = Hasty()

    async def pull(take: Take) -> None:
        assert observer.said == ["Pulling a:b"]
        take(LAYER)
        take(HALF)
        while len(observer.said) < 3 or len(observer.shown) < 2:
            await asyncio.sleep(0)

    image = await ensure_image(Led(pull), SPEC, PullOptions(observer=observer))
    assert (image.cache_hit, image.pulled_bytes) == (False, 5)
    assert observer.said[1] == "Pulling a:b: 0 of 1 layers, 5 B of 10 B"
    assert set(observer.shown) == {(40.0, "a:b: 0 of 1 layers, 5 B of 10 B")}


async def test_what_is_told_rarely_is_told_first_and_last() -> None:
    observer = Hasty()
    observer.say_seconds = observer.show_seconds = 3600

    async def pull(take: Take) -> None:
        take(LAYER)

    await ensure_image(Led(pull), SPEC, PullOptions(observer=observer))
    assert [line.partition(":")[0] for line in observer.said] == ["Pulling a", "Pulled a"]
    assert len(observer.shown) == 1


@pytest.mark.parametrize(
    ("words", "tries", "pauses"),
    [
        ("connection refused", 4, ["0.001", "0.002", "0.004"]),
        ("toomanyrequests", 4, ["0.01", "0.02", "0.04"]),
        ("manifest unknown", 1, []),
    ],
)
async def test_each_try_is_told_with_its_pause(words: str, tries: int, pauses: list[str]) -> None:
    observer = Hasty()

    async def pull(take: Take) -> None:
        raise image_error("a:b", words)

    led = Led(pull)
    with pytest.raises(ImageError, match=words):
        await ensure_image(led, SPEC, PullOptions(observer=observer, pause_seconds=0.001))
    assert led.tries == tries
    told = [line.split()[-2] for line in observer.said if line.startswith("Try ")]
    assert told == pauses


async def test_credentials_that_cannot_be_read_stop_the_run_before_the_pull() -> None:
    async def unreadable(_registry: str) -> Login | None:
        raise EngineUnavailable("the credentials cannot be read")

    async def pull(take: Take) -> None:
        raise AssertionError("nobody may pull")

    with pytest.raises(EngineUnavailable):
        await ensure_image(Led(pull), SPEC, PullOptions(login_to=unreadable))


async def test_a_server_that_is_away_costs_the_artifact_alone() -> None:
    said: list[str] = []
    nobody: dict[Any, Any] = {
        PREFECT_API_URL: "http://127.0.0.1:1/api",
        PREFECT_CLIENT_MAX_RETRIES: 0,
    }
    with temporary_settings(nobody):
        async with ProgressArtifact(str(uuid4()), "a-key", "the pull", said.append) as artifact:
            observer = PrefectPullObserver(artifact, said.append)
            await observer.show(1.0, "a")
            await observer.show(2.0, "b")
    assert len(said) == 1
    assert said[0].startswith("The progress of the pull is not shown any more: ConnectError")
