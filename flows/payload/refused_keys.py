"""Keys of `docker run`, Compose and Kubernetes that no payload has: why, and what there is instead.

Each text completes the sentence "<JSON path> …".
"""

from collections.abc import Mapping
from difflib import get_close_matches

_MOUNTS = (
    "no path of the host is mounted into a task: the checkout is its working directory, "
    "cacheVolumes outlive the run, and outputs are kept"
)
_RIGHTS = "rights beyond Docker's default are an operator's to give: cap_add in the policy block"
_NAMESPACES = "no task shares a namespace of the host or of another container"
_NAMES = "host names are resolved as the engine's host resolves them"
_ALONE = "a task is one container: what else it needs, its command starts"
_ENDS = "a task runs once and is removed: retry says when there is another attempt"
_TERMINAL = "a task has no terminal and no input"
_BUILD = "images are run and not built here: build it, push it to a registry, and name it in image"
_LOGS = "the runner reads the output itself, and keeps it as runner.log"
_NAMED = "the runner names and labels its containers itself"
_REASONS: Mapping[str, str] = {
    **dict.fromkeys(("volumes", "volume", "volumesfrom", "binds", "mounts", "mount"), _MOUNTS),
    "privileged": f"a privileged container is root on its host; {_RIGHTS}",
    **dict.fromkeys(("capadd", "capdrop", "capabilities", "securitycontext"), _RIGHTS),
    "securityopt": f"confinement is the engine's and the policy's; {_RIGHTS}",
    **dict.fromkeys(("device", "devices", "devicecgrouprules"), (
        "no device of the host is given to a task; for GPUs there is resources.gpus"
    )),
    **dict.fromkeys(("port", "ports", "publish", "expose"), (
        "no port of a task is published on the host; what its command starts, it has at localhost"
    )),
    **dict.fromkeys(("networkmode", "net", "networks"), (
        "there is network, which takes none, bridge, or a network that the policy allows"
    )),
    "ipc": f"{_NAMESPACES}; for shared memory there is resources.shm",
    **dict.fromkeys(("pid", "ipcmode", "pidmode", "uts", "userns", "usernsmode", "cgroup"),
                    _NAMESPACES),
    **dict.fromkeys(("cgroupns", "cgroupparent", "hostnetwork", "hostpid", "hostipc"), _NAMESPACES),
    **dict.fromkeys(("extrahosts", "addhost", "dns", "dnssearch", "dnsopt"), _NAMES),
    **dict.fromkeys(("links", "link", "dependson", "services", "sidecars", "initcontainers"),
                    _ALONE),
    **dict.fromkeys(("restart", "restartpolicy", "rm", "autoremove"), _ENDS),
    **dict.fromkeys(("tty", "stdin", "stdinopen", "interactive"), _TERMINAL),
    **dict.fromkeys(("build", "dockerfile"), _BUILD),
    **dict.fromkeys(("logging", "logdriver", "logopt"), _LOGS),
    **dict.fromkeys(("name", "containername", "labels", "label"), _NAMED),
    "imagepullsecrets": "log-ins of registries are an operator's to keep, in Docker Registry "
                        "Credentials blocks",
    "sysctls": "settings of the kernel are the host's",
    "runtime": "the engine's default runtime is used, which is an operator's choice",
    "envfile": "files with variables are not read: put them into env, and what is secret, secrets",
}  # fmt: skip
# What others call the keys that there are.
_SYNONYMS: Mapping[str, str] = {
    "environment": "env",
    "cmd": "command",
    "args": "command",
    "arguments": "command",
    "timeout": "timeoutSeconds",
    "workingdir": "workdir",
    "imagepullpolicy": "pull",
    "pullpolicy": "pull",
    "stopgraceperiod": "stopGraceSeconds",
    "gracetime": "stopGraceSeconds",
    "limits": "resources",
    "cpu": "resources.cpus",
    "ncpus": "resources.cpus",
    "mem": "resources.memory",
    "memlimit": "resources.memory",
    "memorylimit": "resources.memory",
    "pidslimit": "resources.pids",
    "shmsize": "resources.shm",
    "gpu": "resources.gpus",
    "caches": "cacheVolumes",
    "artifacts": "artifactsSubdir",
}


# Of `task.git`, what actions and runners of others have, and what is done here in any case.
_GIT: Mapping[str, str] = {
    "depth": "the checkout has one commit and no history",
    "lfs": "files of Git LFS stay the pointers that the repository has",
    "submodules": "submodules are not checked out",
    "tags": "tags are not fetched",
    "sparse": "all files are checked out",
    "startingBranch": "",
    "newBranch": "",
}
_GIT_SYNONYMS: Mapping[str, str] = {
    "fetchdepth": "depth",
    "clonedepth": "depth",
    "shallow": "depth",
    "fetchtags": "tags",
    "recursive": "submodules",
    "recursesubmodules": "submodules",
    "sparsecheckout": "sparse",
    "branch": "startingBranch",
    "ref": "startingBranch",
    "commit": "startingBranch",
    "tag": "startingBranch",
    "sha": "startingBranch",
}


def told(key: str) -> str | None:
    """Why `task.container` has no such key, or what it calls that; None where nothing is known."""
    plain = _plain(key)
    if text := _REASONS.get(plain):
        return f"is refused on purpose: {text}"
    word = _SYNONYMS.get(plain)
    return f"is not a key that exists here; did you mean {word!r}?" if word else None


def told_of_git(key: str) -> str | None:
    """What is said of an unknown key of `task.git`, which is kept; None where it is like none that
    anybody knows."""
    known = {_plain(name): name for name in _GIT}
    near = get_close_matches(_plain(key), known, n=1, cutoff=0.75)
    name = _GIT_SYNONYMS.get(_plain(key)) or (known[near[0]] if near else None)
    if name is None:
        return None
    done = _GIT[name]
    return f"has no effect: {done}" if done else f"has no effect; did you mean task.git.{name}?"


def _plain(key: str) -> str:
    """A key in the one spelling that the tables here have."""
    return key[:80].lower().replace("_", "").replace("-", "")
