"""A pull as the engine tells it: names, progress, and errors after a 200."""

from typing import Any

import pytest

from flows.errors import ImageError
from flows.pulling import follow, image_error, not_present, split_reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("busybox", ("busybox", "latest")),
        ("busybox:1.36", ("busybox", "1.36")),
        ("localhost:5000/a/b", ("localhost:5000/a/b", "latest")),
        ("localhost:5000/a/b:v1", ("localhost:5000/a/b", "v1")),
        (f"a/b@{DIGEST}", ("a/b", DIGEST)),
        (f"localhost:5000/b:v1@{DIGEST}", ("localhost:5000/b", DIGEST)),
        (f"localhost:5000/b@{DIGEST}", ("localhost:5000/b", DIGEST)),
    ],
)
def test_a_reference_splits_into_repository_and_tag_or_digest(
    image: str, parts: tuple[str, str]
) -> None:
    assert split_reference(image) == parts


def test_a_stream_without_an_error_is_read_to_its_end() -> None:
    told: list[dict[str, Any]] = [{"status": "Pulling"}, {"progressDetail": {}}, {"error": ""}]
    events = iter(told)
    follow("busybox", events)
    assert next(events, None) is None


def test_an_error_in_the_middle_of_a_stream_is_raised() -> None:
    events: list[dict[str, Any]] = [
        {"status": "Pulling"},
        {"error": "unexpected EOF.", "errorDetail": {}},
    ]
    with pytest.raises(ImageError, match="cannot pull the image busybox: unexpected EOF; check"):
        follow("busybox", events)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("manifest for a:b not found", "check the name and the tag"),
        ("manifest unknown", "check the name and the tag"),
        ("pull access denied for a, repository does not exist", "check the name and the tag"),
        ("unauthorized: authentication required", "registry log-in may read it"),
        ("denied: requested access is denied", "registry log-in may read it"),
        ("dial tcp: lookup host: no such host", "this host can reach the registry"),
        ("", "this host can reach the registry"),
    ],
)
def test_a_failed_pull_says_what_to_check(said: str, advice: str) -> None:
    assert advice in str(image_error("a:b", said))


def test_an_image_that_may_not_be_pulled_is_asked_for_in_words() -> None:
    assert "the image a:b is not on this host" in str(not_present("a:b"))
    assert "if-missing" in str(not_present("a:b"))
