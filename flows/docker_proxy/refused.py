"""What is answered in the engine's place: a status, and one sentence."""

import json
from http import HTTPStatus


class Refused(Exception):
    """Nothing of the request reaches the engine; the text completes "the docker-proxy …"."""

    def __init__(self, why: str, status: HTTPStatus = HTTPStatus.FORBIDDEN) -> None:
        super().__init__(why)
        self.status = status

    @property
    def sentence(self) -> str:
        return f"the docker-proxy {self}"

    @property
    def body(self) -> bytes:
        """As the engine tells its own errors."""
        return json.dumps({"message": self.sentence}).encode()


def shown(value: object) -> str:
    """A stranger's value within a sentence: ASCII, on one line, at most 80 characters of it."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
