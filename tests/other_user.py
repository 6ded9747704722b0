"""Run Python as somebody who is not root, with a Docker Engine: a worker without root's rights.

At times the interpreter's own folder is below one that is closed to others, such as root's home. So
the process has a mount namespace of its own, in which the way there is open.
"""

import asyncio
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State

from flows.container_task import container_task
from tests.hosts import need_root
from tests.runs import Finished

USER = 12345
PROJECT = Path(__file__).parent.parent
_SOCKET = Path(os.environ.get("DOCKER_HOST", "/var/run/docker.sock").removeprefix("unix://"))


@contextmanager
def home_of_user() -> Iterator[Path]:
    """A folder of that user's, for job folders and for what programs want to keep."""
    need_root("becomes somebody else")
    folder = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="other-user-"))
    os.chown(folder, USER, USER)
    try:
        yield folder
    finally:
        # Trees are deeper than Python's own removal goes.
        subprocess.run(["rm", "-rf", folder], check=True)


def as_user(
    home: Path, *arguments: str, settings: Mapping[str, str] | None = None, timeout: float = 600
) -> "subprocess.CompletedProcess[str]":
    """Run this Python with `arguments` as that user, who may use the engine's socket."""
    group = str(_SOCKET.stat().st_gid)
    command = [
        "setpriv", f"--reuid={USER}", f"--regid={USER}", f"--groups={group}",
        "--inh-caps=-all", "--no-new-privs", sys.executable, *arguments,
    ]  # fmt: skip
    own = {"HOME": str(home), "PREFECT_HOME": str(home / "prefect"), "TMPDIR": str(home)}
    return subprocess.run(
        ["unshare", "--mount", "sh", "-ec", _OPENED, "sh", *_closed_ways(), *command],
        env=os.environ | own | {"PYTHONPATH": str(PROJECT)} | dict(settings or {}),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def run_payloads(
    home: Path, payloads: Mapping[str, Any], settings: Mapping[str, str]
) -> dict[str, Finished]:
    """Run the flow for each payload, one after the other in one process of that user."""
    given = {"MOONMIND_WORKDIR": str(home / "jobs"), "PAYLOADS": json.dumps(payloads)}
    done = as_user(home, "-m", "tests.other_user", settings=given | dict(settings))
    assert done.returncode == 0, done.stderr
    states = json.loads(done.stdout.splitlines()[-1])
    return {
        name: Finished(State.model_validate(state), home / "jobs" / job_id)
        for name, (job_id, state) in states.items()
    }


async def _run_payloads() -> None:
    states = {}
    for name, payload in json.loads(os.environ["PAYLOADS"]).items():
        state = await container_task(payload, return_state=True)
        told = {"type": state.type, "name": state.name, "message": state.message}
        states[name] = (str(state.state_details.flow_run_id), told)
    sys.stdout.write("\n" + json.dumps(states) + "\n")


# First the closed folders, then what lies in them and must be reached: an empty folder in place of
# each of the first, and in that the others at their paths.
_OPENED = """
mount -t tmpfs tmpfs /mnt
closed= needed= number=0
while [ "$1" != - ]; do closed="$closed $1"; shift; done; shift
while [ "$1" != - ]; do needed="$needed $1"; shift; done; shift
for path in $needed; do mkdir "/mnt/$((number += 1))"; mount --rbind "$path" "/mnt/$number"; done
for path in $closed; do mount -t tmpfs -o mode=755 tmpfs "$path"; done
number=0
for path in $needed; do mkdir -p "$path"; mount --rbind "/mnt/$((number += 1))" "$path"; done
umount --lazy /mnt
exec "$@"
"""


def _closed_ways() -> list[str]:
    """The arguments of the script, up to the command."""
    ways: dict[Path, Path] = {}
    for needed in (Path(sys.base_prefix), Path(sys.prefix), PROJECT):
        for above in reversed(needed.parents):
            if not above.stat().st_mode & stat.S_IXOTH:
                ways[needed] = above
                break
    return [*map(str, dict.fromkeys(ways.values())), "-", *map(str, ways), "-"]


if __name__ == "__main__":
    asyncio.run(_run_payloads())
