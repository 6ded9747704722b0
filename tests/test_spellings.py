"""However a program spells a secret, nothing of it is shown."""

import base64
import html
import json
import random
import re
import shlex
import subprocess
import textwrap
from collections.abc import Callable
from urllib.parse import quote, urlencode
from xml.etree import ElementTree
from xml.sax import saxutils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.masking import Masker
from flows.spellings import MIN_LENGTH, spellings
from tests.strategies import bounded

SECRETS = [
    "hunter2-hunter2",
    "p@ss w0rd/+==",
    'it\'s <"quoted"> & 100% $HOME `id` \\n',
    "ümläut-ключ-🔑-/~!*()",
    "  blanks around it \n",
    "-----BEGIN KEY-----\nMIIEvQ&IBADANB'gkq\n\thkiG9w0\"BAQEFAASC\n-----END KEY-----\n",
]


def in_json_of_go(text: str) -> str:
    plain = json.dumps(text, ensure_ascii=False)[1:-1]
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", plain)


def in_json_of_dotnet(text: str) -> str:
    quoted = json.dumps(text)[1:-1].replace('\\"', "\\u0022")
    upper = re.sub(r"\\u[0-9a-f]{4}", lambda found: f"\\u{found[0][2:].upper()}", quoted)
    return re.sub("[<>&'+`]", lambda found: f"\\u{ord(found[0]):04X}", upper)


def in_element(text: str) -> str:
    element = ElementTree.Element("a")
    element.text = text
    return ElementTree.tostring(element, encoding="unicode")[3:-4]


def in_attribute(text: str) -> str:
    return ElementTree.tostring(ElementTree.Element("a", b=text), encoding="unicode")[6:-4]


def bash(script: str) -> Callable[[str], str]:
    """What a script of bash prints of `$1`."""

    def said(text: str) -> str:
        command = ["bash", "-c", script, "bash", text]
        done = subprocess.run(command, capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
        return (done.stdout or done.stderr).decode().removesuffix("\n")

    return said


# How programs and libraries print a text, and what they put around it.
WAYS: dict[str, tuple[Callable[[str], str], str]] = {
    "plain": (str, ""),
    "trimmed": (str.strip, ""),
    "a URL": (lambda text: quote(text, safe=""), ""),
    "a path of a URL": (quote, ""),
    "encodeURIComponent": (lambda text: quote(text, safe="!'()*~"), ""),
    "a URL in lower case": (
        lambda text: re.sub("%..", lambda found: found[0].lower(), quote(text, safe="")), ""
    ),
    "a form": (lambda text: urlencode({"": text})[1:], ""),
    "JSON": (lambda text: json.dumps(text)[1:-1], ""),
    "JSON with its letters": (lambda text: json.dumps(text, ensure_ascii=False)[1:-1], ""),
    "JSON of PHP": (lambda text: json.dumps(text)[1:-1].replace("/", "\\/"), ""),
    "JSON of Go": (in_json_of_go, ""),
    "JSON of .NET": (in_json_of_dotnet, ""),
    "XML": (saxutils.escape, ""),
    "an element": (in_element, ""),
    "an attribute": (in_attribute, ""),
    "HTML": (html.escape, ""),
    "HTML of Go": (
        lambda text: html.escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;"), ""
    ),
    "shlex": (lambda text: shlex.quote(f" {text}")[2:-1], ""),
    "bash's @Q": (bash("echo \"${1@Q}\""), "$''"),
    "bash's %q": (bash("printf %q \"$1\""), "$''"),
    "bash -x": (bash("set -x; : \"$1\""), "+ : $''"),
    "repr": (lambda text: repr(text)[1:-1], ""),
    "ascii": (lambda text: ascii(text)[1:-1], ""),
    "bytes": (lambda text: repr(text.encode())[2:-1], ""),
    "base64": (lambda text: base64.b64encode(text.encode()).decode(), ""),
    "base64 for URLs": (lambda text: base64.urlsafe_b64encode(text.encode()).decode(), ""),
}  # fmt: skip


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("way", WAYS)
def test_a_secret_is_masked_however_a_program_prints_it(way: str, secret: str) -> None:
    spell, around = WAYS[way]
    text = f"before {spell(secret)} after"
    masked = Masker([secret]).text(text)
    assert masked.startswith("before ")
    assert masked.endswith(" after")
    left = "".join(masked.removeprefix("before ").removesuffix(" after").split("***"))
    assert set(left) <= {*around, " ", "\n", "\t"}, masked
    assert len(left) <= len(around) + 6, masked
    assert "***" in masked


# Blanks around a secret do not make it long enough to be one.
LONG_ENOUGH = st.text(min_size=5, max_size=60).filter(lambda each: len(each.strip()) >= MIN_LENGTH)


@given(before=st.binary(max_size=40), secret=LONG_ENOUGH, after=st.binary())
@bounded(200)
def test_base64_of_text_around_a_secret_does_not_show_it(
    before: bytes, secret: str, after: bytes
) -> None:
    value = secret.encode(errors="surrogatepass")
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        shown = Masker([secret]).text(encode(before + value + after).decode())
        # Bits of neighbours are in the characters at both ends.
        assert "***" in shown
        for at in range(3):
            inner = encode(b"\0" * at + value)[at + 1 : -4].decode()
            assert len(inner) < 8 or inner not in shown


@pytest.mark.parametrize("columns", [76, 64])
def test_base64_in_lines_does_not_show_a_long_secret(columns: int) -> None:
    secret = random.Random(1).randbytes(3000).hex()
    lines = textwrap.wrap(base64.b64encode(secret.encode()).decode(), columns)
    masked = Masker([secret]).text("\n".join(lines)).splitlines()
    assert set(masked[:-1]) == {"***"}


@pytest.mark.parametrize("columns", [76, 64])
@pytest.mark.parametrize("length", [26, 93, 1200])
def test_base64_in_lines_of_text_around_a_secret_does_not_show_it(
    columns: int, length: int
) -> None:
    secret = base64.b64encode(random.Random(length).randbytes(length)).decode()[:length]
    for before in range(columns * 3 // 4):
        encoded = base64.b64encode(f"{'.' * before}{secret}{{}}\n".encode()).decode()
        lines = textwrap.wrap(encoded, columns)
        masked = Masker([secret]).text("\n".join(lines)).splitlines()
        first, after = -(-before * 4 // 3), (before + length) * 4 // 3
        for number, (line, shown) in enumerate(zip(lines, masked, strict=True)):
            begin = number * columns
            inside = len(range(max(first, begin), min(after, begin + columns)))
            assert inside < 6 or len(shown.replace("*", "")) <= len(line) - inside


def test_each_line_of_a_secret_is_masked_in_the_reports_of_tests_too() -> None:
    masker = Masker(['first & foremost\n\n  second "line"\nshort\n'])
    told = '<a b="first &amp; foremost"/> {"c": "second \\"line\\""} short'
    assert masker.text(told) == '<a b="***"/> {"c": "***"} short'


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("abc", "abc YWJj abcd"),
        ("abc ", "abc abcabc"),
        ("abcd", "abc bcd YWJj"),
        ("long enough\nab cd\n\nef", "ab cd ef"),
        ("\n \n", "a \n \n b"),
    ],
)
def test_what_is_too_short_to_hide_garbles_nothing(secret: str, text: str) -> None:
    assert Masker([secret]).text(text) == text


def test_a_token_of_plain_letters_has_few_spellings() -> None:
    token = "ghp_0123456789abcdefABCDEF"
    assert len(spellings([token])) <= 3 * len(token)
