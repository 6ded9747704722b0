"""Keep secret values out of text, in every spelling in which they commonly travel."""

import base64
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote

MASK = "***"
# Shorter values occur in ordinary text so often that masking them garbles it and hides nothing.
_MIN_LENGTH = 4
_MIN_LINE_LENGTH = 8


class Masker:
    """Replaces every known secret by `***`: the first that begins, the longest where several do."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._spellings = sorted(
            {spelling.encode() for secret in secrets for spelling in _spellings(secret)},
            key=len,
            reverse=True,
        )
        self._any = re.compile(b"|".join(map(re.escape, self._spellings)))

    def text(self, value: str) -> str:
        if not self._spellings:
            return value
        masked = self._any.sub(MASK.encode(), value.encode(errors="surrogatepass"))
        return masked.decode(errors="surrogatepass")

    def words(self, words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(self.text, words))

    def stream(self) -> "MaskedStream":
        """For bytes that come in pieces."""
        return MaskedStream(self._any, self._spellings)


class MaskedStream:
    """Masks what comes in pieces, and holds back only what may be the beginning of a secret."""

    def __init__(self, secret: re.Pattern[bytes], spellings: list[bytes]) -> None:
        self._secret = secret
        self._spellings = spellings
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """What is safe to show of everything so far, and was not shown yet."""
        if not self._spellings:
            return piece
        text, shown, begin = self._held + piece, [], 0
        while True:
            cut = self._unfinished(text, begin)
            found = self._secret.search(text, begin)
            if found is None or found.start() >= cut:
                break
            shown += [text[begin : found.start()], MASK.encode()]
            begin = found.end()
        self._held = text[cut:]
        return b"".join([*shown, text[begin:cut]])

    def end(self) -> bytes:
        """What was held back; nothing follows."""
        held, self._held = self._held, b""
        return self._secret.sub(MASK.encode(), held) if self._spellings else held

    def _unfinished(self, text: bytes, begin: int) -> int:
        """Where the text may break off within a secret; its length where it does not."""
        longest = len(self._spellings[0]) - 1
        for start in range(max(begin, len(text) - longest), len(text)):
            rest = text[start:]
            if any(len(rest) < len(each) and each.startswith(rest) for each in self._spellings):
                return start
        return len(text)


def _spellings(secret: str) -> Iterator[str]:
    if len(secret) < _MIN_LENGTH:
        return
    yield secret
    yield quote(secret, safe="")
    yield json.dumps(secret)[1:-1]
    yield base64.b64encode(secret.encode()).decode()
    yield base64.urlsafe_b64encode(secret.encode()).decode()
    # Of a key of many lines, a program may print any.
    yield from (line for line in secret.splitlines() if len(line) >= _MIN_LINE_LENGTH)
