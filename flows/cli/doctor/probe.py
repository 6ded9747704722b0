"""The payloads of two small tasks that try an engine out, and findings from how they ended.

The first reads a word that the worker wrote and writes one back, and tells which limits it is
under; the second wants more memory than it may have.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.cli.doctor.checkup import Finding, fault, ok, split_advice, warning
from flows.engine.docker.link_local import commands
from flows.outcome import Outcome, OutcomeName

WORKSPACE, LIMITS, METADATA, MEMORY_KILLS, IMAGE = (
    "workspace in a container",
    "limits of a container",
    "metadata service",
    "memory kills",
    "helper image",
)
_MEMORY_BYTES = 32 * 1024**2
_CPUS = 0.5
_PIDS = 64
# Where a container finds its limits of memory, swap, CPU and processes, by the version of cgroup.
_CGROUP_FILES = {
    2: ("memory.max", "memory.swap.max", "cpu.max", "pids.max"),
    1: (
        "memory/memory.limit_in_bytes",
        "memory/memory.memsw.limit_in_bytes",
        "cpu/cpu.cfs_quota_us",
        "pids/pids.max",
    ),
}
# Where every cloud has it.
_METADATA = "169.254.169.254"
_SCRIPT = f"""
echo "word=$(cat word)"
echo "$ANSWER" > answer
echo "disk_kib=$(df -Pk / | tail -n 1 | awk '{{print $4}}')"
if nc -w 2 {_METADATA} 80 < /dev/null > /dev/null 2>&1; then echo metadata=yes; fi
cd /sys/fs/cgroup
for file in {" ".join(name for names in _CGROUP_FILES.values() for name in names)}; do
  if [ -r "$file" ]; then echo "$file=$(cat "$file")"; fi
done
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a task: `told` has the lines `name=value` of its output, `answer` what it
    wrote back, as this process sees it; `not_reclaimed` why files of others are left."""

    outcome: Outcome
    told: Mapping[str, str]
    answer: str | None = None
    not_reclaimed: str | None = None


def limits_task(image: str, answer: str) -> dict[str, Any]:
    """The payload of the first task."""
    limits = {"memory": _MEMORY_BYTES, "cpus": _CPUS, "pids": _PIDS}
    return _task(image, ["sh", "-c", _SCRIPT], env={"ANSWER": answer}, resources=limits)


def memory_task(image: str) -> dict[str, Any]:
    """The payload of the second: dd makes its buffer in memory.

    It is killed three times, and the shell outlives it: containerd on cgroup v1 at times loses the
    kills of a container's first moment, and of its last process.
    """
    eat = f"dd if=/dev/zero of=/dev/null bs={4 * _MEMORY_BYTES} count=1; code=$?; sleep 0.5"
    command = ["sh", "-c", f"for n in 1 2 3; do {eat}; done; exit $code"]
    return _task(image, command, resources={"memory": _MEMORY_BYTES})


def answers(output: str) -> dict[str, str]:
    """The lines `name=value` of its output."""
    pairs = (line.partition("=") for line in output.splitlines())
    return {name: value for name, found, value in pairs if found}


def workspace_finding(ended: Ended, words: tuple[str, str], where: str) -> Finding:
    """Whether container and worker saw the same folder; `words` are what each was to read."""
    mend = (
        "run the worker on the engine's host with MOONMIND_WORKDIR at the same path on both, or "
        "put it into a volume and name that in MOONMIND_CONTAINER_WORKSPACE_VOLUME"
    )
    if ended.outcome.name is not OutcomeName.SUCCEEDED:
        return fault(WORKSPACE, f"a container with {where} ended: {ended.outcome.error}", mend)
    if ended.told.get("word") != words[0]:
        says = f"a container does not see in {where} what this process wrote there"
        return fault(WORKSPACE, says, mend)
    if ended.answer != words[1]:
        says = f"this process does not see in {where} what a container wrote there"
        return fault(WORKSPACE, says, mend)
    return ok(WORKSPACE, f"{where} is the same folder for a container and for this process")


def limits_finding(told: Mapping[str, str]) -> Finding:
    """Which limits the kernel of the engine's host holds a container to."""
    version = 2 if "memory.max" in told else 1
    memory, swap, cpu, pids = (told.get(name, "").split(" ")[0] for name in _CGROUP_FILES[version])
    limits = {
        "memory": memory == str(_MEMORY_BYTES),
        "CPU": cpu == str(round(_CPUS * 100_000)),
        "processes": pids == str(_PIDS),
    }
    if missing := [name for name, is_held in limits.items() if not is_held]:
        says = f"cgroup v{version} of the engine's host holds no container to: {', '.join(missing)}"
        mend = (
            "give the engine these cgroup controllers: a rootless one needs them delegated by "
            "systemd, some kernels need cgroup_enable=memory on their command line"
        )
        return fault(LIMITS, says, mend)
    if swap != ("0" if version == 2 else str(_MEMORY_BYTES)):
        says = f"cgroup v{version} limits memory, but not swap: a task may swap beyond its limit"
        mend = "boot the engine's host with swapaccount=1, or without swap"
        return warning(LIMITS, says, mend)
    return ok(LIMITS, f"memory, swap, CPU and processes hold, by cgroup v{version}")


def metadata_finding(told: Mapping[str, str], interface: str) -> Finding:
    """Whether a cloud's metadata service, which gives out credentials of the host, answers tasks;
    `interface` is that of their network."""
    if "metadata" not in told:
        return ok(METADATA, f"nothing answers tasks at {_METADATA}")
    rules = " && ".join(map(shlex.join, commands(interface)))
    says = f"one answers tasks at {_METADATA}, where clouds give out credentials of the host"
    return warning(METADATA, says, f"on the engine's host, as root: {rules}")


def memory_kill_finding(outcome: Outcome) -> Finding:
    """Whether the engine tells of a task that wanted too much memory."""
    if outcome.name is OutcomeName.OUT_OF_MEMORY:
        return ok(MEMORY_KILLS, "the engine tells of them")
    says = f"a container that wanted four times its memory ended {outcome.name}"
    mend = "such tasks will end failed in place of out-of-memory; see limits of a container"
    return warning(MEMORY_KILLS, says, mend)


def image_finding(outcome: Outcome, image: str) -> Finding:
    """Whether the image of the runner's own containers can be had."""
    if outcome.name is OutcomeName.IMAGE_ERROR:
        says, advice = split_advice(str(outcome.error))
        mend = "load it there, or name one that is there, with a shell, in MOONMIND_HELPER_IMAGE"
        return fault(IMAGE, says, f"{advice}; or {mend}" if advice else mend)
    return ok(IMAGE, f"{image} is there")


def _task(image: str, command: Sequence[str], **container: Any) -> dict[str, Any]:
    settings = {"enabled": True, "image": image, "command": list(command), "timeoutSeconds": 30}
    return {"task": {"container": {**settings, "pullTimeoutSeconds": 60, **container}}}
