"""Image names as Docker reads them: which registry, which repository, which tag or digest.

Source: distribution's `reference` package. A first part with a dot or a colon, or `localhost`, is
a registry; everything else is on Docker Hub.
"""

import re
from dataclasses import dataclass, replace
from typing import Self

DOCKER_HUB = "docker.io"
HUB_NAMES = {DOCKER_HUB, "index.docker.io", "registry-1.docker.io"}
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = (
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
)
IMAGE_NAME = re.compile(
    rf"(?:{_HOST}(?::\d{{1,5}})?/)?{_COMPONENT}(?:/{_COMPONENT})*"
    r"(?::\w[\w.-]{0,127})?(?:@sha256:[a-f0-9]{64})?",
    re.ASCII,
)
# An engine takes its beginning for a name as well: see `ImageName.may_be_id`.
IMAGE_ID = re.compile(r"sha256:[a-f0-9]+|[a-f0-9]{64}")
PLATFORM = re.compile(r"[a-z0-9]+/[a-z0-9_]+(?:/[a-z0-9.]+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ImageName:
    """The parts of a valid name; no `tag` with a `digest`, as Docker takes no notice of it then.

    `written` is the name as it stood, without tag and digest.
    """

    registry: str
    repository: str
    tag: str
    digest: str
    written: str

    @classmethod
    def parse(cls, image: str) -> Self:
        """Take a name apart; without tag and digest, the tag is `latest`."""
        name, _, digest = image.partition("@")
        written, colon, tag = name.rpartition(":")
        if not colon or "/" in tag:
            written, tag = name, ""
        first, _, rest = written.partition("/")
        registry, path = (
            (first.lower(), rest) if _begins_with_host(written) else (DOCKER_HUB, written)
        )
        if registry in HUB_NAMES:
            registry = DOCKER_HUB
            path = path if "/" in path else f"library/{path}"
        return cls(registry, path, "" if digest else tag or "latest", digest, written)

    @property
    def may_be_id(self) -> bool:
        """Whether an engine may take the name, as it stood, for the beginning of an image's id."""
        return bool(re.fullmatch(r"[a-f0-9]+", self.written)) and self.tag == "latest"

    def is_of(self, name: str) -> bool:
        """Whether `name`, a tag or a digest that an engine has for an image, is this one, in
        whatever spelling."""
        other = ImageName.parse(name)
        return replace(other, written=self.written) == self

    def spellings(self) -> tuple[str, ...]:
        """Every way to name this image or its repository, for a glob to match."""
        names = [f"{self.registry}/{self.repository}"]
        if self.registry == DOCKER_HUB:
            both = dict.fromkeys((self.repository, self.repository.removeprefix("library/")))
            hosts = ("", *(f"{host}/" for host in sorted(HUB_NAMES)))
            # Without a host, `host/name` on Docker Hub would read as that host's.
            names = [
                host + repository
                for host in hosts
                for repository in both
                if host or not _begins_with_host(repository)
            ]
        suffix = f"@{self.digest}" if self.digest else f":{self.tag}"
        return tuple(spelling for name in names for spelling in (name, name + suffix))


def _begins_with_host(name: str) -> bool:
    first, slash, _ = name.partition("/")
    return bool(slash) and (first == "localhost" or bool(re.search(r"[.:A-Z]", first)))


# What containerd, which docker follows, takes for the same.
_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm"}
_DEFAULT_VARIANTS = {"arm64": "v8", "arm": "v7", "amd64": "v1"}


def is_for(image: str, wanted: str | None) -> bool:
    """Whether an image of the platform `image` (`os/architecture[/variant]`) is one of `wanted`.

    A wanted platform without a variant takes all of them.
    """
    if wanted is None:
        return True
    os, architecture, variant = _parts(wanted)
    has_os, has_architecture, has_variant = _parts(image)
    if (os, architecture) != (has_os, has_architecture):
        return False
    return not variant or variant == (has_variant or _DEFAULT_VARIANTS.get(architecture, ""))


def _parts(platform: str) -> tuple[str, str, str]:
    os, _, rest = platform.lower().partition("/")
    architecture, _, variant = rest.partition("/")
    return os, _ALIASES.get(architecture, architecture), variant
