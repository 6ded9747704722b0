"""Secrets stay out of text."""

import base64
import hashlib
import random
import string
from functools import partial
from logging import getLogger
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.masking import Masker
from flows.payload.fields import MAX_SECRETS as MOST_SECRETS
from flows.payload.repository import Remote
from flows.runtime.context import Job
from flows.runtime.credentials import MAX_SECRETS
from flows.runtime.execution import RunOptions
from flows.runtime.store import AttemptStore
from tests.cpu import is_slow


@pytest.mark.parametrize(
    "secret", ["hunter2", "p@ss word/+", "ümläut", "[a-z]*\\1", "x" * 500, "line\nbreak"]
)
def test_a_secret_is_masked_in_every_spelling(secret: str) -> None:
    spellings = [secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode()]
    text = " | ".join(["before", *spellings, "after"])
    assert Masker([secret]).text(text) == "before | *** | *** | *** | after"


def test_a_secret_within_a_secret_leaves_no_rest() -> None:
    assert Masker(["token", "my-token-2"]).text("my-token-2 token") == "*** ***"


@pytest.mark.parametrize("secret", ["", "a", "abc"])
def test_a_value_too_short_to_hide_garbles_nothing(secret: str) -> None:
    assert Masker([secret]).text("a abc abcd") == "a abc abcd"


def test_text_without_secrets_stays_as_it_is() -> None:
    assert Masker([]).text("all of it") == "all of it"


SECRETS = ["token", "my-token-2", "aaaa", "aaab", "ümlaut", "2 my-"]


# One that the automaton knows by its beginning alone.
LONG = "long-" + "0123456789" * 60
SECRETS += [LONG, LONG + "-longer"]


@given(
    pieces=st.lists(
        st.sampled_from([*SECRETS, "my-", "-2", "a", "aa", "tok", "en", " ", "\n", "ü", LONG[:9],
                         LONG[:550], LONG[550:]])
    ),
    cuts=st.lists(st.integers(0, 2000)),
)  # fmt: skip
def test_output_in_pieces_is_masked_as_it_would_be_at_once(
    pieces: list[str], cuts: list[int]
) -> None:
    text = "".join(pieces)
    whole, stream, begin = text.encode(), Masker(SECRETS).stream(), 0
    shown = b""
    for cut in sorted(cut for cut in cuts if cut <= len(whole)):
        shown += stream.feed(whole[begin:cut])
        begin = cut
    shown += stream.feed(whole[begin:]) + stream.end()
    assert shown.decode() == Masker(SECRETS).text(text)
    assert not any(secret in shown.decode() for secret in SECRETS)


def test_the_beginning_of_a_long_secret_is_masked_whatever_follows() -> None:
    shown = Masker([LONG]).text(f"{LONG[:600]} and {LONG[:100]}")
    assert shown == f"***{LONG[128:600]} and {LONG[:100]}"


def test_no_output_is_held_back_that_begins_no_secret_however_long_one_is() -> None:
    key = "\n".join(f"line {i} of a key: {i * 7919:050}" for i in range(200))
    stream = Masker([key, "x" * 5000]).stream()
    for piece in (
        b"lane\n",
        b"lines of output, of which none begins a secret\n" * 100,
        b"~" * 9000,
    ):
        assert stream.feed(piece) == piece
    assert stream.feed(b"line 0 of a k") == b""
    assert stream.feed(b"ind of its own") == b"line 0 of a kind of its own"


def test_only_what_may_become_a_secret_is_held_back() -> None:
    stream = Masker(["secret"]).stream()
    assert [stream.feed(piece) for piece in (b"no se", b"cret se", b"t", b"cre")] == [
        b"no ", b"*** ", b"set", b"cre",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("repository", "url", "secrets"),
    [
        ("team/game", "https://github.com/team/game.git", ()),
        ("team/game.git", "https://github.com/team/game.git", ()),
        ("https://example.org/a.git", "https://example.org/a.git", ()),
        ("https://bot:p%40ss@example.org:8443/a", "https://example.org:8443/a", ("p@ss",)),
        ("ssh://git@example.org/a", "ssh://git@example.org/a", ()),
        ("ssh://git:pass@example.org:22/a", "ssh://git@example.org:22/a", ("pass",)),
        ("git@example.org:a/b.git", "git@example.org:a/b.git", ()),
    ],
)
def test_a_repositorys_credentials_are_apart_from_its_address(
    repository: str, url: str, secrets: tuple[str, ...]
) -> None:
    remote = Remote.parse(repository)
    assert (remote.url, remote.secrets) == (url, secrets)
    assert not any(secret in repr(remote) for secret in secrets)


@pytest.mark.parametrize(
    "repository",
    [
        "https://build:tök3n@example.org/a",
        "https://x-access-token:ghs_0123456789abcdefghij@github.com/team/game",
        "https://gitlab+deploy-token-1234567:gldt-0123456789abcdefghij@gitlab.com/team/game",
        "https://contoso@dev.azure.com/contoso/proj/_git/repo",
        "https://contoso-engineering-platform@contoso-engineering-platform.visualstudio.com/_git/r",
        "https://contoso-engineering-platform@dev.azure.com/contoso-engineering-platform/p/_git/r",
        "https://alice@bitbucket.org/team/game.git",
        "https://api@example.org/a",
    ],
)
def test_an_ordinary_user_name_is_not_masked(repository: str) -> None:
    remote = Remote.parse(repository)
    assert remote.username
    assert remote.username not in remote.secrets
    assert remote.secrets == ((remote.password,) if remote.password else ())


@pytest.mark.parametrize(
    "repository",
    [
        "https://ghp_0123456789abcdefghijABCDEFGHIJ012345@github.com/team/game",
        "https://0123456789abcdef0123456789abcdef01234567:x-oauth-basic@github.com/team/game",
        "https://glpat-abcdefghijklmnopqrst:@gitlab.com/team/game",
        "https://glpat-0123456789abcdefghij:x@gitlab.com/team/game",
        "https://glpat-0123456789abcdefghij:password@gitlab.com/team/game",
    ],
)
def test_a_token_in_the_place_of_a_user_name_is_masked(repository: str) -> None:
    remote = Remote.parse(repository)
    assert remote.username in remote.secrets


def test_no_step_of_a_job_shows_its_secrets_when_it_is_printed(tmp_path: Path) -> None:
    job = Job(AttemptStore(tmp_path, "a-job"), getLogger(), secrets=("hunter2",))
    assert "hunter2" not in repr(job)
    assert "hunter2" not in repr(RunOptions(secrets={"TOKEN": "hunter2"}))


HARD_TO_FIND = {
    "one letter": "a" * 4095 + "b",
    "one letter and quotes": "a" * 4000 + "\"<&'\\$ ",
    "two letters": "ab" * 2000 + "c",
    "short lines": "\n".join(f"{i:08}" for i in range(5000)),
    "lines of one letter": "\n".join("a" * i for i in range(8, 400)),
    "lines to escape": "\n".join(f'{i:08}: "&"' for i in range(5000)),
    "a kubeconfig": "\n".join(f"    key-{i}: {i:065}" for i in range(130)),
    "other letters": "ü" * 2048,
    "all that fits": "x" * 128 * 1024,
}


@pytest.fixture(scope="module")
def maskers() -> list[Masker]:
    return [Masker([secret]) for secret in HARD_TO_FIND.values()]


@pytest.mark.parametrize("output", ["a", "ab", "0000", "aaaaaaaab", "    key-1: ", "\n", "aaa\n"])
@pytest.mark.parametrize("size", [1, 100, 16 * 1024])
def test_masking_takes_no_longer_for_long_secrets_and_hostile_output(
    maskers: list[Masker], output: str, size: int
) -> None:
    # Of pieces of the size in which output comes, and of many small ones.
    text = (output * 64 * 1024)[: 64 * 1024 if size > 1 else 2000].encode()
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    for masker in maskers:
        assert not is_slow(partial(feed, masker, pieces), 0.2)


def feed(masker: Masker, pieces: list[bytes]) -> None:
    stream = masker.stream()
    for piece in pieces:
        stream.feed(piece)


MANY = {
    **{name: [secret] for name, secret in HARD_TO_FIND.items()},
    "as many as fit": [hashlib.sha256(b"%d" % i).hexdigest() * 20 for i in range(200)],
    "a long one and those of a task": ["x" * 128 * 1024, *(f"{i:0100}" for i in range(100))],
}


@pytest.mark.parametrize("secrets", MANY)
def test_a_masker_is_made_in_no_time(secrets: str) -> None:
    assert not is_slow(lambda: Masker(MANY[secrets]), 0.6)


def test_a_masker_for_all_secrets_that_a_task_may_have_is_soon_made() -> None:
    letters = random.Random(0)
    secrets = [
        "".join(letters.choices(string.printable, k=MAX_SECRETS // MOST_SECRETS))
        for _ in range(MOST_SECRETS)
    ]
    # Half a second on an ordinary machine.
    assert not is_slow(lambda: Masker(secrets), 1.5)
