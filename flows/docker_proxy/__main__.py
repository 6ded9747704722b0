"""Listen where `DOCKER_PROXY_BIND` says, until a signal ends the process."""

import asyncio
import logging
import resource
import socket
import sys

from flows.docker_proxy.server import serve
from flows.docker_proxy.settings import Settings


def main() -> None:
    """Run the filter; it ends by a signal alone."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    settings = Settings.from_environment()
    # Each connection has one to the engine beside it.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with socket.create_server(settings.address, backlog=1024) as listener:
        logging.getLogger(__name__).info("docker-proxy listens at %s:%s", *settings.address)
        asyncio.run(serve(listener, settings))


if __name__ == "__main__":
    main()
