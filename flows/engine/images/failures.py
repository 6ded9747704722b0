"""Classify why a pull failed, by what the registry or the engine said, and word it. Pure."""

import re

from flows.errors import ImageCause, ImageError
from flows.payload.image_reference import ImageName

# From the first that fits. An engine passes on what the registry, the network, the disk or Go's
# libraries say; the status of its own answer tells little, for most of them have 500.
_WORDS: tuple[tuple[ImageCause, str], ...] = (
    (ImageCause.DISK_FULL, r"no space left on device|disk quota exceeded"),
    (
        ImageCause.WRONG_PLATFORM,
        r"no matching manifest for|no match for platform|does not match the specified platform"
        r"|cannot be used on this platform",
    ),
    (
        ImageCause.CORRUPT,
        r"verification failed|invalid checksum|digest mismatch|unexpected commit digest"
        r"|(?:failed to (?:register|extract) layer|archive/tar).*(?:unexpected EOF|invalid)"
        r"|gzip: invalid|layers from manifest don't match",
    ),
    (
        ImageCause.RATE_LIMITED,
        r"toomanyrequests|too many requests|rate limit|HTTP (?:status: )?429",
    ),
    (
        ImageCause.DENIED,
        r"unauthorized|authentication required|no basic auth credentials|forbidden"
        r"|(?<!permission )denied|incorrect username or password|HTTP (?:status: )?40[13]",
    ),
    (
        ImageCause.UNREACHABLE,
        r"dial (?:tcp|unix)|no such host|connection (?:refused|reset)|broken pipe|timeout"
        r"|timed out|deadline exceeded|TLS handshake|\bEOF\b|x509|tls: |HTTP response to HTTPS"
        r"|HTTP (?:status: )?5\d\d|no route to host|network is unreachable|proxyconnect|http2: ",
    ),
    (
        ImageCause.NOT_FOUND,
        r"not found|manifest unknown|name unknown|does not exist|no such image"
        r"|HTTP (?:status: )?404",
    ),
)
_CLASSES = tuple((cause, re.compile(words, re.IGNORECASE)) for cause, words in _WORDS)
# No next try finds another certificate.
_LASTING = re.compile(r"x509|certificate|HTTP response to HTTPS", re.IGNORECASE)
_STATUSES = {
    401: ImageCause.DENIED,
    403: ImageCause.DENIED,
    404: ImageCause.NOT_FOUND,
    429: ImageCause.RATE_LIMITED,
}
_ADVICE = {
    ImageCause.NOT_FOUND: "check the name and the tag, and that {registry} has them",
    ImageCause.DENIED: "check the name, and that the Docker Registry Credentials block for "
    "{registry}, or else the worker's docker login, may read it",
    ImageCause.RATE_LIMITED: "{registry} limits how often it is asked: try later, or give it "
    "credentials that may ask more often, as a Docker Registry Credentials block",
    ImageCause.UNREACHABLE: "check that {registry} is up, and that the engine's host can reach it",
    ImageCause.WRONG_PLATFORM: "name an image that is made for it, or in task.container.platform "
    "one of those that this one is made for",
    ImageCause.DISK_FULL: "make room where the engine keeps its images (docker system df)",
    ImageCause.CORRUPT: "what came is not what {registry} announced: push the image again, or see "
    "what lies between this host and the registry",
    ImageCause.TIMEOUT: "see whether {registry} answers, and what the engine does",
    ImageCause.OTHER: "see the engine's log for more",
}

# What a registry says of a name that nobody has.
_MISSING = (ImageCause.NOT_FOUND, ImageCause.DENIED)
_BY_NAME = "where that is the beginning of an image's id: an image is run by its name"
# The engine's affair: what this worker believes does not count.
_CERTIFICATE = (
    "where its certificate is of an authority of your own, put that into "
    "/etc/docker/certs.d/{registry}/ca.crt on the engine's host"
)


def cause_of(words: str, status: int | None = None) -> ImageCause:
    """The class of a failure, from what was said and the engine's HTTP status, if it gave one."""
    for cause, pattern in _CLASSES:
        if pattern.search(words):
            return cause
    return _STATUSES.get(status or 0, ImageCause.OTHER)


def _advice(cause: ImageCause, image: str, words: str = "") -> str:
    name = ImageName.parse(image)
    if "x509" in words:
        return _CERTIFICATE.format(registry=name.registry)
    by_name = f"; {_BY_NAME}" if name.may_be_id and cause in _MISSING else ""
    return _ADVICE[cause].format(registry=name.registry) + by_name


def image_error(
    image: str, words: str, status: int | None = None, *, doing: str = "pull"
) -> ImageError:
    """One sentence for an image that cannot be had: what, why, and what to do."""
    words = " ".join(words.split()).rstrip(".")
    cause = cause_of(words, status)
    passing = cause in (ImageCause.RATE_LIMITED, ImageCause.UNREACHABLE)
    return ImageError(
        f"cannot {doing} the image {image}: {words or 'no reason was given'}; "
        f"{_advice(cause, image, words)}",
        cause,
        may_pass=passing and not _LASTING.search(words),
    )


def silent(image: str, seconds: float, *, doing: str = "pull") -> ImageError:
    """For a pull of which nothing is heard any more."""
    return ImageError(
        f"cannot {doing} the image {image}: nothing was heard of it for {seconds:g} s; "
        f"{_advice(ImageCause.TIMEOUT, image)}, or raise MOONMIND_PULL_INACTIVITY_SECONDS on this "
        "worker",
        ImageCause.TIMEOUT,
    )


def overdue(image: str, seconds: float) -> ImageError:
    """For a pull that used up all its time."""
    return ImageError(
        f"pulling the image {image} took longer than its limit of {seconds:g} s: see whether "
        f"{ImageName.parse(image).registry} answers, or raise task.container.pullTimeoutSeconds",
        ImageCause.TIMEOUT,
    )


def not_present(image: str) -> ImageError:
    """For an image that is missing and may not be pulled."""
    by_name = f"; {_BY_NAME}" if ImageName.parse(image).may_be_id else ""
    return ImageError(
        f"the image {image} is not on this host and task.container.pull is 'never': load it "
        f"there, or let the task pull it with 'if-missing'{by_name}",
        ImageCause.NOT_FOUND,
    )


def other_platform(image: str, has: str, wanted: str, *, pulled: bool) -> ImageError:
    """For an image that is present and made for another platform than the task wants."""
    advice = (
        _ADVICE[ImageCause.WRONG_PLATFORM]
        if pulled
        else "task.container.pull is 'never': let the task pull it with 'if-missing'"
    )
    return ImageError(
        f"the image {image} is made for {has}, not for {wanted}; {advice}",
        ImageCause.WRONG_PLATFORM,
    )


def withheld(image: str) -> ImageError:
    """For an image that was pulled with credentials which are no longer there."""
    registry = ImageName.parse(image).registry
    return ImageError(
        f"the image {image} was pulled to this host with credentials, and no Docker Registry "
        f"Credentials block for {registry} is left to say that this task may read it: "
        "save one, or let the task pull it with 'if-missing' if it is public by now",
        ImageCause.DENIED,
    )
