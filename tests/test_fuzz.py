"""Ten thousand payloads that somebody bent: each is refused in a sentence, or harmless.

A generator of its own, because ten thousand examples of hypothesis take minutes; what it finds is
found again, as its numbers come from a seed.
"""

import copy
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from flows.engine.docker.guard import require_within
from flows.engine.docker.options import create_arguments
from flows.errors import PayloadError
from flows.payload.parse import parse, require_runnable
from flows.payload.policy import Policy
from flows.report.names import run_name
from tests.cpu import cpu_seconds, is_slow
from tests.specs import BIND, IMAGE, VOLUME, compiled
from tests.strategies import FULL, enabled

COUNT = 10_000
SEED = 20260203

RICH: dict[str, Any] = copy.deepcopy(FULL)
RICH["auth"] = {"repoAuthRef": "task-git"}
RICH["task"]["container"] |= {
    "entrypoint": ["/bin/sh", "-c"],
    "user": "1000:1000",
    "network": "none",
    "secrets": {"TOKEN": "task-token"},
    "stopGraceSeconds": 5,
    "pullTimeoutSeconds": 60,
    "retry": {"infrastructure": 1, "image": 1, "exitCodes": {"75": 1}},
    "resources": {"cpus": 1, "memory": "64m", "pids": 10, "shm": "1m"},
}

# Values, and at times keys, that have opened doors somewhere.
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**63, 2**70, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", " ", "\0", "\n", "\ud800", "\u202e", "ü" * 300, "x" * 200_000, "a,b", "a:b", "a=b",
    "/", "//", "/etc", "/proc/1/root", "/var/run/docker.sock", "..", "../..", "/work/agent_jobs",
    "/work/agent_jobs/../..", "<job_id>", "/work/agent_jobs/<job_id>/../other", "~root", "C:\\",
    "host", "container:db", "service:db", "bridge", "none", "default", "ns:/proc/1/ns/net",
    "root", "0", "0:0", "-1", "99999999999", "root:docker", "+0", "0x0",
    "-v", "--privileged", "--upload-pack=touch /tmp/x", "-oProxyCommand=touch /tmp/x",
    "ext::sh -c touch% /tmp/x", "file:///etc", "ssh://-oProxyCommand=x/y", "git@-x:y", "a@b:c",
    "git@a:b%2fc", "git@a:%2e%2e/x", "a.b/c/d", "cafe", "sha256:cafe",
    "https://user:pass@host/x", "https://host/x?token=1", "https://[::1", "http://127.0.0.1/",
    "busybox", "busybox@sha256:" + "0" * 64, "sha256:" + "0" * 64, "a/../b", "localhost/x",
    "$(id)", "`id`", "; id", "| id", "${IFS}", "%s%n", "{{ 7*7 }}", "{% raw %}", "<script>",
    "\x1b]0;x\x07", "' or 1=1 --", "__class__", "$ref", "__prefect_kind", "JOB_ID", "LD_PRELOAD",
    "mm-task-1", "moonmind.job_id", "task-x", "prod-x", "all", "max", "unlimited", "1e9g", "5m",
    "16g", "9223372036854775807", "\uff16\uff14m", "1.5g", "2Gi", "0.1k", "1.",
    "60", "60.0", " 2 ", 3600.0, "if-missing", "always",
    [], {}, [[]], [None], [""], ["a", 1], {"a": None}, {"": ""}, {"$ref": "#"}, {"a": {"a": {}}},
    {"__prefect_kind": "jinja", "template": "{{ x }}"}, {"TOKEN": "task-token"}, ["sh", "-c", "id"],
    {"name": "cache", "target": "/etc"}, [{"name": "/etc", "target": "/x"}],
)  # fmt: skip
KEYS = (
    "privileged", "network_mode", "networkMode", "pid_mode", "binds", "volumes", "devices",
    "cap_add", "capAdd", "ports", "restart", "cmd", "security_opt",
    "mounts", "labels", "name", "hostname", "runtime",
    "env", "secrets", "user", "network", "entrypoint", "image", "command", "resources", "retry",
    "cacheVolumes", "__proto__", "__class__", "$ref", "__prefect_kind", "", "a.b", "x" * 5000,
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value within `value`."""
    items: Any = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


def bent(chance: random.Random) -> Any:
    """A payload with one to four places exchanged, added, doubled or removed."""
    payload: Any = {"": copy.deepcopy(chance.choice([RICH, RICH, FULL, enabled()]))}
    for _ in range(chance.randint(1, 4)):
        place = chance.choice([path for path in places(payload) if path])
        owner = payload
        for key in place[:-1]:
            owner = owner[key]
        inside = owner[place[-1]]
        value = copy.deepcopy(chance.choice(HOSTILE))
        match chance.randint(0, 4):
            case 0 if isinstance(inside, dict):
                inside[chance.choice(KEYS)] = value
            case 1 if isinstance(inside, list):
                inside.insert(chance.randint(0, len(inside)), value)
            case 2 if isinstance(inside, str):
                other = str(chance.choice([each for each in HOSTILE if isinstance(each, str)]))
                cut = chance.randint(0, len(inside))
                owner[place[-1]] = inside[:cut] + other[:500] + inside[cut:]
            case 3 if len(place) > 1 and isinstance(owner, dict):
                del owner[place[-1]]
            case _:
                owner[place[-1]] = value
    return payload[""]


def verdict(raw: Any, chance: random.Random) -> str:
    """Accepted or refused; whatever is accepted stays within the policy to the last."""
    assert run_name(raw).isprintable()
    try:
        payload = parse(raw)
        require_runnable(payload)
        spec = compiled(raw, mount=chance.choice([BIND, VOLUME]))
    except PayloadError as error:
        faults = error.faults
    else:
        faults = ()
    if faults:
        assert all("\n" not in str(fault) for fault in faults), faults
        return "refused"
    assert parse(payload.canonical()) == payload
    version = chance.choice([(1, 41), (1, 45)])
    require_within(create_arguments(spec, IMAGE, version), spec, Policy())
    return "accepted"


@pytest.mark.thorough
def test_ten_thousand_bent_payloads_are_refused_in_a_sentence_or_harmless(
    record_property: Callable[[str, object], None],
) -> None:
    chance = random.Random(SEED)
    verdicts, slowest, slowest_seconds = Counter[str](), None, 0.0
    for _ in range(COUNT):
        payload = bent(chance)
        seconds = cpu_seconds(lambda: verdicts.update([verdict(payload, chance)]))  # noqa: B023
        if seconds > slowest_seconds:
            slowest, slowest_seconds = payload, seconds
    record_property("slowest_seconds", slowest_seconds)
    print(f"The slowest of {COUNT} payloads took {slowest_seconds:.3f} s of CPU.")  # noqa: T201
    assert not is_slow(lambda: verdict(slowest, chance), 0.2)
    assert verdicts.total() == COUNT
    # Were nearly all refused, or none, this would try nothing.
    assert min(verdicts.values()) > COUNT / 20, verdicts
