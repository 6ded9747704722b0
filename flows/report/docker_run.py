"""The `docker run` that does by hand what an attempt did. Pure.

Its options are those of `flows.engine.docker.options`, for the spec as it is shown, which holds no
secret; the repository's address is without credentials: secrets are taken from the environment of
whoever runs it.
"""

import shlex
from collections.abc import Collection, Iterator, Mapping
from itertools import groupby
from typing import Any

from flows.attempt import Prepared
from flows.engine.docker.options import OPTIONS, create_arguments
from flows.engine.types import Image
from flows.masking import MASK
from flows.payload.image_reference import ImageName
from flows.payload.repository import Remote
from flows.spec import ContainerSpec

# The client leaves out by itself what an older engine does not take.
_NEWEST_API = (99,)
_NEXT_LINE = " \\\n  "
_MASKED = f"# {MASK} stands for a secret that was part of the command: put it there first.\n"


def docker_run(prepared: Prepared, image: Image | None) -> str:
    """A command for a POSIX shell: it makes the job's folder with the checkout below the current
    one, and runs the container with it as the attempt did, but for the time limit.

    A second time it takes the folder as it finds it. `image` is None where it could not be had.
    """
    spec = prepared.shown
    hidden = secret_variables(prepared)
    arguments = run_arguments(spec, image)
    options = run_options(spec, arguments, f'"$PWD"/{quote(spec.job_id)}', hidden)
    entrypoint: list[str] = arguments.get("entrypoint", [])
    last = [image_name(spec.image, image.digest if image else None), *entrypoint[1:], *spec.command]
    lines = ["docker run --rm --init", *options, " ".join(map(quote, last))]
    remark = _MASKED if prepared.is_masked else ""
    return f"{remark}{_make_folder(prepared)} &&\n{_NEXT_LINE.join(lines)}"


def secret_variables(prepared: Prepared) -> tuple[str, ...]:
    """The environment variables whose values the command takes from its caller's environment."""
    return (*prepared.spec.secrets, *prepared.withheld)


def image_name(image: str, digest: str | None) -> str:
    """The image by its digest, the same on every host, where that is known."""
    return f"{ImageName.parse(image).written}@{digest}" if digest else image


def quote(word: str) -> str:
    """`word` for a shell, in characters that can be seen and copied."""
    runs = ("".join(run) for _, run in groupby(word, key=_is_shown))
    return "".join(map(_quoted, runs)) or "''"


def _quoted(run: str) -> str:
    if _is_shown(run[0]):
        return shlex.quote(run)
    escapes = "".join(f"\\{byte:03o}" for byte in run.encode())
    return f"\"$(printf '{escapes}')\""


def _is_shown(char: str) -> bool:
    return char.isprintable() or char == "\n"


def run_arguments(spec: ContainerSpec, image: Image | None) -> dict[str, Any]:
    """What docker-py's `create_container` would be given, of which `docker run` has its options."""
    return create_arguments(spec, image or Image(""), _NEWEST_API)


def run_options(
    spec: ContainerSpec, arguments: Mapping[str, Any], source: str, hidden: Collection[str]
) -> Iterator[str]:
    """The options of `docker run`, each quoted. The job's folder is mounted from `source`, which is
    quoted already; the `hidden` variables have the values of the caller's environment."""
    folder = next(mount.target for mount in spec.mounts if mount.kind != "cache")
    yield f"--volume {source}:{quote(folder)}"
    yield from (f"--env {quote(name)}" for name in hidden)
    environment = arguments["environment"].items()
    shown = {name: value for name, value in environment if name not in hidden}
    caches = [mount for mount in arguments["mounts"] if mount["Target"] != folder]
    arguments = {**arguments, "environment": shown, "mounts": caches}
    for option in OPTIONS:
        if option.key in arguments:
            for name, value in option.words(arguments[option.key]):
                yield f"{name} {quote(value)}"


def _make_folder(prepared: Prepared) -> str:
    """The job's folder, open to whatever user the image has, as the runner makes it."""
    spec = prepared.spec
    folder = spec.job_id
    repo, results = f"{folder}/repo", f"{folder}/artifacts/{spec.artifacts_subdir}"
    if not (prepared.repository and prepared.commit):
        return f"(umask 0 && mkdir -p{_NEXT_LINE}{_NEXT_LINE.join((quote(repo), quote(results)))})"
    address = quote(Remote.parse(prepared.repository).url)
    clone = f"git clone --quiet --no-checkout {address} {quote(repo)}"
    checkout = f"git -C {quote(repo)} checkout --quiet --detach {quote(prepared.commit)}"
    steps = _NEXT_LINE.join(
        ("umask 0", f"&& {clone}", f"&& {checkout}", f"&& mkdir -p {quote(results)}")
    )
    return f"{{ [ -d {quote(results)} ] || ({steps}); }}"
