"""Attacks by real containers on a worker that is root, whom a link would lead anywhere.

Each runs the whole flow. Whatever it does: its outcome is what it is, nothing outside of the job's
folder is read, changed or removed, nothing stays on the engine, and the folder can be removed. The
same for a worker that is not root is in test_other_owners.py; a full disk, the lack of memory and a
wrecked artifacts folder are in test_flow.py, floods of output in test_docker_logs.py.
"""

import json
import os
import stat
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)

from blocks.policy import POLICY_NAME, ContainerPolicy
from flows.workspace.folder import Workspace
from tests.runs import PYTHON, Finished, Runner, payload

pytestmark = [pytest.mark.docker, pytest.mark.thorough]

# What nobody may get to see: in a file beside the job's folder, and in the worker's environment.
SECRET = "0f9c-precious-1d3e"
PROLOGUE = """
J=/work/agent_jobs/$JOB_ID; A=$J/artifacts; C=$ARTIFACT_DIR; cd $J
in_place_of() { rm -rf "$1"; mkdir -p "${1%/*}"; }
FILES="$A/logs/execute.log $C/logs/runner.log $C/metadata/run.json"
"""


@dataclass(frozen=True)
class Attack:
    """`script` has `@OUTSIDE@` for a folder beside the job's, `@FILE@` for a file in it, and
    `@DISK@` for the numbers of the disk that both are on."""

    script: str
    outcome: str = "succeeded"
    container: dict[str, Any] = field(default_factory=dict)
    # What the output must be; None for whatever it is.
    output: str | None = "the end\n"


def python(script: str, outcome: str = "succeeded", output: str | None = "the end\n") -> Attack:
    return Attack(script, outcome, {"image": PYTHON}, output)


def refused(script: str) -> Attack:
    """Every line must fail."""
    lines = [line for line in script.strip().splitlines() if line.strip()]
    tries = "\n".join(
        f"({line}) >/dev/null 2>&1 && echo got through: line {n}" for n, line in enumerate(lines, 1)
    )
    return Attack(f"{tries}\necho the end")


ATTACKS = {
    "links to a folder outside in place of folders": Attack(
        "for f in $J/repo $A/logs $C/logs $C/metadata; do in_place_of $f; ln -s @OUTSIDE@ $f; done"
    ),
    "a relative link outside in place of artifacts": Attack("in_place_of $A; ln -s ../outside $A"),
    "a link outside in place of the subfolder": Attack("in_place_of $C; ln -s @OUTSIDE@ $C"),
    "links to a file outside in place of files": Attack(
        "for f in $FILES; do in_place_of $f; ln -s @FILE@ $f; done"
    ),
    "links to a folder outside in place of files": Attack(
        "for f in $FILES; do in_place_of $f; ln -s @OUTSIDE@ $f; done"
    ),
    "links to what is not there in place of files": Attack(
        "for f in $FILES; do in_place_of $f; ln -s @OUTSIDE@/new $f; done"
    ),
    "links to the worker's own process": Attack(
        "for f in $FILES; do in_place_of $f; ln -s /proc/self/environ $f; done;"
        "ln -s /proc/self/environ $C/e; ln -s /proc/self/cwd $C/c; ln -s /dev/stdin $C/i"
    ),
    "chains of links": Attack(
        "ln -s @FILE@ one; ln -s ../one $A/two; ln -s ../two $C/three; ln -s ../../outside $A/four;"
        "in_place_of $C/logs; ln -s ../four $C/logs; in_place_of $C/metadata/run.json;"
        "ln -s ../three $C/metadata/run.json"
    ),
    "loops of links": Attack(
        "ln -s . $C/itself; ln -s b $C/a; ln -s a $C/b; in_place_of $A/logs; ln -s logs $A/logs;"
        "in_place_of $C/metadata; ln -s ../metadata $C/metadata"
    ),
    "links all along the way to host paths": Attack(
        "for p in / /etc /etc/passwd /root /var/run/docker.sock /proc/1/root; do"
        " ln -s $p $C/l$(echo $p | tr / _); done"
    ),
    "hard links among the runner's files": Attack(
        "for f in $FILES; do echo x > $f; ln $f repo/${f##*/}; done;"
        "ln -f $C/logs/runner.log $C/metadata/run.json; ln -f $A/logs/execute.log $C/execute"
    ),
    "pipes in place of files": Attack("for f in $FILES; do in_place_of $f; mkfifo $f; done"),
    "pipes in place of folders": Attack(
        "for f in $J/repo $A/logs $C/logs $C/metadata; do in_place_of $f; mkfifo $f; done"
    ),
    "a pipe in place of artifacts": Attack("in_place_of $A; mkfifo $A"),
    "folders in place of files": Attack(
        "for f in $FILES; do in_place_of $f; mkdir $f; echo x > $f/x; done"
    ),
    "a file in place of artifacts": Attack("in_place_of $A; echo x > $A"),
    "endless devices in place of files": Attack(
        "for f in $FILES $C/listed; do in_place_of $f; mknod $f c 1 5; done"
    ),
    "disks in place of files": Attack(
        "for f in $FILES $C/listed; do in_place_of $f; mknod $f b @DISK@; done"
    ),
    "sockets in place of files": python(
        "python3 - $FILES $C/listed <<'END'\n"
        "import os, socket, sys\n"
        "for path in sys.argv[1:]:\n"
        "    os.path.exists(path) and os.unlink(path)\n"
        "    os.chdir(os.path.dirname(path))\n"
        "    socket.socket(socket.AF_UNIX).bind(os.path.basename(path))\n"
        "END\n"
        "true"
    ),
    "a forged run.json": Attack(
        'echo "{\\"outcome\\": \\"succeeded\\"}" > $C/metadata/run.json; echo the end; exit 3',
        "failed",
    ),
    "files of a terabyte": Attack(
        "for f in $C/sparse repo/sparse $C/logs/runner.log; do truncate -s 1024G $f; done; exit 0",
        output="",
    ),
    "a tree of 4,000 levels": Attack(
        "cd $C; h=$(printf '%100s' | sed 's, ,d/,g'); i=0;"
        "while [ $i -lt 40 ]; do mkdir -p $h && cd -P $h; i=$((i+1)); done; echo x > bottom; cd /"
    ),
    "a tree of long names": Attack(
        "cd $C; n=$(printf '%250s' | tr ' ' n); i=0; unset OLDPWD;"
        "while [ $i -lt 60 ]; do mkdir $n && cd -P $n; i=$((i+1)); done; echo x > bottom; cd /"
    ),
    "50,000 files": Attack("mkdir $C/many; cd $C/many; seq 50000 | xargs touch"),
    "hostile names": Attack(
        "cd $C; touch -- -rf --help ..foo '...' ' ' '*' '$(reboot)' '`reboot`' ';reboot' 'a\\b';"
        "touch \"$(printf 'new\\nline')\" \"$(printf '\\033]0;title\\007\\033[2J')\";"
        "touch \"$(printf '\\377\\376')\" \"$(printf '%255s' | tr ' ' n)\";"
        "touch '](javascript:alert(1)) | <script>alert(1)<'; mkdir -p -- '-d/..d'"
    ),
    "a race for the runner's files": Attack(
        "(while true; do for f in $FILES; do rm -rf $f ${f%/*}; ln -s @OUTSIDE@ ${f%/*};"
        " rm -f ${f%/*}; mkdir -p ${f%/*}; ln -s @FILE@ $f; done; done) & sleep 0.7"
    ),
    "everything removed": Attack(
        "rm -rf /work/agent_jobs/$JOB_ID/* /bin/l* /etc 2>/dev/null; true"
    ),
    "everything shut": Attack("chmod -R 0 /work/agent_jobs/$JOB_ID"),
    "programs with root's rights left behind": Attack(
        "cp /bin/busybox repo/su; chown 0:0 repo/su; chmod 6755 repo/su; cp -p repo/su $C/su"
    ),
    "a bomb of processes": Attack(
        "i=0; while [ $i -lt 200 ]; do sleep 60 & i=$((i+1)); done",
        "failed",
        output=None,
    ),
    "no end at SIGTERM": Attack(
        "trap '' TERM INT HUP; while true; do sleep 1; done",
        "timed-out",
        {"timeoutSeconds": 1, "stopGraceSeconds": 0},
        output="",
    ),
    "a process that stays when its parent is gone": Attack(
        "(setsid sh -c 'while true; do date >> '$C'/alive; sleep 0.05; done' &)"
    ),
    "a kill of everything": Attack("(kill -9 -1); sleep 60", "failed", output=""),
    "escapes and Markdown in the output": Attack(
        "printf '\\033]0;owned\\007\\033[2J\\033[31m![x](http://h/x.png)<img src=x>\\n';"
        "printf '```\\n# forged heading\\n````\\n\\033[1m| a | b |\\r\\n'; exit 7",
        "failed",
        output=None,
    ),
    "mounts": refused(
        """
        mount -t tmpfs tmpfs /mnt
        mount --bind / /mnt
        mount -t proc proc /mnt
        umount /proc
        unshare -m true
        chroot /proc/1/root true && test -e /var/lib/docker
        """
    ),
    "a way to the engine": refused(
        """
        test -e /var/run/docker.sock
        test -e /run/docker.sock
        find / -xdev -type s | grep .
        """
    ),
    "a look at other jobs": refused(
        """
        ls /work/agent_jobs | grep -v "^$JOB_ID$"
        ls -d /work/agent_jobs/.runs
        cat @OUTSIDE@/precious
        cat /work/agent_jobs/outside/precious
        cat ../outside/precious
        find / -xdev -name precious | grep .
        """
    ),
    "writes to the host's settings": refused(
        """
        echo 1 > /proc/sys/kernel/panic
        echo b > /proc/sysrq-trigger
        echo 1 > /sys/kernel/profiling
        echo 1 > $(find /sys/fs/cgroup -name memory.max -o -name memory.limit_in_bytes | head -n 1)
        mkdir $(dirname $(find /sys/fs/cgroup -name cgroup.procs | head -n 1))/evil
        hostname evil
        date -s 2001-01-01; test $(date +%Y) = 2001
        mknod /dev/disk b @DISK@ && dd if=/dev/disk of=/dev/null count=1
        head -c 1 /proc/kcore | grep .
        dmesg -c | grep .
        """
    ),
    "more rights by a setuid program": python(
        """
        cp $(readlink -f $(command -v python3)) /tmp/su; chmod 4755 /tmp/su
        python3 -c 'import os; os.setuid(1234); os.execv("/tmp/su", ["su", "-c", """
        """"import os; os.geteuid() or print(1)"])'
        """
    ),
}


@dataclass(frozen=True)
class Outside:
    """What lies beside the job folders, as the worker sees it."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "precious"

    def state(self) -> Any:
        return [
            (path.name, path.lstat().st_mode, path.lstat().st_mtime_ns, path.lstat().st_uid)
            for path in sorted((self.folder, *self.folder.rglob("*")))
        ] + [self.file.read_text()]


@pytest.fixture
def outside(jobs_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Outside:
    """A folder where a link out of a job's leads, with a secret that is the worker's as well."""
    folder = jobs_folder / "outside"
    for inner in ("logs", "metadata", "container/logs", "container/metadata"):
        (folder / inner).mkdir(parents=True, exist_ok=True)
        for name in ("runner.log", "execute.log", "run.json"):
            (folder / inner / name).write_text(SECRET)
    (folder / "precious").write_text(SECRET)
    monkeypatch.setenv("PRECIOUS", SECRET)
    return Outside(folder)


@pytest.fixture(scope="module")
async def few_processes(prefect_api: None) -> AsyncIterator[None]:
    """A policy with which a bomb of processes takes no time."""
    await ContainerPolicy(pids_limit=64).asave(POLICY_NAME, overwrite=True)
    yield
    async with get_client() as client:
        block = await client.read_block_document_by_name(
            POLICY_NAME, ContainerPolicy.get_block_type_slug()
        )
        await client.delete_block_document(block.id)


def disk_of(path: Path) -> str:
    """The numbers of the device that has the file system of `path`."""
    device = path.stat().st_dev
    return f"{os.major(device)} {os.minor(device)}"


async def told(run: Finished) -> str:
    """Everything that Prefect shows of a run."""
    id_ = UUID(run.job_id)
    async with get_client() as client:
        artifacts = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[id_]))
        )
        logs = await client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[id_])))
    parts = [run.message, *(str(each.data) for each in artifacts), *(log.message for log in logs)]
    return "\n".join(parts)


def is_in_a_file(text: str, folder: Path) -> bool:
    """Whether a file in `folder` has it, however deep, however large."""
    command = ["grep", "-r", "--devices=skip", "--quiet", "--fixed-strings", text, str(folder)]
    return subprocess.run(command, check=False).returncode == 0


@pytest.mark.usefixtures("few_processes")
@pytest.mark.parametrize("name", ATTACKS)
async def test_a_container_cannot(
    runner: Runner, jobs_folder: Path, outside: Outside, name: str
) -> None:
    attack, before = ATTACKS[name], outside.state()
    script = f"{PROLOGUE}{attack.script}"
    if attack.outcome == "succeeded" and "echo the end" not in script:
        script += "\necho the end"
    words = {"@OUTSIDE@": outside.folder, "@FILE@": outside.file, "@DISK@": disk_of(jobs_folder)}
    for word, value in words.items():
        script = script.replace(word, str(value))
    run = await runner(payload("sh", "-c", script, **attack.container))
    try:
        await see_that_nothing_came_of(attack, run)
        assert outside.state() == before
    finally:
        # Whatever was found: pytest's own removal of its folders goes no deeper than Python does.
        Workspace(jobs_folder, run.job_id).remove()
    assert not run.folder.exists()
    assert not list(jobs_folder.glob(".removed-*"))
    assert outside.state() == before
    assert stat.S_IMODE(jobs_folder.stat().st_mode) & 0o007 == 0


async def see_that_nothing_came_of(attack: Attack, run: Finished) -> None:
    # A search for it would go down every tree that the container made.
    facts = json.loads(run.file("container/metadata/run.json").read_text())
    assert (facts["outcome"], facts["cleanupError"]) == (attack.outcome, None), run.message
    assert facts["jobId"] == run.job_id
    assert facts["logs"]["complete"]
    if attack.output is not None:
        assert run.file("container/logs/runner.log").read_text() == attack.output
    assert "Ended" in run.file("logs/execute.log").read_text()
    shown = await told(run)
    assert SECRET not in shown
    assert "\x1b" not in run.message
    assert "Traceback" not in shown
    assert not is_in_a_file(SECRET, run.folder)
