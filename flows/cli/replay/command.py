"""`container-task replay`: choose what was recorded, run it again, and print how it ended."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound

from flows.cli.check import read_json
from flows.cli.console import CommandError, Console, ExitStatus
from flows.cli.prefect_api import api_url, connected, find_run, metadata_of
from flows.cli.replay.recording import (
    UNTOLD,
    Recording,
    clean,
    is_run_json,
    recording_of,
    recording_of_run_json,
)
from flows.cli.replay.replay import KEPT_FOR, Place, Replayed, replay
from flows.engine.docker.volumes import run_volume_name
from flows.report.docker_run import quote, run_arguments, run_options
from flows.report.names import state_message
from flows.settings import HostSettings
from flows.spec import ContainerSpec, command_summary

# The image's, or in words of their own in the command for a shell.
_OTHERWISE = ("entrypoint", "platform")


def replay_run(
    console: Console,
    what: str | None,
    folder: Path | None,
    *,
    keep: bool,
    secrets: Mapping[str, str] | None = None,
) -> int:
    """Run it again in the folder for replays, with the values that were given for its secrets, and
    tell how it ended."""
    root, volume = _folder_and_volume(HostSettings.from_environment(), folder)
    if what is None:
        raise CommandError("name a run, a run.json or a payload to replay, or give --clean")
    has_api = _api_answers()
    recording = _recording(console, what, has_api=has_api)
    place = Place(root, volume, has_api, secrets or {})
    with console.raw() as write:
        ended = asyncio.run(replay(recording, place, write, console.say, keep=keep))
    _warn(console, recording, ended)
    looks = looks_at(ended, folder) if ended.is_kept else {}
    if console.as_json:
        console.document({**_ended_document(ended), "look": looks, "warning": _warning(ended)})
    else:
        _print(console, ended, looks)
        if keep and not ended.is_kept:
            console.say("There is no container to keep, as none was made.")
    return ExitStatus[ended.outcome.name.name]


def clean_replays(console: Console, what: str | None, folder: Path | None) -> int:
    """Remove what earlier replays kept in the folder for replays."""
    host = HostSettings.from_environment()
    root, volume = _folder_and_volume(host, folder)
    if what is not None:
        raise CommandError("--clean removes what all replays kept: name no run with it")
    removed = asyncio.run(clean(root, volume, host))
    if console.as_json:
        console.document({"removed": removed})
    for sentence in removed or [f"nothing was kept in {root}"]:
        console.line(f"{sentence[0].upper()}{sentence[1:]}.")
    return ExitStatus.SUCCEEDED


def _folder_and_volume(host: HostSettings, folder: Path | None) -> tuple[Path, str]:
    if folder is not None:
        return folder.expanduser().absolute(), ""
    if host.workspace_volume:
        # A folder elsewhere would be no folder for the engine.
        return host.workdir, host.workspace_volume
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache.absolute() / "container-task" / "replays", ""


def _api_answers() -> bool:
    url = api_url()
    try:
        return bool(url) and httpx.get(f"{url}/health", timeout=5.0).is_success
    except httpx.HTTPError:
        return False


def _recording(console: Console, what: str, *, has_api: bool) -> Recording:
    """Of a file with a `run.json` or a payload, or of a run on the server."""
    if what != "-" and not Path(what).is_file():
        if not api_url() and ("/" in what or what.endswith(".json")):
            raise CommandError(f"there is no file {what}: name a run.json, a payload, or a run")
        with connected() as client:
            run = find_run(client, what)
            return _of_run(client, run, metadata_of(client, run))
    raw = read_json(what)
    if not is_run_json(raw) or not isinstance(raw, Mapping):
        return recording_of(raw, {}, None)
    if has_api and (known := _of_run_json(raw)):
        return known
    console.say(
        f"The run's payload cannot be had, so what run.json does not tell is left out: {UNTOLD}."
    )
    return recording_of_run_json(raw)


def _of_run_json(facts: Mapping[str, Any]) -> Recording | None:
    """Of the run of a run.json; None where this server does not know it."""
    try:
        with connected() as client:
            run = client.read_flow_run(str(facts["jobId"]))  # type: ignore[arg-type]
            has_payload = run.parameters.get("payload") is not None
            return _of_run(client, run, facts) if has_payload else None
    except (ObjectNotFound, CommandError):
        return None


def _of_run(client: SyncPrefectClient, run: FlowRun, facts: Mapping[str, Any]) -> Recording:
    recording = recording_of(run.parameters.get("payload"), facts, str(run.id))
    return replace(recording, deployment=_deployment_of(client, run))


def _deployment_of(client: SyncPrefectClient, run: FlowRun) -> str:
    """The deployment whose caches are the run's; empty where it has none any more."""
    if run.deployment_id is None:
        return ""
    with suppress(ObjectNotFound):
        flow, deployment = client.read_flow(run.flow_id), client.read_deployment(run.deployment_id)
        return f"{flow.name}/{deployment.name}"
    return ""


def _warn(console: Console, recording: Recording, ended: Replayed) -> None:
    """Say what may have made it another run than the recorded one."""
    outcome = ended.outcome
    used = outcome.image.id if outcome.image else None
    if recording.image_id and used and used != recording.image_id:
        console.say(
            f"The image is another one than the run had: {used} in place of {recording.image_id}."
        )
    if outcome.error and "bind source path does not exist" in outcome.error:
        console.say(
            f"The engine does not see {ended.workspace.root}, as it is on another host: replay "
            "there, or name a folder that both see with --folder."
        )


def _print(console: Console, ended: Replayed, looks: Mapping[str, str]) -> None:
    console.say(f"{ended.outcome.name}: {state_message(ended.outcome)}")
    if ended.is_kept:
        hours = KEPT_FOR.total_seconds() / 3600
        console.say(f"Kept for {hours:.0f} hours or more. To look inside:")
        for what, command in looks.items():
            console.say(f"  {what:<8} {command}")
    if warning := _warning(ended):
        console.say(warning)


def _warning(ended: Replayed) -> str | None:
    """What to know of a kept container that was given secrets."""
    if not ended.is_kept or not ended.hidden:
        return None
    return (
        f"The kept container still holds {', '.join(ended.hidden)} for anyone who may use this "
        "engine (docker inspect), and so does the image that a shell is made of while it is open: "
        "push it nowhere, and remove what was kept when you are done."
    )


def _ended_document(ended: Replayed) -> dict[str, Any]:
    outcome, spec = ended.outcome, ended.spec
    return {
        "outcome": outcome.name,
        "exitCode": outcome.exit_code,
        "message": state_message(outcome),
        "image": spec.image,
        "imageId": outcome.image.id if outcome.image else None,
        "command": command_summary(spec.command),
        "container": spec.name if ended.is_kept else None,
        "folder": str(ended.workspace.folder) if ended.is_kept else None,
    }


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
        "shell": _shell(spec, ended.hidden, quote(source)),
        "remove": f"container-task replay --clean{place}",
    }


def _shell(spec: ContainerSpec, hidden: Sequence[str], source: str) -> str:
    """A shell in a copy of the container, with its limits."""
    image = f"replay-{spec.job_id[:8]}"
    blanks = "".join(f" --change {quote(f'ENV {name}=')}" for name in hidden)
    arguments = run_arguments(spec, None)
    plain = {key: value for key, value in arguments.items() if key not in _OTHERWISE}
    options = " ".join(run_options(spec, plain, source, hidden))
    return (
        f"docker commit{blanks} {quote(spec.name)} {image} && docker run --rm -it --init "
        f"--entrypoint sh {options} {image}; docker rmi {image}"
    )
