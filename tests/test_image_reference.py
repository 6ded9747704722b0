"""Which image a name means, in every spelling that a rule may use for it."""

import pytest

from flows.payload.image_reference import ImageName

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("image", "registry", "repository", "tag", "digest"),
    [
        ("busybox", "docker.io", "library/busybox", "latest", ""),
        ("busybox:1.36", "docker.io", "library/busybox", "1.36", ""),
        ("team/app", "docker.io", "team/app", "latest", ""),
        ("index.docker.io/team/app:1", "docker.io", "team/app", "1", ""),
        ("registry-1.docker.io/busybox", "docker.io", "library/busybox", "latest", ""),
        ("localhost/app", "localhost", "app", "latest", ""),
        ("localhost:5000/a/b:v1", "localhost:5000", "a/b", "v1", ""),
        ("Ghcr.io/team/app", "ghcr.io", "team/app", "latest", ""),
        (f"ghcr.io/team/app:v1@{DIGEST}", "ghcr.io", "team/app", "", DIGEST),
    ],
)
def test_a_name_has_these_parts(
    image: str, registry: str, repository: str, tag: str, digest: str
) -> None:
    name = ImageName.parse(image)
    assert (name.registry, name.repository, name.tag, name.digest) == (
        registry,
        repository,
        tag,
        digest,
    )


def test_an_image_of_docker_hub_has_a_short_spelling_and_a_long_one() -> None:
    assert {"busybox", "busybox:1.36", "docker.io/library/busybox:1.36"} <= set(
        ImageName.parse("busybox:1.36").spellings()
    )
    assert "team/app:latest" in ImageName.parse("docker.io/team/app").spellings()


def test_a_tag_beside_a_digest_is_no_spelling_as_docker_ignores_it() -> None:
    spellings = ImageName.parse(f"busybox:1.36@{DIGEST}").spellings()
    assert "busybox:1.36" not in spellings
    assert f"busybox@{DIGEST}" in spellings


def test_an_image_of_another_registry_is_none_of_docker_hub() -> None:
    assert "team/app" not in ImageName.parse("ghcr.io/team/app").spellings()


@pytest.mark.parametrize(
    ("asked", "tag"),
    [
        ("busybox", "busybox:latest"),
        ("docker.io/library/busybox:1", "busybox:1"),
        ("index.docker.io/team/app", "docker.io/team/app:latest"),
        (f"ghcr.io/team/app:1@{DIGEST}", f"ghcr.io/team/app@{DIGEST}"),
        ("Ghcr.io/team/app", "Ghcr.io/team/app:latest"),
    ],
)
def test_an_image_goes_by_a_tag_in_every_spelling(asked: str, tag: str) -> None:
    assert ImageName.parse(asked).is_of(tag)


@pytest.mark.parametrize(
    ("asked", "tag"),
    [
        ("cafe", "busybox:latest"),
        ("busybox", "busybox:1"),
        ("busybox", f"busybox@{DIGEST}"),
        (f"busybox@{DIGEST}", f"evil/app@{DIGEST}"),
        ("busybox", "evil/busybox:latest"),
        ("busybox", "localhost/busybox:latest"),
        ("busybox", "<none>:<none>"),
    ],
)
def test_an_image_does_not_go_by_a_tag_of_another(asked: str, tag: str) -> None:
    assert not ImageName.parse(asked).is_of(tag)
