"""The commands that show a kept container, for whoever replayed it. Pure."""

from collections.abc import Sequence
from pathlib import Path

from flows.cli.replay.replay import Replayed
from flows.engine.docker.objects import run_volume_name
from flows.engine.docker.options import create_arguments
from flows.engine.types import Image
from flows.report.docker_run import NEWEST_API, docker_options, quote
from flows.spec import ContainerSpec

# The image's, or in words of their own below.
_OTHERWISE = ("entrypoint", "platform")


def looks_at(ended: Replayed, folder: Path | None) -> dict[str, str]:
    """A command for each way to look inside, and one that removes what was kept; `folder` is where
    replays have their folders, if somebody named it."""
    spec, mount = ended.spec, ended.workspace.mount
    name = quote(spec.name)
    source = mount.source if mount.kind == "bind" else run_volume_name(spec)
    place = f" --folder {quote(str(folder))}" if folder else ""
    return {
        "files": str(ended.workspace.folder),
        "log": f"docker logs {name}",
        "copy": f"docker cp {name}:{quote(spec.workdir)} .",
        "shell": _shell(spec, ended.hidden, quote(f"{source}:{mount.target}")),
        "remove": f"container-task replay --clean{place}",
    }


def _shell(spec: ContainerSpec, hidden: Sequence[str], job_folder: str) -> str:
    """A shell in a copy of the container, with its limits; the `hidden` variables have the values
    of the caller's environment."""
    image = f"replay-{spec.job_id[:8]}"
    blanks = "".join(f" --change {quote(f'ENV {name}=')}" for name in hidden)
    arguments = create_arguments(spec, Image(""), NEWEST_API)
    job_target = next(mount.target for mount in spec.mounts if mount.kind != "cache")
    env = {name: value for name, value in spec.env.items() if name not in hidden}
    caches = [mount for mount in arguments["mounts"] if mount["Target"] != job_target]
    plain = {key: value for key, value in arguments.items() if key not in _OTHERWISE}
    options = [
        f"--volume {job_folder}",
        *(f"--env {quote(name)}" for name in hidden),
        *docker_options({**plain, "environment": env, "mounts": caches}),
    ]
    return (
        f"docker commit{blanks} {quote(spec.name)} {image} && docker run --rm -it --init "
        f"--entrypoint sh {' '.join(options)} {image}; docker rmi {image}"
    )
