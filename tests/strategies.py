"""Payloads for tests that need no engine: a full one, any valid one, and any nonsense."""

import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from flows.payload.process import RESERVED_ENV

FULL: dict[str, Any] = {
    "repository": "https://example.org/team/game.git",
    "requiredCapabilities": ["docker"],
    "task": {
        "instructions": "Run the unit tests",
        "git": {"startingBranch": "main"},
        "publish": {"mode": "none"},
        "container": {
            "enabled": True,
            "image": "mcr.microsoft.com/dotnet/sdk:8.0",
            "command": ["bash", "-lc", "dotnet test ./Game.sln --logger junit"],
            "workdir": "/work/agent_jobs/<job_id>/repo",
            "env": {"DOTNET_CLI_TELEMETRY_OPTOUT": "1"},
            "artifactsSubdir": "container",
            "timeoutSeconds": 3600,
            "resources": {"cpus": 8, "memory": "16g"},
            "pull": "if-missing",
            "cacheVolumes": [{"name": "nuget_cache", "target": "/home/app/.nuget/packages"}],
        },
    },
}


def enabled(**container: Any) -> dict[str, Any]:
    """The smallest payload that runs; keyword arguments are keys of `task.container`."""
    smallest = {"enabled": True, "image": "busybox", "command": ["true"]}
    return {"task": {"container": smallest | container}}


def bounded(examples: int) -> settings:
    """So many examples and no more."""
    return settings(max_examples=examples)


_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_name = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True)
_segment = st.from_regex(r"[a-z0-9]{1,9}", fullmatch=True)
_path = st.lists(_segment, min_size=1, max_size=3).map("/".join)
_volumes = st.dictionaries(
    st.from_regex(r"[a-z0-9][a-zA-Z0-9_.-]{1,9}", fullmatch=True),
    _path.map("/cache/{}".format),
    max_size=3,
).filter(lambda volumes: len(set(volumes.values())) == len(volumes))

containers = st.fixed_dictionaries(
    {
        "enabled": st.sampled_from([True, "true", "yes", 1, "on"]),
        "image": st.builds(
            "{}/{}:{}{}".format, _segment, _segment, _segment, st.sampled_from(["", " ", "\n"])
        ),
        "command": st.lists(_text, min_size=1, max_size=4),
    },
    optional={
        "workdir": _path.map("/{}".format) | st.just("/work/agent_jobs/<job_id>/repo") | st.none(),
        "env": st.dictionaries(
            _name.filter(lambda name: name not in RESERVED_ENV), _text | st.none(), max_size=4
        ),
        "entrypoint": st.lists(_text, max_size=3) | st.none(),
        "user": st.sampled_from(["0", "1000:1000", "app", "app:users", None]),
        "network": st.sampled_from(["none", "bridge", None]),
        "secrets": st.dictionaries(
            _name.map("SECRET_{}".format), _segment.map("task-{}".format) | st.none(), max_size=2
        ),
        "artifactsSubdir": _path | st.none(),
        "timeoutSeconds": st.integers(1, 2_592_000) | st.none() | st.sampled_from([3600.0, "60"]),
        "resources": st.fixed_dictionaries(
            {},
            optional={
                "cpus": st.floats(0.01, 4096) | st.integers(1, 64) | st.sampled_from(["2", "0.5"]),
                "memory": st.sampled_from(
                    [
                        "512m",
                        "16G",
                        "8GiB",
                        " 1gb",
                        2**30,
                        "16777216",
                        "1.5g",
                        "512Mi",
                        "2Gi",
                        "0.3g",
                        2.0**30,
                    ]
                ),
                "pids": st.integers(1, 4096) | st.none(),
                "shm": st.sampled_from(["64m", "1G", 4096, None]),
            },
        ),
        "pull": st.sampled_from(["if-missing", "always", "never", None]),
        "platform": st.sampled_from(["linux/amd64", "Linux/ARM64/v8", "linux/386", None]),
        "cacheVolumes": _volumes.map(
            lambda volumes: [{"name": name, "target": path} for name, path in volumes.items()]
        ),
    },
)

valid_payloads = st.fixed_dictionaries(
    {
        "task": st.fixed_dictionaries(
            {"container": containers},
            optional={
                "instructions": _text,
                "git": st.fixed_dictionaries({}, optional={"startingBranch": _path}),
                "publish": st.fixed_dictionaries({"mode": st.sampled_from(["none", "pr"])}),
                "skill": st.fixed_dictionaries({"requiredCapabilities": st.lists(_segment)}),
                "runtime": _text,
            },
        )
    },
    optional={
        "repository": st.sampled_from(
            [
                "team/game",
                "https://u:secret@example.org/a.git",
                "git@example.org:a/b.git",
                "git@ssh.dev.azure.com:v3/org/my%20proj/repo",
                "team/game\n",
            ]
        ),
        "requiredCapabilities": st.lists(_name),
        "targetRuntime": _name,
        "auth": st.dictionaries(_name, st.none() | st.booleans() | _text)
        | st.fixed_dictionaries({"repoAuthRef": _segment.map("task-{}".format)}),
    },
)

_strange_text = st.text(st.characters(), max_size=20) | st.sampled_from(
    ["", "\0", "\ud800", "../../etc", "/etc", "/var/run/docker.sock", "$ref", "-v", "a:b", "true"]
)
_keys = _strange_text | st.sampled_from(
    [
        "task",
        "container",
        "env",
        "enabled",
        "image",
        "privileged",
        "binds",
        "ports",
        "networkMode",
        "__prefect_kind",
        "network",
        "user",
        "entrypoint",
        "secrets",
        "repoAuthRef",
    ]
)
_strange = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    _strange_text,
    st.binary(max_size=8),
    st.sampled_from(
        [object(), {1, 2}, frozenset(), ..., range(3), len, Path("/etc"), datetime.now(UTC),
         2**70, -(2**64), 1e308, complex(1, 2)]
    ),
)  # fmt: skip
nonsense = st.recursive(
    _strange,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(_keys, inner, max_size=4)
        | st.dictionaries(st.integers() | st.none(), inner, max_size=2)
        | st.tuples(inner)
    ),
    max_leaves=12,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return [path, *(place for key, item in items for place in _places(item, (*path, key)))]


@st.composite
def mutated_payloads(draw: st.DrawFn) -> Any:
    """A valid payload with nonsense in one or more of its places."""
    payload: Any = {"": copy.deepcopy(draw(valid_payloads))}
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from([path for path in _places(payload) if path]))
        target = payload
        for key in place[:-1]:
            target = target[key]
        inside = target[place[-1]]
        if isinstance(inside, dict) and draw(st.booleans()):
            inside[draw(_keys)] = draw(nonsense)
        else:
            target[place[-1]] = draw(nonsense)
    return payload[""]
