"""Payloads that newcomers get wrong, and what each of them is told: the table of a test and of a
page of the documentation, which `python -m tests.mistakes` writes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.host_mistakes import HOST_MISTAKES
from tests.runs import EAT_MEMORY

PAGE = Path(__file__).parent.parent / "docs" / "mistakes.md"
IMAGE = "busybox:1.36"


@dataclass(frozen=True)
class Mistake:
    """Keys of `task.container`, or of the payload, in place of a sound one's, and the message.

    In both, `busybox:1.36` and the hosts below example.org stand for what a test has of them.
    """

    what: str
    message: str
    container: dict[str, Any] = field(default_factory=dict)
    outside: dict[str, Any] = field(default_factory=dict)

    @property
    def payload(self) -> dict[str, Any]:
        """All of it."""
        sound = {"enabled": True, "image": IMAGE, "command": ["true"], "pull": "never"}
        task = {"container": {**sound, **self.container}, **self.outside.get("task", {})}
        return {**self.outside, "task": task}

    @property
    def written(self) -> str:
        """The part that matters, as JSON."""
        return json.dumps(self.container or self.outside)[1:-1]


PAYLOAD = [
    Mistake(
        "A key is misspelt",
        "task.container.timeoutSecs: is not a key that exists here; did you mean 'timeoutSeconds'?",
        {"timeoutSecs": 60},
    ),
    Mistake(
        "The image has capital letters",
        "task.container.image: is 'mcr.microsoft.com/DotNet/SDK:8.0', not an image name: what "
        "stands before the tag is lower-case; it takes an image name, name[:tag][@sha256:digest], "
        "such as python:3.12-slim",
        {"image": "mcr.microsoft.com/DotNet/SDK:8.0"},
    ),
    Mistake(
        "The image is an address",
        "task.container.image: is 'https://registry.example.org/team/sdk:8', not an image name: "
        "leave 'https://' out; it takes an image name, name[:tag][@sha256:digest], such as "
        "python:3.12-slim",
        {"image": "https://registry.example.org/team/sdk:8"},
    ),
    Mistake(
        "The command is one string",
        "task.container.command: is not an array; it takes a non-empty array of strings, such as "
        '["bash", "-lc", "make test"]: the program, then each of its arguments',
        {"command": "make test"},
    ),
    Mistake(
        "A variable is a number",
        "task.container.env.BUILD: is not a string: put it in double quotes; it takes an object "
        'of string to string, such as {"CI": "1"}',
        {"env": {"BUILD": 42}},
    ),
    Mistake(
        "A variable is the runner's own",
        "task.container.env.ARTIFACT_DIR: is reserved: the runner sets JOB_ID, REPOSITORY, "
        "ARTIFACT_DIR itself; leave it out, or give yours another name; it takes an object of "
        'string to string, such as {"CI": "1"}',
        {"env": {"ARTIFACT_DIR": "/out"}},
    ),
    Mistake(
        "A cache is a path of the host",
        "task.container.cacheVolumes[0].name: is '/home/me/.nuget', not a volume name: letters, "
        "digits, '_', '.' and '-', two or more, beginning with a letter or digit; it takes a named "
        "volume's name, never a host path",
        {"cacheVolumes": [{"name": "/home/me/.nuget", "target": "/cache"}]},
    ),
    Mistake(
        "The memory is too small",
        "task.container.resources.memory: is '2m', outside what Docker can set; it takes bytes, or "
        "a number with a unit, such as 512m, 1.5g or 16Gi; at least 6m",
        {"resources": {"memory": "2m"}},
    ),
    Mistake(
        "The time limit is a text",
        "task.container.timeoutSeconds: is not a whole number; it takes a whole number of seconds "
        "from 1 to 2592000, which is 30 days",
        {"timeoutSeconds": "1h"},
    ),
    Mistake(
        "A port is to be published",
        "task.container.ports: is refused on purpose: no port of a task is published on the host; "
        "what its command starts, it has at localhost",
        {"ports": ["8080:80"]},
    ),
    Mistake(
        "The repository has no scheme",
        "repository: is neither a git URL nor owner/name: put https:// before it; it takes an "
        "https, http, ssh or git URL, user@host:path, or owner/name on GitHub",
        outside={"repository": "gitlab.com/team/game"},
    ),
    Mistake(
        "The network is the host's",
        "task.container.network: is 'host', the host's own network, which no task gets; it takes "
        "none, bridge, or the name of a network that the policy allows",
        {"network": "host"},
    ),
    Mistake(
        "The working directory is relative",
        "task.container.workdir: is 'src', not an absolute path without '..'; it takes an absolute "
        "path inside the container; <job_id> stands for the run's id",
        {"workdir": "src"},
    ),
    Mistake(
        "`enabled` is missing",
        "task.container.enabled: is not true: this runner runs container tasks only; set it to "
        "true and give an image and a command, or send the task to another queue",
        {"enabled": None},
    ),
    Mistake(
        "The repository is a folder",
        "repository: is neither a git URL nor owner/name; it takes an https, http, ssh or git URL, "
        "user@host:path, or owner/name on GitHub",
        outside={"repository": "/home/me/game"},
    ),
    Mistake(
        "The changes are to be pushed",
        "task.publish.mode: is 'pr', which this runner cannot do yet: use 'none' and take the "
        "files from the run's artifacts",
        outside={"task": {"publish": {"mode": "pr"}}},
    ),
]
HOST = [
    Mistake(
        "The policy does not allow the secret",
        "task.container.secrets.TOKEN: nuget is not allowed by the container policy "
        "(allowed_secrets: task-*): choose one that is, or have an operator change "
        "allowed_secrets in the block moonmind-container-policy/default",
        {"secrets": {"TOKEN": "nuget"}},
    ),
    Mistake(
        "There is no such secret",
        "task.container.secrets.TOKEN: there is no Secret block named 'task-nuget' on this server: "
        "create it under Blocks in the UI, or correct the name",
        {"secrets": {"TOKEN": "task-nuget"}},
    ),
    Mistake(
        "The worker lacks a capability",
        "this worker lacks the capability unity that the task requires (it has docker, git): send "
        "the task to a worker that has it, or add it to MOONMIND_WORKER_CAPABILITIES",
        outside={"requiredCapabilities": ["unity"]},
    ),
    Mistake(
        "The host has fewer processors",
        "Docker refused while creating the container: Range of CPUs is from 0.01 to 2.00, as there "
        "are only 2 CPUs available; lower task.container.resources.cpus, or send the task to a "
        "larger host",
        {"resources": {"cpus": 4096}},
    ),
]
REPOSITORY = [
    Mistake(
        "The branch does not exist",
        "git://git.example.org/game cannot be checked out: fatal: couldn't find remote ref "
        "release-2; check that the repository and the ref in task.git.startingBranch exist, and "
        "that this worker may read them, with the Repository Credentials block in "
        "auth.repoAuthRef if need be",
        outside={
            "repository": "git://git.example.org/game",
            "task": {"git": {"startingBranch": "release-2"}},
        },
    ),
    Mistake(
        "The repository is private",
        "http://code.example.org/game cannot be checked out: fatal: Authentication failed for "
        "'http://code.example.org/game/'; check that the repository and the ref in "
        "task.git.startingBranch exist, and that this worker may read them, with the Repository "
        "Credentials block in auth.repoAuthRef if need be",
        outside={"repository": "http://code.example.org/game"},
    ),
    Mistake(
        "The checkout has no such folder",
        "task.container.workdir: there is no folder /work/agent_jobs/<job_id>/repo/src in the "
        "job's folder after the checkout; correct it, or leave it out to start in the repository",
        {"workdir": "/work/agent_jobs/<job_id>/repo/src"},
    ),
]
IMAGES = [
    Mistake(
        "The tag does not exist",
        "cannot pull the image registry.example.org/team/sdk:9: manifest for "
        "registry.example.org/team/sdk:9 not found: manifest unknown: manifest unknown; check the "
        "name and the tag, and that registry.example.org has them",
        {"image": "registry.example.org/team/sdk:9", "pull": "if-missing"},
    ),
    Mistake(
        "The image is private",
        "cannot pull the image private.example.org/team/sdk:8: Head "
        '"http://private.example.org/v2/team/sdk/manifests/8": no basic auth credentials; check '
        "the name, and that the Docker Registry Credentials block for private.example.org, or else "
        "the worker's docker login, may read it",
        {"image": "private.example.org/team/sdk:8", "pull": "if-missing"},
    ),
    Mistake(
        "The image may not be pulled",
        "the image registry.example.org/team/sdk:8 is not on this host and task.container.pull is "
        "'never': load it there, or let the task pull it with 'if-missing'",
        {"image": "registry.example.org/team/sdk:8", "pull": "never"},
    ),
    Mistake(
        "The image is for another platform",
        "the image busybox:1.36 is made for linux/amd64, not for linux/arm64; task.container.pull "
        "is 'never': let the task pull it with 'if-missing'",
        {"platform": "linux/arm64", "pull": "never"},
    ),
    Mistake(
        "The image has no such folder",
        "the image busybox:1.36 has no folder /app: correct task.container.workdir, or leave it "
        "out to start in the repository",
        {"workdir": "/app"},
    ),
]
COMMANDS = [
    Mistake(
        "The image has no such command",
        "exited 127, which usually means that a command was not found: check that 'dotnet', and "
        "what it calls, is in the image busybox:1.36. Its last line: [FATAL tini (7)] exec dotnet "
        "failed: No such file or directory",
        {"command": ["dotnet", "test"]},
    ),
    Mistake(
        "The command is a line for a shell",
        "exited 127, as no program has the name 'make && make test': in task.container.command, "
        "give each word as a string of its own, or the line to a shell, as in "
        '["sh", "-c", "…"]. Its last line: [FATAL tini (7)] exec make && make test failed: No such '
        "file or directory",
        {"command": ["make && make test"]},
    ),
    Mistake(
        "The command is not executable",
        "exited 126, which usually means that a file is not executable: check the permissions of "
        "'/etc/passwd' and of what it calls. Its last line: [FATAL tini (7)] exec /etc/passwd "
        "failed: Permission denied",
        {"command": ["/etc/passwd"]},
    ),
    Mistake(
        "The time limit is too short",
        "ran longer than its limit of 1 s and was stopped: raise task.container.timeoutSeconds, or "
        "see in runner.log where the time went",
        {"command": ["sleep", "60"], "timeoutSeconds": 1},
    ),
    Mistake(
        "The memory limit is too small",
        "ran out of memory at its limit of 16 MiB: raise task.container.resources.memory. Its last "
        "line: Killed",
        {
            "command": ["sh", "-c", f"{EAT_MEMORY}; exit 1"],
            "resources": {"memory": "16m"},
        },
    ),
]
SECTIONS = {
    "The payload": PAYLOAD,
    "The worker and its policy": HOST,
    "The repository": REPOSITORY,
    "The image": IMAGES,
    "The command": COMMANDS,
}
MISTAKES = [mistake for section in SECTIONS.values() for mistake in section]


def page() -> str:
    """The page of the documentation."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    yield from [
        "# What a wrong payload or host is told",
        "",
        "Each of these payloads is run by a test (`tests/test_mistakes.py`), and each message is "
        "what its run's state says: what is wrong, where, and what to do. A payload is checked "
        "before anything is made for it, with all its faults at once; `container-task check` tells "
        "those of the first section before it is submitted. What is wrong with a host, "
        "`container-task doctor` tells: the last section.",
    ]
    for title, mistakes in SECTIONS.items():
        yield from ["", f"## {title}"]
        for each in mistakes:
            yield from ["", f"**{each.what}.** `{each.written}`", "", f"> {_quoted(each.message)}"]
    yield from ["", "## The host", ""]
    yield (
        "This is what doctor finds, and after the arrow, what to do. Its tests "
        "(`tests/test_doctor.py`, `tests/test_doctor_server.py`) hold it to these words."
    )
    for wrong in HOST_MISTAKES:
        said = f"> {_quoted(wrong.says)}"
        yield from ["", f"**{wrong.what}.**", "", said, ">", f"> → {_quoted(wrong.mend)}"]


def _quoted(message: str) -> str:
    """As Markdown shows it, character by character."""
    return "".join(f"\\{each}" if each in "\\`*<" else each for each in message)


if __name__ == "__main__":
    PAGE.write_text(page())
