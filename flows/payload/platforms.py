"""Whether an image is made for the platform that a task wants. Pure."""

# What containerd, which docker follows, takes for the same.
_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm"}
_DEFAULT_VARIANTS = {"arm64": "v8", "arm": "v7", "amd64": "v1"}


def is_for(image: str, wanted: str | None) -> bool:
    """Whether an image of the platform `image` is one of the platform `wanted`.

    Both are `os/architecture[/variant]`. Nothing wanted takes every image; a wanted platform
    without a variant takes all of them.
    """
    if wanted is None:
        return True
    os, architecture, variant = _parts(wanted)
    has_os, has_architecture, has_variant = _parts(image)
    if (os, architecture) != (has_os, has_architecture):
        return False
    default = _DEFAULT_VARIANTS.get(architecture, "")
    return not variant or variant == (has_variant or default)


def _parts(platform: str) -> tuple[str, str, str]:
    os, _, rest = platform.lower().partition("/")
    architecture, _, variant = rest.partition("/")
    return os, _ALIASES.get(architecture, architecture), variant
