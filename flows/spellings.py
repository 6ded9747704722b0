"""The spellings in which a value travels: escaped for JSON, XML, URLs, shells, Python; in base64.

Pure. A program seldom prints a secret as it was given: a logger escapes it, a shell quotes it, an
`Authorization` header has it in base64 behind a user's name.
"""

import base64
import html
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from itertools import accumulate
from urllib.parse import quote, quote_plus

# Shorter values occur in ordinary text so often that masking them garbles it and hides nothing.
MIN_LENGTH = 4
MIN_LINE_LENGTH = 8
_MIN_BASE64_LENGTH = 6
# The columns at which `base64` and `openssl base64` begin a new line.
_BASE64_COLUMNS = (76, 64)
# A line that is a secret's alone is so many of the first in a row, and one of the second or none.
_BASE64_PIECES = (16, 12)
# Of so much of secrets, the shortest first, all pieces of base64 are known: some 25 ms of CPU.
_IN_PIECES = 8 * 1024
_FOR_URLS = str.maketrans("+/", "-_")
# What neither JSON nor XML escapes.
_PLAIN = re.compile(r"[\w .,:;=+/@-]*", re.ASCII)
_APOSTROPHES = ("&#39;", "&#x27;", "&apos;")
_IN_ATTRIBUTES = (("&#10;", "&#09;"), ("&#10;", "&#9;"), ("&#xA;", "&#x9;"))


def spellings(secrets: Iterable[str]) -> set[str]:
    """All of them, of each value, of the value without the blanks around it, and of its lines."""
    values = {each for each in secrets if len(each.strip()) >= MIN_LENGTH}
    found = set[str]().union(*map(_spellings, values))
    shortest = sorted(values | set(map(str.strip, values)), key=lambda value: (len(value), value))
    sizes = accumulate(len(value.encode(errors="surrogatepass")) for value in shortest)
    few = (value for value, size in zip(shortest, sizes, strict=True) if size <= _IN_PIECES)
    return found.union(*map(_base64_pieces, few))


def _spellings(secret: str) -> set[str]:
    values = {secret, secret.strip()}
    found = {spelling for value in values for spelling in (*_escaped(value), *_base64(value))}
    # Of a key of many lines, a program may print any.
    lines = {line.strip() for line in secret.splitlines()} - values
    long = (line for line in lines if len(line) >= MIN_LINE_LENGTH)
    return found.union(*({line} if _PLAIN.fullmatch(line) else _in_reports(line) for line in long))


def _in_reports(line: str) -> set[str]:
    """As loggers and reports of tests write it."""
    tags = html.escape(line, quote=False)
    quoted = {tags.replace('"', "&quot;"), html.escape(line)}
    return {line, json.dumps(line)[1:-1], json.dumps(line, ensure_ascii=False)[1:-1], tags, *quoted}


def _escaped(text: str) -> set[str]:
    return {text, *_percent(text), *_json(text), *_xml(text), *_shell(text), *_python(text)}


def _percent(text: str) -> Iterator[str]:
    safe_characters = ("", "/", "!'()*~", "!'()*~;/?:@&=+$,#")
    for each in (*(quote(text, safe=safe) for safe in safe_characters), quote_plus(text)):
        yield each
        yield re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), each)


def _json(text: str) -> Iterator[str]:
    plain, ascii_only = json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]
    for each in (plain, ascii_only):
        yield each
        yield each.replace("/", "\\/")
    # As Go's encoder writes it, and .NET's.
    yield re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", plain)
    short = re.sub("[<>&'+`]", lambda found: f"\\u{ord(found[0]):04x}", ascii_only)
    dotnet = short.replace('\\"', "\\u0022")
    yield re.sub(r"(?<=\\u)[0-9a-f]{4}", lambda found: found[0].upper(), dotnet)


def _xml(text: str) -> Iterator[str]:
    tags = html.escape(text, quote=False)
    quoted = tags.replace('"', "&quot;")
    of_go = tags.replace('"', "&#34;").replace("'", "&#39;")
    yield tags
    for each in (quoted, of_go, *(quoted.replace("'", mark) for mark in _APOSTROPHES)):
        yield each
        # In an attribute, where line ends are escaped and `>` need not be.
        for line_end, tab in _IN_ATTRIBUTES:
            attribute = each.replace("\n", line_end).replace("\t", tab)
            yield attribute
            yield attribute.replace("&gt;", ">")


def _shell(text: str) -> Iterator[str]:
    """The inside of the quotes of `shlex.quote`, of `set -x`, of `"…"`, `$'…'` and `printf %q`."""
    yield shlex.quote(f" {text}")[2:-1]
    yield text.replace("'", "'\\''")
    yield re.sub(r'(["\\$`])', r"\\\1", text)
    yield re.sub(r"([\s'\"\\|&;()<>!{}*\[\]?^$`,])", r"\\\1", text)
    dollar = repr(f"{text}\"'")[1:-4]
    yield dollar
    yield "".join(
        chr(byte) if byte < 0x7F else f"\\{byte:03o}"
        for byte in dollar.encode(errors="surrogatepass")
    )


def _python(text: str) -> Iterator[str]:
    yield repr(text)[1:-1]
    yield ascii(text)[1:-1]
    yield repr(text.encode(errors="surrogatepass"))[2:-1]


def _base64(text: str) -> Iterator[str]:
    """Of the value alone, cut into lines, and of what does not depend on text before and after."""
    value = text.encode(errors="surrogatepass")
    whole = base64.b64encode(value).decode()
    inner = (_without_neighbours(value, before) for before in range(3))
    lines = (
        whole[i : i + columns]
        for columns in _BASE64_COLUMNS
        for i in range(0, len(whole), columns)
        if len(whole) > columns
    )
    for each in (whole, *filter(lambda part: len(part) >= _MIN_BASE64_LENGTH, (*inner, *lines))):
        yield each
        yield each.translate(_FOR_URLS)


def _base64_pieces(text: str) -> Iterator[str]:
    """Of lines with other text before or after: what ends one, what begins one, and what makes up
    those in between, as lines end where a group of four characters does."""
    value, longest = text.encode(errors="surrogatepass"), max(_BASE64_COLUMNS)
    for before in range(3):
        inner = _without_neighbours(value, before)
        groups = range(-before * 8 // 6 % 4, len(inner) + 1, 4)
        ends = (inner[:i] for i in groups if i <= longest)
        begins = (inner[i:] for i in groups if len(inner) - i <= longest)
        within = (inner[i : i + length] for length in _BASE64_PIECES for i in groups)
        for each in (*ends, *begins, *within):
            if len(each) >= _MIN_BASE64_LENGTH:
                yield each
                yield each.translate(_FOR_URLS)


def _without_neighbours(value: bytes, before: int) -> str:
    """The characters that only `value` decides, with `before` bytes of something else before it."""
    encoded = base64.b64encode(b"\0" * before + value).decode()
    first = -(-before * 8 // 6)
    return encoded[first : (before + len(value)) * 8 // 6]
