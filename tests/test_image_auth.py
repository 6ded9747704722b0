"""Which registry and which platform a name means."""

import pytest

from flows.engine.images.auth import Login, registry_host
from flows.payload.image_reference import is_for


@pytest.mark.parametrize(
    "address",
    [
        "docker.io", "index.docker.io", "registry-1.docker.io", "https://index.docker.io/v1/",
        "http://Docker.IO", " https://registry-1.docker.io/v2/ ", "index.docker.io/v1/",
    ],
)  # fmt: skip
def test_docker_hub_has_many_names(address: str) -> None:
    assert registry_host(address) == "docker.io"


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("ghcr.io", "ghcr.io"),
        ("https://GHCR.io/org/", "ghcr.io"),
        ("registry.example.org:5000", "registry.example.org:5000"),
        ("http://registry.example.org:5000/v2", "registry.example.org:5000"),
        ("https://user:secret@example.org/", "example.org"),
        ("localhost:5000", "localhost:5000"),
        ("", ""),
        ("[registry.example.org", ""),
    ],
)
def test_scheme_path_and_case_of_a_registry_do_not_count(address: str, host: str) -> None:
    assert registry_host(address) == host


def test_a_log_in_does_not_show_its_password() -> None:
    assert "secret" not in repr(Login("docker.io", "somebody", "secret"))


@pytest.mark.parametrize(
    ("image", "wanted", "fits"),
    [
        ("linux/amd64", None, True),
        ("", None, True),
        ("linux/amd64", "linux/amd64", True),
        ("linux/amd64", "linux/x86_64", True),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm64", "linux/aarch64", True),
        ("linux/arm/v7", "linux/arm/v7", True),
        ("linux/arm/v6", "linux/arm/v7", False),
        ("linux/arm64", "linux/amd64", False),
        ("windows/amd64", "linux/amd64", False),
        ("", "linux/amd64", False),
    ],
)
def test_an_image_is_for_a_platform_or_not(image: str, wanted: str | None, fits: bool) -> None:
    assert is_for(image, wanted) is fits
