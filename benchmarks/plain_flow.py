"""What a user writes by hand with prefect-docker, to compare with: no limits, no report."""

import asyncio

from prefect import flow
from prefect_docker import DockerHost
from prefect_docker.containers import (
    create_docker_container,
    get_docker_container_logs,
    remove_docker_container,
    start_docker_container,
)


@flow(name="plain", persist_result=False)
async def plain(image: str, command: list[str]) -> int:
    """Run one container; its exit code."""
    host = DockerHost()
    container = await create_docker_container(
        image=image, command=command, docker_host=host, detach=True
    )
    await start_docker_container(container_id=container.id, docker_host=host)
    client = host.get_client()
    try:
        ended = await asyncio.to_thread(client.api.wait, container.id)
    finally:
        client.close()
    await get_docker_container_logs(container_id=container.id, docker_host=host)
    await remove_docker_container(container_id=container.id, docker_host=host)
    return int(ended["StatusCode"])
