"""OpenSSH's server on a free port of loopback, which lets one key read repositories by git."""

import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.stack import free_port
from tests.runs import until

_PROGRAM = "/usr/sbin/sshd"
_SERVICE = 'command="git-shell -c \\"$SSH_ORIGINAL_COMMAND\\"",restrict'


@dataclass(frozen=True)
class SshServer:
    """Where it is, its host key as a line of `known_hosts`, and the key that it takes."""

    port: int
    known_hosts: str
    key: Path

    @property
    def address(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"


def make_key(path: Path, passphrase: str = "") -> Path:
    """A key pair: `path`, and `path` with `.pub` at its end."""
    words = ["-q", "-t", "ed25519", "-N", passphrase, "-C", "test", "-f", str(path)]
    subprocess.run(["ssh-keygen", *words], check=True)
    return path


def as_known_host(port: int, key: Path) -> str:
    kind, public, _ = key.with_suffix(".pub").read_text().split()
    return f"[127.0.0.1]:{port} {kind} {public}\n"


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """Start one of its own, with all its files in `folder`, and stop it."""
    if shutil.which(_PROGRAM) is None:
        if "CI" in os.environ:
            pytest.fail("openssh-server is not installed")
        pytest.skip("openssh-server is not installed: install it, or run scripts/test")
    host_key, key, port = make_key(folder / "host"), make_key(folder / "user"), free_port()
    public = key.with_suffix(".pub").read_text()
    (folder / "authorized_keys").write_text(f"{_SERVICE} {public}")
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": host_key,
        "AuthorizedKeysFile": folder / "authorized_keys",
        "AllowUsers": getpass.getuser(),
        "PermitRootLogin": "prohibit-password",
        "AuthenticationMethods": "publickey",
        "PidFile": "none",
        # The folder of a test is not a home.
        "StrictModes": "no",
        "UsePAM": "no",
    }
    (folder / "config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    # Root's server wants it, though it puts nothing there.
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (folder / "log").open("wb") as log:
        command = [_PROGRAM, "-D", "-e", "-f", str(folder / "config")]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until(lambda: "listening" in (folder / "log").read_text() or bool(process.poll()))
            assert process.poll() is None, (folder / "log").read_text()
            yield SshServer(port, as_known_host(port, host_key), key)
        finally:
            process.terminate()
            process.wait()
