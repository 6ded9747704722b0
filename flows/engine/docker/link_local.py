"""iptables rules that refuse what tasks send to link-local addresses, a cloud's metadata service
among them, where this process may set rules on the engine's own host.
"""

import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from threading import Lock

LINK_LOCAL = "169.254.0.0/16"
# What a host passes on, and what it answers itself. The first is Docker's, for rules of others.
_CHAINS = ("DOCKER-USER", "INPUT")
# Whoever loads a firewall anew takes the rules away.
_LOOK_AGAIN_SECONDS = 60.0
_SECONDS = 10
_lock = Lock()
_looked: dict[str, float] = {}


def commands(interface: str) -> list[list[str]]:
    """What a person may run in place of this, as root on the engine's host.

    Rejected and not dropped, as programs that look for a metadata service wait for an answer.
    """
    return [["iptables", "--insert", chain, *_rule(interface)] for chain in _CHAINS]


def refuse_link_local(interface: str) -> None:
    """Set the rules, where they are missing and may be set; `container-task doctor` tells of a
    metadata service that answers nevertheless."""
    # By its number: what /sys shows may be another network namespace's.
    with suppress(OSError):
        socket.if_nametoindex(interface)
        if os.geteuid() == 0 and (program := shutil.which("iptables", path=_search_path())):
            _refuse_now_and_then(program, interface)


def _refuse_now_and_then(program: str, interface: str) -> None:
    with _lock:
        now = time.monotonic()
        if now - _looked.get(interface, -_LOOK_AGAIN_SECONDS) < _LOOK_AGAIN_SECONDS:
            return
        for chain in _CHAINS:
            if not _runs(program, "--check", chain, *_rule(interface)):
                _runs(program, "--insert", chain, *_rule(interface))
        _looked[interface] = now


def _rule(interface: str) -> tuple[str, ...]:
    return ("--in-interface", interface, "--destination", LINK_LOCAL, "--jump", "REJECT")


def _runs(*command: str) -> bool:
    program, *words = command
    try:
        done = subprocess.run(
            [program, "--wait", "5", *words], capture_output=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _search_path() -> str:
    # Where root's own PATH leads and a service's may not.
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
