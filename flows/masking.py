"""Keep secret values out of text, in every spelling in which they commonly travel."""

import base64
from collections.abc import Iterable, Iterator
from urllib.parse import quote

MASK = "***"

# Shorter values occur in ordinary text so often that masking them garbles it and hides nothing.
_MIN_LENGTH = 4


class Masker:
    """Replaces every known secret, longest first, by `***`."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._spellings = sorted(
            {spelling for secret in secrets for spelling in _spellings(secret)},
            key=len,
            reverse=True,
        )

    def text(self, value: str) -> str:
        """`value` without the secrets."""
        for spelling in self._spellings:
            value = value.replace(spelling, MASK)
        return value


def _spellings(secret: str) -> Iterator[str]:
    if len(secret) < _MIN_LENGTH:
        return
    yield secret
    yield quote(secret, safe="")
    yield base64.b64encode(secret.encode()).decode()
