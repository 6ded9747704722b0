"""What an engine says of a pull that failed, and what becomes of it."""

import pytest

from flows.engine.images.failures import (
    cause_of,
    image_error,
    not_present,
    overdue,
    silent,
    withheld,
)
from flows.errors import ImageCause, ImageError
from flows.outcome import FailureClass, OutcomeName, outcome_of

# The words of Docker Engine 20.10 and later ones, and of registries through them.
# fmt: off
SAID: dict[ImageCause, tuple[str, ...]] = {
    ImageCause.NOT_FOUND: (
        "manifest for a:b not found: manifest unknown: manifest unknown",
        "manifest unknown",
        "repository name not known to registry: name unknown",
        "failed to resolve reference \"docker.io/library/a:b\": docker.io/library/a:b: not found",
    ),
    ImageCause.DENIED: (
        "pull access denied for a, repository does not exist or may require 'docker login': "
        "denied: requested access to the resource is denied",
        "unauthorized: authentication required",
        "Head \"http://127.0.0.1:1/v2/a/manifests/1\": no basic auth credentials",
        "error parsing HTTP 403 response body: unexpected end of JSON input: \"\"",
        "unauthorized: incorrect username or password",
    ),
    ImageCause.RATE_LIMITED: (
        "toomanyrequests: You have reached your pull rate limit",
        "error parsing HTTP 429 response body: unexpected end of JSON input: \"\"",
        "received unexpected HTTP status: 429 Too Many Requests",
    ),
    ImageCause.UNREACHABLE: (
        "Get \"http://127.0.0.1:429/v2/\": dial tcp 127.0.0.1:429: connect: connection refused",
        "Get \"https://a.invalid/v2/\": dial tcp: lookup a.invalid on 1.1.1.1:53: no such host",
        "Get \"https://a/v2/\": net/http: TLS handshake timeout",
        "Get \"https://a/v2/\": x509: certificate signed by unknown authority",
        "Get \"https://a/v2/\": http: server gave HTTP response to HTTPS client",
        "received unexpected HTTP status: 503 Service Unavailable",
        "unexpected EOF",
        "read tcp 1.1.1.1:1->2.2.2.2:443: read: connection reset by peer",
        "context deadline exceeded",
    ),
    ImageCause.WRONG_PLATFORM: (
        "no matching manifest for linux/s390x in the manifest list entries",
        "image with reference a was found but does not match the specified platform: wanted b",
        "image operating system \"windows\" cannot be used on this platform",
    ),
    ImageCause.DISK_FULL: (
        "failed to register layer: write /usr/lib/a: no space left on device",
        "write /var/lib/docker/tmp/GetImageBlob1: no space left on device",
    ),
    ImageCause.CORRUPT: (
        "filesystem layer verification failed for digest sha256:1",
        "image config verification failed for digest sha256:1",
        "failed to register layer: Error processing tar file(exit status 1): unexpected EOF",
        "failed to register layer: archive/tar: invalid tar header",
    ),
    ImageCause.OTHER: ("", "server is shutting down", "mkdir /var/lib: permission denied"),
}
# fmt: on


@pytest.mark.parametrize(
    ("cause", "words"), [(cause, words) for cause, said in SAID.items() for words in said]
)
def test_what_was_said_decides_the_class(cause: ImageCause, words: str) -> None:
    assert cause_of(words, 500) is cause
    error = image_error("example.org/a:b", words)
    assert error.cause is cause
    assert str(error).startswith(f"cannot pull the image example.org/a:b: {words or 'no reason'}")
    assert str(error).count("; ") >= 1
    outcome = outcome_of(error)
    assert (outcome.name, outcome.failure_class) == (OutcomeName.IMAGE_ERROR, cause.value)


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (401, ImageCause.DENIED), (403, ImageCause.DENIED), (404, ImageCause.NOT_FOUND),
        (429, ImageCause.RATE_LIMITED), (500, ImageCause.OTHER), (None, ImageCause.OTHER),
    ],
)  # fmt: skip
def test_where_the_words_say_nothing_the_status_does(status: int | None, cause: ImageCause) -> None:
    assert cause_of("no", status) is cause


@pytest.mark.parametrize("cause", ImageCause)
def test_every_class_is_published_as_a_failure_class(cause: ImageCause) -> None:
    assert FailureClass(cause.value).value == cause


@pytest.mark.parametrize(
    ("words", "helps"),
    [
        ("connection refused", True), ("unexpected EOF", True), ("toomanyrequests", True),
        ("received unexpected HTTP status: 502 Bad Gateway", True),
        ("manifest unknown", False), ("unauthorized", False), ("no space left on device", False),
        ("no matching manifest for linux/arm64", False), ("verification failed", False),
        ("x509: certificate signed by unknown authority: connection refused", False), ("", False),
    ],
)  # fmt: skip
def test_only_what_may_pass_is_worth_another_try(words: str, helps: bool) -> None:
    assert image_error("a:b", words).may_pass is helps


def test_a_certificate_that_the_engine_does_not_believe_is_the_engines_hosts_affair() -> None:
    words = "Get https://a.org:5000/v2/: x509: certificate signed by unknown authority"
    assert str(image_error("a.org:5000/b", words)).endswith(
        "put that into /etc/docker/certs.d/a.org:5000/ca.crt on the engine's host"
    )


@pytest.mark.parametrize(
    ("error", "cause", "says"),
    [
        (not_present("a:b"), ImageCause.NOT_FOUND, "with 'if-missing'"),
        (silent("a:b", 120.0), ImageCause.TIMEOUT, "for 120 s; see whether docker.io answers"),
        (overdue("a:b", 60), ImageCause.TIMEOUT, "raise task.container.pullTimeoutSeconds"),
        (withheld("x.org/a"), ImageCause.DENIED, "block for x.org is left"),
    ],
)
def test_the_runners_own_findings_have_a_class_and_an_advice(
    error: ImageError, cause: ImageCause, says: str
) -> None:
    assert (error.cause, error.may_pass) == (cause, False)
    assert says in str(error)
