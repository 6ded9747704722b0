"""An upgrade, a backup and a restore of the compose stack, in the words of docs/operating.md."""

import re
import subprocess
from collections.abc import Callable

from scripts.compose import Compose
from scripts.stack import ROOT
from tests.runs import BUSYBOX, left_on_engine, until

_NEXT_IMAGE = "moonmind-local/worker:next"
_PATIENCE_SECONDS = 180.0


def documented(heading: str) -> list[list[str]]:
    """The commands of a section of docs/operating.md, a list for each block."""
    text = (ROOT / "docs/operating.md").read_text()
    section = re.split(r"^#+ ", text.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.M)[0]
    blocks = re.findall(r"^```console\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [re.findall(r"^\$ ((?:.*\\\n)*.*)$", block, re.MULTILINE) for block in blocks]


def upgrade(stack: Compose, submit: Callable[[str], str]) -> str:
    """Take the stack to another image while a task runs; return that task's run.

    `submit` takes a shell script and returns the run's id.
    """
    run_id = submit("sleep 30; echo done")
    until(lambda: bool(left_on_engine(run_id)), _PATIENCE_SECONDS)
    before = {each: stack.container(each) for each in ("migrate", "prefect-server", "worker")}
    stack.change({"WORKER_IMAGE": _NEXT_IMAGE})
    for line in documented("Upgrading")[0]:
        stack.shell(line)
    stack.healthy("prefect-server", "services", "worker")
    kept = {each for each, old in before.items() if stack.container(each) == old}
    assert not kept, f"the upgrade left {kept} as they were"
    final = stack.await_final(run_id, _PATIENCE_SECONDS)
    assert final["state_type"] == "COMPLETED", final["state"]["message"]
    return run_id


def forget_next_image() -> None:
    """Drop the name that the upgrade gave to the image, once no container has it."""
    subprocess.run(["docker", "image", "rm", _NEXT_IMAGE], capture_output=True, check=False)


def back_up_and_restore(stack: Compose, run_id: str) -> None:
    """Lose everything but a backup, and find the run, its log and its files again."""
    backup, restore = documented("Backup and restore")
    before = _what_is_known(stack, run_id)
    for line in backup:
        stack.shell(_of(stack, line))
    stack.remove()
    for line in restore:
        stack.shell(_of(stack, line))
        if line.endswith("up -d postgres"):
            stack.healthy("postgres")
    stack.healthy("prefect-server", "services", "worker")
    assert _what_is_known(stack, run_id) == before, "the backup lacks something"


def _of(stack: Compose, line: str) -> str:
    """A line of the documentation with this stack's volume, folder and image."""
    for ours, theirs in (
        (stack.workspaces, "agent_workspaces"),
        (f"{stack.home}/prefect.dump", "prefect.dump"),
        (f"{stack.home}/jobs.tar", "jobs.tar"),
        (BUSYBOX, "busybox:1.36"),
    ):
        line = line.replace(theirs, ours)
    return line


def _what_is_known(stack: Compose, run_id: str) -> object:
    files = stack.files(stack.workspaces)
    of_the_run = {path: data for path, data in files.items() if path.startswith(run_id)}
    logs = [record["message"] for record in stack.logs(run_id)]
    assert of_the_run, "the run has no files"
    assert logs, "the run has no log"
    return stack.flow_run(run_id)["state"]["id"], logs, of_the_run
