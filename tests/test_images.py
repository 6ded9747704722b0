"""Images from a real registry through a real engine, and every way in which that fails."""

import asyncio
import os
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect_docker import DockerHost

from flows.engine.docker.engine import DockerEngine
from flows.engine.images.auth import Login, PrivateImages
from flows.engine.images.lock import PullLock
from flows.engine.images.progress import PullObserver
from flows.engine.images.pull import PullOptions
from flows.engine.types import Image
from flows.errors import ImageCause, ImageError
from flows.outcome import OutcomeName
from flows.runtime import execution
from flows.runtime.cancellation import Cancellation, Reason
from flows.runtime.execution import RunOptions
from flows.spec import ContainerSpec
from flows.workspace.folder import Workspace
from scripts.stack import free_port
from tests.gateway import Gateway
from tests.hosts import disk
from tests.own_engine import OwnEngine
from tests.registry import PASSWORD, USER, Answer, Fault, FaultyProxy, Registry, on
from tests.runs import BUSYBOX, payload, until_async
from tests.specs import Nowhere, compiled, new_run

pytestmark = pytest.mark.docker

BIG = 3_000_000


class Listener(PullObserver):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.shown: list[tuple[float, str]] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    async def show(self, percent: float, description: str) -> None:
        self.shown.append((percent, description))


def spec_of(image: str, folder: Path = Path("/nonexistent"), **container: Any) -> ContainerSpec:
    """A spec whose job's folder, below `folder`, is there if that is."""
    run = new_run()
    workspace = Workspace(folder, run.job_id)
    if folder.exists():
        workspace.create("container")
    given: dict[str, Any] = {"image": image, "pull": "if-missing", "timeoutSeconds": 30} | container
    return compiled(payload("true", **given), workspace.mount, run)


def pull_options_of(folder: Path, login: Login | None = None, **settings: Any) -> PullOptions:
    """What a worker would pull with, in a hurry."""

    async def login_to(registry: str) -> Login | None:
        return login if login and login.registry == registry else None

    hurried: dict[str, Any] = {"pause_seconds": 0.01, "inactivity_seconds": 20.0}
    return PullOptions(
        login_to=login_to,
        lock=PullLock(folder / "pulls"),
        private=PrivateImages(folder / "private"),
        **(hurried | settings),
    )


@pytest.fixture
def proxy(registry: Registry) -> Iterator[FaultyProxy]:
    with FaultyProxy(registry.port) as proxy:
        yield proxy


@pytest.fixture
async def engine() -> AsyncIterator[DockerEngine]:
    async with DockerEngine() as engine:
        yield engine


def new_image(registry: Registry, host: str, *layers: bytes) -> str:
    """An image that no engine has seen."""
    return f"{host}/{registry.push(*(layers or (os.urandom(64),)))}"


async def test_a_pull_tells_how_far_it_is_and_how_it_came(
    registry: Registry, engine: DockerEngine, tmp_path: Path
) -> None:
    name = new_image(registry, registry.host, os.urandom(BIG), os.urandom(1000), os.urandom(10))
    listener = Listener()
    image = await engine.pull(spec_of(name), pull_options_of(tmp_path, observer=listener))
    assert (image.cache_hit, image.platform) == (False, "linux/amd64")
    assert image.pulled_bytes is not None
    assert BIG < image.pulled_bytes < BIG + 10_000
    assert image.pull_seconds is not None
    assert image.pull_seconds > 0
    assert listener.said[0] == f"Pulling {name}"
    assert image.digest in listener.said[-1]
    assert "2.86 MiB" in listener.said[-1]
    assert listener.shown[-1] == (100.0, f"{name}: 3 of 3 layers, 2.86 MiB of 2.86 MiB")


async def test_an_image_that_is_present_is_neither_asked_for_nor_shown(
    registry: Registry, proxy: FaultyProxy, engine: DockerEngine, tmp_path: Path
) -> None:
    spec = spec_of(new_image(registry, proxy.host))
    pulled = await engine.pull(spec, pull_options_of(tmp_path))
    requests, listener = len(proxy.requests), Listener()
    image = await engine.pull(spec, pull_options_of(tmp_path, observer=listener))
    assert image == replace(pulled, cache_hit=True, pulled_bytes=0, pull_seconds=0.0)
    assert (len(proxy.requests), listener.said, listener.shown) == (requests, [], [])


async def test_an_image_that_is_up_to_date_costs_a_look_at_the_registry(
    registry: Registry, proxy: FaultyProxy, engine: DockerEngine, tmp_path: Path
) -> None:
    spec, listener = spec_of(new_image(registry, proxy.host), pull="always"), Listener()
    await engine.pull(spec, pull_options_of(tmp_path))
    blobs = proxy.count("/blobs/")
    image = await engine.pull(spec, pull_options_of(tmp_path, observer=listener))
    assert (image.cache_hit, image.pulled_bytes, listener.shown) == (True, 0, [])
    assert proxy.count("/blobs/") == blobs


FAULTS: dict[str, tuple[Fault, ImageCause, str]] = {
    "429": (on("/v2/", Answer(status=429)), ImageCause.RATE_LIMITED, "how often it is asked"),
    "429 for a blob": (on("/blobs/", Answer(status=429)), ImageCause.RATE_LIMITED, "try later"),
    "503": (on("/v2/", Answer(status=503)), ImageCause.UNREACHABLE, "503 Service Unavailable"),
    "403": (on("/v2/", Answer(status=403)), ImageCause.DENIED, "may read it"),
    "corrupt": (on("/blobs/", Answer(corrupt=True)), ImageCause.CORRUPT, "push the image again"),
    "held": (on("/v2/", Answer(held=True)), ImageCause.TIMEOUT, "nothing was heard of it for 1 s"),
    "held in mid-pull": (
        on("/blobs/", Answer(held=True)),
        ImageCause.TIMEOUT,
        "MOONMIND_PULL_INACTIVITY_SECONDS",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_registry_that_fails_is_told_by_its_class(
    registry: Registry, proxy: FaultyProxy, engine: DockerEngine, tmp_path: Path, fault: str
) -> None:
    failing, cause, said = FAULTS[fault]
    name = new_image(registry, proxy.host)
    threads = threading.active_count()
    with proxy.failing(failing), pytest.raises(ImageError, match=said) as raised:
        await engine.pull(spec_of(name), pull_options_of(tmp_path, inactivity_seconds=1.0))
    assert raised.value.cause is cause
    assert name in str(raised.value)
    await until_async(lambda: threading.active_count() <= threads + 1)
    # Whatever it was, the next task may find it over.
    assert (await engine.pull(spec_of(name), pull_options_of(tmp_path))).cache_hit is False


@pytest.mark.parametrize("length", [4, 8, 12, 63])
async def test_the_beginning_of_an_id_is_no_name_of_an_image(
    engine: DockerEngine, tmp_path: Path, length: int
) -> None:
    command = ["docker", "image", "inspect", "--format", "{{.Id}}", BUSYBOX]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    beginning = found.removeprefix("sha256:")[:length]
    with pytest.raises(ImageError, match="an image is run by its name") as raised:
        await engine.pull(spec_of(beginning, pull="never"), pull_options_of(tmp_path))
    assert raised.value.cause is ImageCause.NOT_FOUND


@pytest.mark.parametrize("missing", ["tag", "name"])
async def test_an_image_that_the_registry_lacks_is_not_found_at_once(
    registry: Registry, proxy: FaultyProxy, engine: DockerEngine, tmp_path: Path, missing: str
) -> None:
    present = new_image(registry, proxy.host)
    name = f"{present}-none" if missing == "tag" else f"{proxy.host}/none/{uuid4().hex}:1"
    listener = Listener()
    with pytest.raises(ImageError, match="check the name and the tag") as raised:
        await engine.pull(spec_of(name), pull_options_of(tmp_path, observer=listener))
    assert raised.value.cause is ImageCause.NOT_FOUND
    assert listener.said == [f"Pulling {name}"]


async def test_a_registry_that_is_away_is_unreachable_after_a_few_tries(
    engine: DockerEngine, tmp_path: Path
) -> None:
    listener = Listener()
    name = f"127.0.0.1:{free_port()}/a:1"
    with pytest.raises(ImageError, match=r"check that .* is up") as raised:
        await engine.pull(spec_of(name), pull_options_of(tmp_path, observer=listener))
    assert raised.value.cause is ImageCause.UNREACHABLE
    assert [line[:13] for line in listener.said if line.startswith("Try")] == [
        "Try 1 of 4 fa", "Try 2 of 4 fa", "Try 3 of 4 fa",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("part", "answer"),
    [("/manifests/", Answer(status=503)), ("/manifests/", Answer(status=429))],
    ids=["503", "429"],
)
async def test_a_fault_that_passes_is_tried_again(
    registry: Registry,
    proxy: FaultyProxy,
    engine: DockerEngine,
    tmp_path: Path,
    part: str,
    answer: Answer,
) -> None:
    name, listener = new_image(registry, proxy.host), Listener()
    with proxy.failing(on(part, answer, times=2)):
        image = await engine.pull(spec_of(name), pull_options_of(tmp_path, observer=listener))
    assert image.cache_hit is False
    assert sum("The next one follows" in line for line in listener.said) >= 1


async def test_a_blob_that_breaks_off_once_is_taken_up_again(
    registry: Registry, proxy: FaultyProxy, engine: DockerEngine, tmp_path: Path
) -> None:
    name = new_image(registry, proxy.host, os.urandom(BIG))
    # One of the two is the image's configuration, which is shorter.
    with proxy.failing(on("/blobs/", Answer(cut_after=BIG // 2), times=2)):
        image = await engine.pull(spec_of(name), pull_options_of(tmp_path))
    assert image.cache_hit is False
    assert proxy.count("/blobs/") == 3


async def test_a_limit_ends_the_pull_with_its_own_words(
    registry: Registry, proxy: FaultyProxy, engine: DockerEngine, tmp_path: Path
) -> None:
    spec = spec_of(new_image(registry, proxy.host), pullTimeoutSeconds=1)
    threads = threading.active_count()
    with proxy.failing(on("/v2/", Answer(held=True))):
        outcome = await execution.run(
            engine, spec, Nowhere(), RunOptions(pull_options=pull_options_of(tmp_path))
        )
        assert (outcome.name, outcome.failure_class) == (OutcomeName.IMAGE_ERROR, "timeout")
        assert "longer than its limit of 1 s" in (outcome.error or "")
        await until_async(lambda: threading.active_count() <= threads + 1)


@pytest.fixture(params=["over the socket", "over TCP"])
async def any_engine(request: pytest.FixtureRequest) -> AsyncIterator[DockerEngine]:
    with Gateway() as over_tcp:
        host = DockerHost(base_url=over_tcp.url) if request.param == "over TCP" else None
        async with DockerEngine(host=host) as engine:
            yield engine


@pytest.mark.parametrize("part", ["/v2/", "/blobs/"], ids=["before the answer", "in mid-blob"])
async def test_a_cancellation_ends_the_pull_at_once_and_leaves_no_thread(
    registry: Registry, proxy: FaultyProxy, any_engine: DockerEngine, tmp_path: Path, part: str
) -> None:
    engine = any_engine
    spec, cancellation = spec_of(new_image(registry, proxy.host)), Cancellation()
    asked = len(proxy.requests)

    def pulling() -> list[str]:
        return [each.name for each in threading.enumerate() if "DockerImages._send" in each.name]

    with proxy.failing(on(part, Answer(held=True))):
        options = RunOptions(cancellation=cancellation, pull_options=pull_options_of(tmp_path))
        running = asyncio.create_task(execution.run(engine, spec, Nowhere(), options))
        await until_async(lambda: any(part in path for _, path in proxy.requests[asked:]))
        assert pulling()
        started = time.monotonic()
        cancellation.request(Reason.CANCEL)
        outcome = await running
        assert outcome.name is OutcomeName.CANCELED
        assert time.monotonic() - started < 10, "the pull's own limit of silence is 20 s"
        await until_async(lambda: not pulling())
    assert list((tmp_path / "pulls").iterdir()) == []


async def test_ten_runs_of_a_missing_image_cause_one_pull(
    registry: Registry, proxy: FaultyProxy, tmp_path: Path
) -> None:
    name, listener = new_image(registry, proxy.host, os.urandom(BIG), os.urandom(10)), Listener()
    images: list[Image] = []

    async def run() -> None:
        async with DockerEngine() as engine:
            options = pull_options_of(tmp_path, observer=listener)
            images.append(await engine.pull(spec_of(name), options))

    # A thread and a loop each, as runs have them.
    threads = [threading.Thread(target=lambda: asyncio.run(run())) for _ in range(10)]
    for each in threads:
        each.start()
    await until_async(lambda: not any(each.is_alive() for each in threads))
    assert len(images) == 10
    assert len({each.id for each in images}) == 1
    assert [each.cache_hit for each in images].count(False) == 1
    assert proxy.count("/manifests/", "HEAD") == 1
    assert proxy.count("/manifests/") == 1
    assert proxy.count("/blobs/") == 3
    assert listener.said.count(f"Pulling {name}") == 1


async def test_those_who_waited_for_a_pull_that_failed_share_its_failure(
    registry: Registry, proxy: FaultyProxy, engine: DockerEngine, tmp_path: Path
) -> None:
    name = new_image(registry, proxy.host)
    listener = Listener()
    with proxy.failing(on("/v2/", Answer(held=True))):
        options = pull_options_of(tmp_path, observer=listener, inactivity_seconds=2.0)
        pulls = [asyncio.create_task(engine.pull(spec_of(name), options)) for _ in range(4)]
        failures = await asyncio.gather(*pulls, return_exceptions=True)
    assert {type(each) for each in failures} == {ImageError}
    assert len(set(map(str, failures))) == 1
    assert listener.said.count(f"Pulling {name}") == 1
    assert sum(line.startswith("Waiting") for line in listener.said) == 3


async def test_a_platform_is_pulled_and_kept_apart(
    registry: Registry, engine: DockerEngine, tmp_path: Path
) -> None:
    name, options = (
        f"{registry.host}/{registry.push_list('amd64', 'arm64')}",
        pull_options_of(tmp_path),
    )
    plain = await engine.pull(spec_of(name), options)
    assert plain.platform == "linux/amd64"
    arm = spec_of(name, platform="linux/arm64/v8")
    with pytest.raises(ImageError, match="made for linux/amd64, not for linux/arm64/v8") as raised:
        await engine.pull(replace(arm, pull="never"), options)
    assert raised.value.cause is ImageCause.WRONG_PLATFORM
    pulled = await engine.pull(arm, options)
    assert (pulled.platform, pulled.cache_hit) == ("linux/arm64", False)
    assert (await engine.pull(arm, options)).cache_hit is True


async def test_a_container_is_created_for_its_platform(
    registry: Registry, engine: DockerEngine, tmp_path: Path, outside_a_run: None
) -> None:
    name = f"{registry.host}/{registry.push_list('amd64', 'arm64')}"
    spec = spec_of(name, tmp_path, platform="linux/arm64", workdir="/")
    await engine.create(spec, await engine.pull(spec, pull_options_of(tmp_path)), {})
    assert await engine.find(spec)
    await engine.destroy(spec)


@pytest.mark.parametrize("kind", ["list", "single"])
async def test_an_image_for_another_platform_is_the_wrong_one(
    registry: Registry, engine: DockerEngine, tmp_path: Path, kind: str
) -> None:
    pushed = registry.push_list("amd64", "arm64") if kind == "list" else registry.push(b"x")
    spec = spec_of(f"{registry.host}/{pushed}", platform="linux/s390x")
    with pytest.raises(ImageError, match="name an image that is made for it") as raised:
        await engine.pull(spec, pull_options_of(tmp_path))
    assert raised.value.cause is ImageCause.WRONG_PLATFORM


async def test_a_tag_that_moves_after_the_pull_changes_nothing(
    registry: Registry, engine: DockerEngine, tmp_path: Path, outside_a_run: None
) -> None:
    spec = spec_of(new_image(registry, registry.host), tmp_path, workdir="/")
    image = await engine.pull(spec, pull_options_of(tmp_path))
    subprocess.run(["docker", "tag", BUSYBOX, spec.image], check=True)
    await engine.create(spec, image, {})
    inspect = ["docker", "inspect", "--format", "{{.Image}}", spec.name]
    created = subprocess.run(inspect, capture_output=True, text=True, check=True).stdout.strip()
    await engine.destroy(spec)
    subprocess.run(["docker", "image", "rm", spec.image], check=True, capture_output=True)
    assert created == image.id


@pytest.fixture(scope="module")
def small_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    """An engine with a small disk, which takes up a blob that broke off no more than once."""
    with (
        disk(tmp_path_factory.mktemp("small"), "24m") as folder,
        OwnEngine(folder, "--max-download-attempts", "1", images=False) as engine,
    ):
        yield engine


@pytest.mark.parametrize(
    ("megabytes", "fault", "cause", "says"),
    [
        (30, None, ImageCause.DISK_FULL, "docker system df"),
        (1, Answer(cut_after=1000), ImageCause.UNREACHABLE, "can reach it"),
    ],
    ids=["full disk", "always cut"],
)
async def test_an_engine_that_cannot_take_a_layer_says_why(
    registry: Registry,
    proxy: FaultyProxy,
    small_engine: OwnEngine,
    tmp_path: Path,
    megabytes: int,
    fault: Answer | None,
    cause: ImageCause,
    says: str,
) -> None:
    name, listener = new_image(registry, proxy.host, os.urandom(megabytes * 2**20)), Listener()
    options = pull_options_of(tmp_path, observer=listener, tries=2)
    async with DockerEngine(host=DockerHost(base_url=small_engine.url)) as engine:
        with (
            proxy.failing(on("/blobs/", fault) if fault else lambda *_: None),
            pytest.raises(ImageError, match=says) as raised,
        ):
            await engine.pull(spec_of(name), options)
    assert raised.value.cause is cause
    tries = sum(line.startswith("Try ") for line in listener.said)
    assert tries == (1 if cause is ImageCause.UNREACHABLE else 0)


def login_for(registry: str, password: str = PASSWORD) -> Login:
    return Login(registry, USER, password)


@pytest.fixture
def gate(private_registry: Registry) -> Iterator[FaultyProxy]:
    with FaultyProxy(private_registry.port) as gate:
        yield gate


async def test_an_image_is_pulled_with_the_log_in_for_its_registry(
    private_registry: Registry, gate: FaultyProxy, engine: DockerEngine, tmp_path: Path
) -> None:
    spec = spec_of(new_image(private_registry, gate.host))
    for login in (None, login_for(gate.host, "wrong-pass"), login_for("example.org")):
        with pytest.raises(ImageError, match="Docker Registry Credentials") as raised:
            await engine.pull(spec, pull_options_of(tmp_path, login))
        assert raised.value.cause is ImageCause.DENIED
        assert "wrong-pass" not in str(raised.value)
    assert not PrivateImages(tmp_path / "private").has(spec.image)
    image = await engine.pull(spec, pull_options_of(tmp_path, login_for(gate.host)))
    assert image.cache_hit is False
    assert PrivateImages(tmp_path / "private").has(spec.image)
    assert PrivateImages(tmp_path / "private").has(image.id)
    everything = b"".join(each.read_bytes() for each in tmp_path.rglob("*") if each.is_file())
    assert PASSWORD.encode() not in everything


@pytest.mark.parametrize("pull", ["if-missing", "never"])
async def test_a_cached_image_is_for_those_whom_its_registry_lets_read_it(
    private_registry: Registry,
    gate: FaultyProxy,
    engine: DockerEngine,
    tmp_path: Path,
    pull: Any,
) -> None:
    spec = spec_of(new_image(private_registry, gate.host))
    login = login_for(gate.host)
    image = await engine.pull(spec, pull_options_of(tmp_path, login))
    spec, blobs = replace(spec, pull=pull), gate.count("/blobs/")
    again = await engine.pull(spec, pull_options_of(tmp_path, login))
    assert (again.id, again.cache_hit) == (image.id, True)

    async def refused(login: Login | None) -> ImageCause:
        with pytest.raises(ImageError) as raised:
            await engine.pull(spec, pull_options_of(tmp_path, login))
        return raised.value.cause

    assert await refused(login_for(gate.host, "wrong-pass")) is ImageCause.DENIED
    # No block matches any more.
    assert await refused(None) is ImageCause.DENIED
    with gate.failing(on("/v2/", Answer(status=503))):
        assert await refused(login) is ImageCause.UNREACHABLE
    # The layers did not come once more for the question; its manifest's configuration may.
    assert gate.count("/blobs/") <= blobs + 2


async def test_an_image_that_became_public_is_for_everybody_once_it_came_without_a_log_in(
    registry: Registry, proxy: FaultyProxy, engine: DockerEngine, tmp_path: Path
) -> None:
    spec = spec_of(new_image(registry, proxy.host))
    await engine.pull(spec, pull_options_of(tmp_path, login_for(proxy.host)))
    with pytest.raises(ImageError, match=r"no Docker Registry Credentials block .* is left"):
        await engine.pull(replace(spec, pull="never"), pull_options_of(tmp_path))
    await engine.pull(spec, pull_options_of(tmp_path))
    assert (await engine.pull(replace(spec, pull="never"), pull_options_of(tmp_path))).cache_hit
