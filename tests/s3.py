"""A real S3 endpoint in a process of its own, and a look at what it was given."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

from scripts.stack import free_port
from tests.runs import until

BUCKET = "results"
KEY, SECRET = "AKIAEXAMPLE", "s3cr3t-of-the-operator"


@dataclass(slots=True)
class Endpoint:
    """moto's server, which keeps everything in memory."""

    port: int
    process: subprocess.Popen[bytes] | None = None
    # By https, with a certificate and its key.
    tls: tuple[str, str] | None = None

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    def options(self, url: str = "") -> dict[str, Any]:
        """For fsspec; with few retries, so that tests need not wait for them."""
        return {
            "key": KEY,
            "secret": SECRET,
            "endpoint_url": url or self.url,
            "client_kwargs": {"region_name": "us-east-1"},
            "config_kwargs": {"retries": {"max_attempts": 1}},
        }

    @property
    def client(self) -> Any:
        """A plain client, which knows nothing of ours."""
        # Takes long to import, and conftest imports this.
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 1}, max_pool_connections=16),
            verify=self.tls and self.tls[0],
        )

    def start(self) -> Self:
        """Start it, empty, with a bucket."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        if self.tls is not None:
            command += ["--ssl-cert", self.tls[0], "--ssl-key", self.tls[1]]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(self._has_bucket)
        return self

    def kill(self) -> None:
        """SIGKILL, and everything is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _has_bucket(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "moto's server ended"
        from botocore.exceptions import BotoCoreError, ClientError

        with suppress(BotoCoreError, ClientError):
            self.client.create_bucket(Bucket=BUCKET)
            return True
        return False

    def keys(self, prefix: str = "") -> dict[str, int]:
        """Every key below the prefix, without it, and its size."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        found = (each for page in pages for each in page.get("Contents", []))
        return {each["Key"].removeprefix(prefix): each["Size"] for each in found}

    def read(self, key: str) -> bytes:
        """One object."""
        body: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return body

    def empty(self) -> None:
        """Remove every object."""
        for key in self.keys():
            self.client.delete_object(Bucket=BUCKET, Key=key)


@contextmanager
def endpoint(tls: tuple[str, str] | None = None) -> Iterator[Endpoint]:
    """An endpoint for the block."""
    running = Endpoint(free_port(), tls=tls)
    try:
        yield running.start()
    finally:
        running.kill()
