"""A TCP proxy in front of an S3 endpoint that lets so many files through and then nothing."""

import math
import re
from collections.abc import Callable
from socket import socket
from urllib.parse import unquote

from tests.holding_proxy import HoldingProxy

_PUT = re.compile(rb"PUT /(\S+) HTTP/1")


class Gate(HoldingProxy):
    """Notes the key of every PUT; after `limit` of them it cuts whatever says anything more."""

    def __init__(self, connect: Callable[[], socket]) -> None:
        super().__init__(connect)
        self.puts: list[str] = []
        self.limit: float = math.inf

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _hold(self, data: bytes) -> None:
        super()._hold(data)
        put = [unquote(match[1].decode()) for match in _PUT.finditer(data)]
        if len(self.puts) + len(put) > self.limit:
            self.limit = 0
            raise OSError("cut")
        self.puts += put
