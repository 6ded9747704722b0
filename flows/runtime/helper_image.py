"""The id of the image that gives files back, noted in `.runs` once it was resolved.

A name says something else after a pull for another platform, or of a local image's name, and every
task may ask for such a pull. So the first image of the name that fits the engine's own platform is
used from then on, as long as it is there.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

from flows.engine.contract import Engine
from flows.engine.types import HelperImage
from flows.errors import EngineError
from flows.settings import HostSettings
from flows.workspace.folder import RUNS_FOLDER
from flows.workspace.safe_open import write_whole


async def helper_image(engine: Engine, root: Path, wanted: HelperImage) -> str:
    """The id of the image of `wanted`, as it is noted for the jobs of `root` or comes to be. Raises
    as `Engine.helper_image`."""
    file = root / RUNS_FOLDER / "helper-image"
    noted = _noted(file, wanted.image)
    found = await engine.helper_image(wanted, noted)
    if found != noted:
        # A task may have filled the disk.
        with suppress(OSError):
            file.parent.mkdir(exist_ok=True)
            write_whole(file, root, json.dumps({wanted.image: found}).encode())
    return found


async def note_helper_image(engine: Engine, host: HostSettings) -> None:
    """Note the image where it is there already, before a task names it, if it will be needed."""
    if os.geteuid() != 0:
        with suppress(EngineError):
            await helper_image(engine, host.workdir, HelperImage(host.helper_image, "never"))


def _noted(file: Path, name: str) -> str:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return ""
    return str(found.get(name, "")) if isinstance(found, dict) else ""
