"""The resource receipt: the arithmetic on samples of both cgroup versions, and a real engine."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import Any
from uuid import uuid4

import docker
import pytest
from docker.models.containers import Container

from flows.engine.docker.stats import Sample, Sampler, add
from flows.engine.types import MAX_POINTS, Point, Series, Usage
from tests.gateway import Gateway
from tests.runs import BUSYBOX, until

MEBIBYTE = 1024**2
ENDLESS = "while :; do :; done"


def v1(memory: int, cache: int = 0, cpu: int = 0, **more: Any) -> dict[str, Any]:
    """A sample of an engine on cgroup v1; bytes and nanoseconds."""
    stats = {"total_inactive_file": cache, "inactive_file": 0, "cache": cache}
    return {
        "read": "2026-11-22T14:47:26.012410868Z",
        "memory_stats": {"usage": memory, "max_usage": 2 * memory, "stats": stats},
        "cpu_stats": {"cpu_usage": {"total_usage": cpu, "percpu_usage": [cpu, 0]}},
        "blkio_stats": {"io_service_bytes_recursive": []},
    } | more


def v2(memory: int, cache: int = 0, cpu: int = 0, **more: Any) -> dict[str, Any]:
    """A sample of an engine on cgroup v2."""
    return {
        "read": "2026-11-22T14:47:26.012410868Z",
        "memory_stats": {"usage": memory, "stats": {"inactive_file": cache, "anon": memory}},
        "pids_stats": {},
        "cpu_stats": {"cpu_usage": {"total_usage": cpu}},
        "blkio_stats": {"io_service_bytes_recursive": None},
    } | more


def fold(samples: Iterable[Sample]) -> Usage:
    return reduce(add, samples, Usage())


STOPPED = {
    "read": "0001-01-01T00:00:00Z",
    "cpu_stats": {"cpu_usage": {"total_usage": 0}},
    "memory_stats": {},
}


@pytest.mark.parametrize("sample", [v1, v2], ids=["cgroup v1", "cgroup v2"])
def test_the_peak_is_of_the_samples_and_without_page_cache(
    sample: Callable[..., dict[str, Any]],
) -> None:
    usage = fold([sample(50, cache=10), sample(500, cache=440), sample(70, cache=15)])
    assert (usage.peak_memory_bytes, usage.samples) == (60, 3)


def test_the_processes_are_those_of_the_sample_that_has_most() -> None:
    # An engine whose kernel counts none sends an empty object.
    samples = [v1(1, pids_stats={"current": n}) for n in (2, 9, 3)]
    assert fold([*samples, v2(1), v1(1)]).peak_pids == 9
    assert fold([v2(1)]).peak_pids is None


def test_a_cache_that_cannot_be_part_of_the_use_is_not_taken_off() -> None:
    assert fold([v1(50, cache=60)]).peak_memory_bytes == 50


def test_counters_are_their_highest_and_summed_over_networks_and_devices() -> None:
    networks = {
        "eth0": {"rx_bytes": 100, "tx_bytes": 10},
        "eth1": {"rx_bytes": 1000, "tx_bytes": 0},
    }
    devices = [
        {"major": 8, "minor": 0, "op": "Read", "value": 5},
        {"major": 8, "minor": 16, "op": "Read", "value": 50},
        {"major": 8, "minor": 0, "op": "Write", "value": 7},
        {"major": 8, "minor": 0, "op": "Total", "value": 12},
    ]
    blocks = {"io_service_bytes_recursive": devices}
    samples = [v1(1, cpu=1_500_000_000, networks=networks, blkio_stats=blocks), v1(1, cpu=10**9)]
    assert fold(samples) == Usage(1, 1.5, 55, 7, 1100, 10, samples=2)


def test_block_operations_are_lower_case_on_cgroup_v2() -> None:
    devices = [{"op": "read", "value": 5}, {"op": "write", "value": 0}]
    usage = fold([v2(1, blkio_stats={"io_service_bytes_recursive": devices})])
    assert (usage.block_read_bytes, usage.block_write_bytes) == (5, 0)


@pytest.mark.parametrize("samples", [[], [STOPPED], [STOPPED, STOPPED]])
def test_what_no_sample_told_is_unknown_and_not_zero(samples: list[dict[str, Any]]) -> None:
    assert fold(samples) == Usage()


def test_the_zeros_after_the_end_change_nothing() -> None:
    assert fold([v1(50, cpu=10**9), STOPPED]) == fold([v1(50, cpu=10**9)])


def test_a_sample_without_groups_is_counted_and_tells_nothing() -> None:
    assert fold([{"read": "2026-11-22T14:47:26Z"}]) == Usage(samples=1)


@pytest.mark.parametrize("count", [1, 599, 600, 601, 1200, 1201, 86_400])
def test_a_series_stays_small_spans_the_whole_life_and_keeps_the_peak(count: int) -> None:
    series = Series()
    for second in range(count):
        series.add(Point(second, 9000 if second == count // 3 else 1, second / 2))
    points = series.points
    assert min(count, MAX_POINTS / 2) <= len(points) <= MAX_POINTS
    assert points[-1] == Point(count - 1, points[-1].memory_bytes, (count - 1) / 2)
    assert max(point.memory_bytes or 0 for point in points) == 9000
    assert [point.seconds for point in points] == sorted({point.seconds for point in points})


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as between:
        yield between


@pytest.fixture
def client() -> Iterator[docker.DockerClient]:
    with contextlib.closing(docker.from_env()) as direct:
        yield direct


@pytest.fixture
def launch(client: docker.DockerClient) -> Iterator[Callable[..., Container]]:
    """Starts containers that run a shell script."""
    name = f"usage-test-{uuid4().hex}"

    def start(script: str) -> Container:
        return client.containers.run(BUSYBOX, ["sh", "-c", script], name=name, detach=True)

    yield start
    with contextlib.suppress(docker.errors.NotFound):
        client.containers.get(name).remove(force=True)


@contextlib.contextmanager
def sampling(client: docker.DockerClient, container: Container) -> Iterator[Sampler]:
    sampler = Sampler(client, str(container.name))
    sampler.start()
    try:
        yield sampler
    finally:
        sampler.stop()
        assert sampler.join(60)


@pytest.mark.docker
def test_memory_and_cpu_of_a_container_show(
    client: docker.DockerClient, launch: Callable[..., Container]
) -> None:
    hold = "x=$(head -c 100000000 /dev/zero | tr '\\0' a)"
    with sampling(client, launch(f"{hold}; {ENDLESS}")) as sampler:
        until(lambda: (sampler.measured.usage.peak_memory_bytes or 0) >= 100_000_000)
        until(lambda: (sampler.measured.usage.cpu_seconds or 0) >= 1)
    usage, points = sampler.measured.usage, sampler.measured.points
    assert usage.peak_memory_bytes is not None
    assert usage.peak_memory_bytes < 500_000_000
    assert len(points) == usage.samples
    assert max(point.memory_bytes or 0 for point in points) == usage.peak_memory_bytes
    assert points[-1].cpu_seconds == usage.cpu_seconds


@pytest.mark.docker
def test_processes_of_a_container_show(
    client: docker.DockerClient, launch: Callable[..., Container]
) -> None:
    with sampling(client, launch("for n in 1 2 3 4 5; do sleep 60 & done; wait")) as sampler:
        until(lambda: (sampler.measured.usage.peak_pids or 0) >= 6)
    assert sampler.measured.usage.peak_pids == 6


@pytest.mark.docker
def test_written_files_do_not_count_as_memory(
    client: docker.DockerClient, launch: Callable[..., Container]
) -> None:
    container = launch(f"dd if=/dev/zero of=/file bs=1M count=64 2>/dev/null; echo done; {ENDLESS}")
    until(container.logs)
    with sampling(client, container) as sampler:
        until(lambda: sampler.measured.usage.samples)
    raw = client.api.stats(str(container.name), stream=False)
    assert raw["memory_stats"]["usage"] >= 64 * MEBIBYTE
    assert sampler.measured.usage.peak_memory_bytes is not None
    assert sampler.measured.usage.peak_memory_bytes < 16 * MEBIBYTE


@pytest.mark.docker
def test_network_bytes_of_a_container_show(
    client: docker.DockerClient, launch: Callable[..., Container]
) -> None:
    gateway = "$(ip route | awk '/default/ { print $3 }')"
    with sampling(client, launch(f"ping -q -s 10000 {gateway}")) as sampler:
        until(lambda: (sampler.measured.usage.network_received_bytes or 0) >= 10_000)
    assert (sampler.measured.usage.network_sent_bytes or 0) >= 10_000


@pytest.mark.docker
def test_a_container_that_is_over_at_once_leaves_no_usage_and_no_error(
    client: docker.DockerClient, launch: Callable[..., Container]
) -> None:
    container = launch("true")
    container.wait()
    sampler = Sampler(client, str(container.name))
    sampler.start()
    container.remove()
    assert sampler.join(60), "the container is gone and the sampler goes on"
    assert (sampler.measured.usage, sampler.measured.points) == (Usage(), ())


@pytest.mark.docker
def test_a_sampler_can_be_started_before_the_container(
    client: docker.DockerClient, launch: Callable[..., Container]
) -> None:
    container = client.containers.create(BUSYBOX, ["sleep", "60"])
    try:
        with sampling(client, container) as sampler:
            container.start()
            until(lambda: sampler.measured.usage.samples)
    finally:
        container.remove(force=True)


@pytest.mark.docker
def test_a_cut_connection_is_made_again_while_the_container_runs(
    gateway: Gateway, launch: Callable[..., Container]
) -> None:
    container = launch(ENDLESS)
    with contextlib.closing(docker.DockerClient(gateway.url)) as client:
        sampler = Sampler(client, str(container.name))
        sampler.start()
        until(lambda: sampler.measured.usage.samples)
        gateway.cut()
        before = sampler.measured.usage.samples
        until(lambda: sampler.measured.usage.samples > before)
        container.remove(force=True)
        gateway.cut()
        assert sampler.join(60)


@pytest.mark.docker
def test_stopping_ends_thread_and_connection_at_once(
    gateway: Gateway, launch: Callable[..., Container]
) -> None:
    container = launch("sleep 60")
    with contextlib.closing(docker.DockerClient(gateway.url)) as client:
        until(lambda: gateway.connections == 1)
        client.close()
        until(lambda: not gateway.connections)
        sampler = Sampler(client, str(container.name))
        sampler.start()
        until(lambda: sampler.measured.usage.samples)
        with gateway.hanging():
            sampler.stop()
            assert sampler.join(20), "it waits for the next sample"
        until(lambda: not gateway.connections)
        sampler.stop()


def test_an_engine_that_does_not_answer_leaves_no_usage() -> None:
    nowhere = docker.DockerClient("tcp://127.0.0.1:1", version="1.41")
    with contextlib.closing(nowhere):
        sampler = Sampler(nowhere, "any")
        sampler.start()
        sampler.stop()
        assert sampler.join(60)
        assert sampler.measured.usage == Usage()


def test_a_sampler_that_never_started_can_be_stopped() -> None:
    nowhere = docker.DockerClient("tcp://127.0.0.1:1", version="1.41")
    with contextlib.closing(nowhere):
        sampler = Sampler(nowhere, "any")
        sampler.stop()
        assert sampler.join(0)
