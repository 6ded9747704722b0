"""A gateway before an S3 endpoint that lets so many files through and then nothing."""

import math
import re
from urllib.parse import unquote

from tests.gateway import Gateway
from tests.gateway_rules import Way

_PUT = re.compile(rb"PUT /(\S+) HTTP/1")


class Gate(Gateway):
    """Notes the key of every PUT; after `limit` of them it cuts whatever says anything more."""

    def __init__(self, port: int) -> None:
        super().__init__(f"http://127.0.0.1:{port}")
        self.puts: list[str] = []
        self.limit: float = math.inf

    def meet(self, way: Way, request: bytes) -> None:
        super().meet(way, request)
        put = [unquote(match[1].decode()) for match in _PUT.finditer(request)]
        if len(self.puts) + len(put) > self.limit:
            self.limit = 0
            raise ConnectionError("cut")
        self.puts += put
