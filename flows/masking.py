"""Keep secret values out of text: an Aho-Corasick automaton finds all their spellings at once.

The time it takes does not grow with their number or length, and no other thread waits meanwhile:
a search in bytes holds no GIL. Of a long spelling the automaton knows the beginning only, which
is enough to hide; what follows is compared.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from ahocorasick_rs import BytesAhoCorasick, Implementation, MatchKind

from flows.spellings import spellings

MASK = "***"
_MASK = MASK.encode()
# What of a longer spelling the automaton knows, and masks though something else follows.
_HEAD_BYTES = 128
# What is looked for, to see whether text breaks off within a secret.
_START_BYTES = 8
# Of text that is all there: the matches of so much are in memory at a time.
_PIECE_BYTES = 64 * 1024


class Masker:
    """Replaces every known secret by `***`: the first that begins, the longest where several do."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {each.encode(errors="surrogatepass") for each in spellings(secrets)}
        self._secrets = _Automaton(known) if known else None

    def text(self, value: str) -> str:
        if self._secrets is None:
            return value
        data, stream = value.encode(errors="surrogatepass"), self.stream()
        pieces = (data[i : i + _PIECE_BYTES] for i in range(0, len(data), _PIECE_BYTES))
        masked = b"".join([*map(stream.feed, pieces), stream.end()])
        return masked.decode(errors="surrogatepass")

    def beginning(self, value: str, limit: int) -> str:
        """Of a text that is longer than `limit` characters the beginning, with nothing of a secret
        that is cut there."""
        if len(value) <= limit:
            return self.text(value)
        data = value[:limit].encode(errors="surrogatepass")
        return self.stream().feed(data).decode(errors="surrogatepass")

    def words(self, words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(self.text, words))

    def stream(self) -> "MaskedStream":
        """For bytes that come in pieces."""
        return MaskedStream(self._secrets)


class MaskedStream:
    """Masks what comes in pieces, and holds back only what may be the beginning of a secret."""

    def __init__(self, secrets: "_Automaton | None") -> None:
        self._secrets = secrets
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """What is safe to show of everything so far, and was not shown yet."""
        if self._secrets is None:
            return piece
        shown, self._held = self._secrets.masked(self._held + piece, more=True)
        return shown

    def end(self) -> bytes:
        """What was held back; nothing follows."""
        held, self._held = self._held, b""
        return self._secrets.masked(held, more=False)[0] if self._secrets and held else held


class _Automaton:
    """Finds spellings in bytes, and where bytes break off within one."""

    def __init__(self, spellings: set[bytes]) -> None:
        longer: dict[bytes, list[bytes]] = {each[:_HEAD_BYTES]: [] for each in spellings}
        for each in sorted(spellings, key=len, reverse=True):
            if len(each) > _HEAD_BYTES:
                longer[each[:_HEAD_BYTES]].append(each)
        self._heads = sorted(longer)
        self._longer = [longer[head] for head in self._heads]
        # The contiguous automaton takes little memory and time to build, and searches as fast.
        kind = Implementation.ContiguousNFA
        self._all = BytesAhoCorasick(self._heads, MatchKind.LeftmostLongest, kind)
        # All that is shorter than what is looked for.
        self._beginnings = {
            head[:i] for head in self._heads for i in range(1, min(_START_BYTES, len(head)))
        }
        starts = {head[:_START_BYTES] for head in self._heads if len(head) > _START_BYTES}
        self._starts = BytesAhoCorasick(starts, MatchKind.Standard, kind)

    def masked(self, text: bytes, *, more: bool) -> tuple[bytes, bytes]:
        """What may be shown of the text, and what is to be held back, where `more` follows."""
        shown: list[bytes] = []
        unfinished = self._unfinished(text) if more else iter(())
        done, cut = 0, next(unfinished, len(text))
        for head, start, end in self._all.find_matches_as_indexes(text):
            if start >= done:
                if start >= cut:
                    break
                if longer := self._longer[head]:
                    end = _end(text, start, longer, more=more) or end
                if end > len(text):
                    cut = start
                    break
                shown += text[done:start], _MASK
            # Of two that overlap, the rest of the second is a secret, too.
            done = max(done, end)
            while cut < done:
                cut = next(unfinished, len(text))
        return b"".join([*shown, text[done:cut]]), text[cut:]

    def _unfinished(self, text: bytes) -> Iterator[int]:
        """Where the text may break off within a spelling's head, from the first such place on."""
        first = max(0, len(text) - _HEAD_BYTES + 1)
        tail = text[first:]
        likely = self._starts.find_matches_as_indexes(tail, overlapping=True)
        for _, start, _ in likely:
            rest = tail[start:]
            after = bisect_right(self._heads, rest)
            if after < len(self._heads) and self._heads[after].startswith(rest):
                yield first + start
        for start in range(max(0, len(tail) - _START_BYTES + 1), len(tail)):
            if tail[start:] in self._beginnings:
                yield first + start


def _end(text: bytes, start: int, spellings: Iterable[bytes], *, more: bool) -> int | None:
    """Where the spelling at `start` ends, beyond the text where that may break off within it."""
    for spelling in spellings:
        end = start + len(spelling)
        if text.startswith(spelling, start):
            return end
        if more and end > len(text) and spelling.startswith(text[start:]):
            return end
    return None
