"""`container-task deploy-automations`: files of YAML made into automations on Prefect's server."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from prefect import get_client

from flows.cli.api import errors_told
from flows.cli.automations import AutomationRefused, Wanted, deploy, read
from flows.cli.console import CommandError, Output
from flows.cli.exit_status import ExitStatus


def deployed(output: Output, names: Sequence[str]) -> int:
    """Deploy what the files say; a line for each automation."""
    try:
        wanted = [each for name in names for each in _read(name)]
        if not wanted:
            raise AutomationRefused("name files or folders of YAML, such as examples/automations")
        with errors_told():
            asyncio.run(_deploy(output, wanted))
    except AutomationRefused as error:
        raise CommandError(str(error)) from error
    return ExitStatus.SUCCEEDED


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


async def _deploy(output: Output, wanted: list[Wanted]) -> None:
    async with get_client() as client:
        async for done, name in deploy(client, wanted):
            output.line(f"{done} {name}")
            output.record(done, name=name)
