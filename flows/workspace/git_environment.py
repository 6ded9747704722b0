"""The environment of a git process, and its configuration in it (`GIT_CONFIG_COUNT`, as `-c`).

Credentials travel here alone: not in its arguments, which anyone on the host can list, and not in
`.git/config`, which the container can read.
"""

import base64
import os
from collections.abc import Mapping

from flows.payload.repository import Remote
from flows.workspace.git_access import GitAccess

_STALLED_SECONDS = 60
_AS_ANY_USER = GitAccess()
# Of the variables that are git's own, those by which an operator tells it about this host. All
# others name a repository, or say how to use it: a hook of the caller's sets these.
_OPERATORS = frozenset(
    {
        "GIT_ASKPASS",
        "GIT_CONFIG_GLOBAL",
        "GIT_CONFIG_NOSYSTEM",
        "GIT_CONFIG_SYSTEM",
        "GIT_EXEC_PATH",
        "GIT_HTTP_PROXY_AUTHMETHOD",
        "GIT_HTTP_USER_AGENT",
        "GIT_PROXY_COMMAND",
        "GIT_PROXY_SSL_CAINFO",
        "GIT_PROXY_SSL_CERT",
        "GIT_PROXY_SSL_CERT_PASSWORD_PROTECTED",
        "GIT_PROXY_SSL_KEY",
        "GIT_SSH",
        "GIT_SSH_COMMAND",
        "GIT_SSH_VARIANT",
        "GIT_SSL_CAINFO",
        "GIT_SSL_CAPATH",
        "GIT_SSL_CERT",
        "GIT_SSL_CERT_PASSWORD_PROTECTED",
        "GIT_SSL_CIPHER_LIST",
        "GIT_SSL_KEY",
        "GIT_SSL_NO_VERIFY",
        "GIT_SSL_VERSION",
    }
)


def git_environment(
    remote: Remote,
    *,
    pinned: bool,
    access: GitAccess = _AS_ANY_USER,
    callers: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """What git has in its environment to read `remote`; of `callers`, what is about this host."""
    config = _config(remote, pinned=pinned)
    return {
        "GIT_ASKPASS": "true",
        **{name: value for name, value in callers.items() if _passes(name)},
        **access.ssh_command(callers),
        **({"GIT_SSL_CAINFO": access.certificates} if access.certificates else {}),
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "http:https:ssh:git",
        "GIT_CONFIG_COUNT": str(len(config)),
        **{f"GIT_CONFIG_KEY_{i}": key for i, key in enumerate(config)},
        **{f"GIT_CONFIG_VALUE_{i}": value for i, value in enumerate(config.values())},
    }


def _passes(name: str) -> bool:
    # What is not git's may be a credential helper's, a proxy's, or the library of certificates'.
    return not name.startswith("GIT_") or name in _OPERATORS


def _config(remote: Remote, *, pinned: bool) -> dict[str, str]:
    """Stronger than all files of configuration."""
    config = {
        "http.lowSpeedLimit": "1000",
        "http.lowSpeedTime": str(_STALLED_SECONDS),
        "advice.detachedHead": "false",
        "gc.auto": "0",
        # One file, whose size `ulimit` bounds.
        "fetch.unpackLimit": "1",
        # Whose bytes are counted.
        "checkout.workers": "1",
        # What an operator has in files of configuration for repositories of their own. With
        # git-lfs installed, a stranger's `.lfsconfig` says where files are fetched from.
        "core.hooksPath": "/dev/null",
        "core.fsmonitor": "false",
        "submodule.recurse": "false",
        **{f"filter.lfs.{key}": "" for key in ("smudge", "clean", "process")},
        "filter.lfs.required": "false",
    }
    if pinned:
        # What it asks for first may by default be answered by another host.
        config["http.followRedirects"] = "false"
    if remote.url.startswith("http") and remote.username and not remote.secrets:
        # A public repository is closed to whoever shows a name without a password. This is for the
        # worker's credential helper, if the server asks.
        config[f"credential.{remote.url}.username"] = remote.username
    elif remote.url.startswith("http") and remote.secrets:
        pair = f"{remote.username}:{remote.password}".encode()
        header = f"Authorization: Basic {base64.b64encode(pair).decode()}"
        config[f"http.{remote.url}.extraHeader"] = header
    return config
