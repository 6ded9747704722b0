"""The `docker run` that does by hand what an attempt did. Pure.

It says in a shell's words what `flows.engine.docker.convert` hands to Docker. That is made of
the spec as it is shown, which holds no secret, and the repository's address is without
credentials: secrets are taken from the environment of whoever runs it.
"""

import csv
import io
import shlex
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import Any

from flows.attempt import Prepared
from flows.engine.docker.convert import create_arguments
from flows.engine.types import Image
from flows.masking import MASK
from flows.payload.image_reference import ImageName
from flows.payload.repository import Remote
from flows.spec import ContainerSpec

# The client leaves out by itself what an older engine does not take.
NEWEST_API = (99,)
_NEXT_LINE = " \\\n  "
_MASKED = f"# {MASK} stands for a secret that was part of the command: put it there first.\n"

Words = Iterator[str]


def docker_run(prepared: Prepared, image: Image | None) -> str:
    """A command for a POSIX shell: it makes the job's folder with the checkout below the current
    one, and runs the container with it as the attempt did, but for the time limit.

    A second time it takes the folder as it finds it. `image` is None where it could not be had.
    """
    spec = prepared.shown
    arguments = create_arguments(spec, image or Image(""), NEWEST_API)
    job_folder = _job_folder(spec)
    environment = arguments["environment"].items()
    shown = {name: value for name, value in environment if name not in prepared.withheld}
    options = [
        f'--volume "$PWD"/{quote(spec.job_id)}:{quote(job_folder)}',
        *(f"--env {quote(name)}" for name in secret_variables(prepared)),
        *docker_options(
            {**arguments, "environment": shown, "mounts": _caches(arguments, job_folder)}
        ),
    ]
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


def docker_options(arguments: Mapping[str, Any]) -> Words:
    """The options of `docker run` for create arguments, each quoted."""
    for key, value in arguments.items():
        yield from OPTIONS[key](value)


def _none(_: object) -> Words:
    return iter(())


def _one(name: str) -> Callable[[object], Words]:
    return lambda value: iter([f"--{name} {quote(str(value))}"])


def _each(name: str) -> Callable[[list[str]], Words]:
    return lambda values: (f"--{name} {quote(value)}" for value in values)


def _environment(variables: Mapping[str, str]) -> Words:
    return (f"--env {quote(f'{name}={value}')}" for name, value in variables.items())


def _cpus(nano_cpus: int) -> Words:
    return _one("cpus")(f"{nano_cpus / 1e9:.9f}".rstrip("0").rstrip("."))


def _bytes(name: str) -> Callable[[int], Words]:
    def words(number: int) -> Words:
        units = ((1024**3, "g"), (1024**2, "m"), (1024, "k"))
        exact = (f"{number // each}{unit}" for each, unit in units if number % each == 0)
        return _one(name)(next(exact, number))

    return words


def _gpus(requests: list[Mapping[str, Any]]) -> Words:
    return _each("gpus")(
        ["all" if each["count"] == -1 else str(each["count"]) for each in requests]
    )


def _volumes(mounts: list[Mapping[str, Any]]) -> Words:
    for mount in mounts:
        # Docker reads it as a line of CSV.
        line = io.StringIO()
        fields = ["type=volume", f"source={mount['Source']}", f"target={mount['Target']}"]
        csv.writer(line, lineterminator="").writerow(fields)
        yield from _one("mount")(line.getvalue())


OPTIONS: Mapping[str, Callable[[Any], Words]] = {
    "working_dir": _one("workdir"),
    "environment": _environment,
    "mounts": _volumes,
    "network_mode": _one("network"),
    "user": _one("user"),
    "entrypoint": lambda words: _one("entrypoint")(words[0]),
    "platform": _one("platform"),
    "nano_cpus": _cpus,
    "mem_limit": _bytes("memory"),
    "memswap_limit": _bytes("memory-swap"),
    "pids_limit": _one("pids-limit"),
    "shm_size": _bytes("shm-size"),
    "device_requests": _gpus,
    "security_opt": _each("security-opt"),
    "cap_add": _each("cap-add"),
    "cap_drop": _each("cap-drop"),
    # Said elsewhere in the command, or by its leaving them out.
    **dict.fromkeys(("image", "command", "init", "privileged"), _none),
    # They would make the container the runner's own, which removes it.
    **dict.fromkeys(("name", "labels"), _none),
}
"""How each create argument is said to `docker run`."""


def _job_folder(spec: ContainerSpec) -> str:
    return next(mount.target for mount in spec.mounts if mount.kind != "cache")


def _caches(arguments: Mapping[str, Any], job_folder: str) -> list[Mapping[str, Any]]:
    return [mount for mount in arguments["mounts"] if mount["Target"] != job_folder]


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
