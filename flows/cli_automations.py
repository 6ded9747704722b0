"""The command `container-task deploy-automations`."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import httpx
from cyclopts import Parameter
from prefect import get_client
from prefect.settings import get_current_settings

from flows.automations import AutomationRefused, Wanted, deploy, read

_BAD_INPUT = 2


def deploy_automations(
    *files: Annotated[str, Parameter(allow_leading_hyphen=True)],
) -> int:
    """Make or change automations on the Prefect server as files of YAML say; a line for each.

    An automation is known by its name, so the command can be given again. Exit status 0, or 2 with
    what is wrong on standard error.

    Parameters
    ----------
    files
        Files, folders with files `*.yaml`, or - for standard input.
    """
    try:
        return asyncio.run(_deploy([each for name in files for each in _read(name)]))
    except AutomationRefused as error:
        print(error, file=sys.stderr)
    except httpx.HTTPError as error:
        print(f"Prefect's server does not answer as it should: {error}", file=sys.stderr)
    return _BAD_INPUT


def _read(name: str) -> Iterator[Wanted]:
    if name == "-":
        yield from read("standard input", sys.stdin.read())
        return
    paths = sorted(Path(name).glob("*.yaml")) if Path(name).is_dir() else [Path(name)]
    if not paths:
        raise AutomationRefused(f"{name}: this folder has no file *.yaml")
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise AutomationRefused(f"{path}: cannot be read: {error}") from None
        yield from read(str(path), text)


async def _deploy(wanted: list[Wanted]) -> int:
    if not wanted:
        raise AutomationRefused("name files or folders of YAML, such as examples/automations")
    if not get_current_settings().api.url:
        # Prefect's client would start a server of its own.
        raise AutomationRefused(
            "no Prefect server is known: prefect config set PREFECT_API_URL=http://<host>:4200/api"
        )
    async with get_client() as client:
        async for sentence in deploy(client, wanted):
            print(sentence)
    return 0
