"""The queue payload: what is accepted, in which form, and what a refusal says."""

import copy
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given

from flows.errors import PayloadError
from flows.payload.compiler import compile_spec
from flows.payload.models import TaskPayload
from flows.payload.parse import parse, require_runnable
from flows.payload.policy import Policy
from flows.spec import Mount, Run
from tests.specs import faults
from tests.strategies import FULL, bounded, enabled, mutated_payloads, nonsense, valid_payloads

RETRY = {"infrastructure": 2, "image": 0, "exitCodes": {}}


def container(raw: object) -> Any:
    return parse(raw).canonical()["task"]["container"]


def test_the_canonical_form_fills_in_defaults_and_capabilities() -> None:
    expected = copy.deepcopy(FULL)
    expected["requiredCapabilities"] = ["docker", "git"]
    expected["task"]["container"]["resources"]["cpus"] = 8.0
    expected["task"]["container"] |= {
        "retry": RETRY, "pullTimeoutSeconds": 1800, "secrets": {}, "outputs": [],
    }  # fmt: skip
    assert parse(FULL).canonical() == expected


def test_what_is_left_out_gets_its_default() -> None:
    assert container(enabled()) == {
        "enabled": True,
        "image": "busybox",
        "command": ["true"],
        "env": {},
        "artifactsSubdir": "container",
        "resources": {},
        "pull": "if-missing",
        "cacheVolumes": [],
        "retry": RETRY,
        "pullTimeoutSeconds": 1800,
        "secrets": {},
        "outputs": [],
    }
    assert parse({}).canonical()["task"]["publish"] == {"mode": "none"}


@pytest.mark.parametrize(
    "key", ["workdir", "env", "artifactsSubdir", "timeoutSeconds", "resources", "pull",
            "cacheVolumes", "platform"],
)  # fmt: skip
def test_null_is_absent_in_a_container(key: str) -> None:
    assert container(enabled(**{key: None})) == container(enabled())


@pytest.mark.parametrize("key", ["task", "repository", "requiredCapabilities", "targetRuntime"])
def test_null_is_absent_at_the_top(key: str) -> None:
    assert parse({key: None}) == parse({})


def test_null_is_absent_deeper_down() -> None:
    nulls = enabled(resources={"cpus": None, "memory": None}, env={"A": None})
    nulls["task"] |= {"git": {"newBranch": None}, "publish": None, "skill": None}
    assert parse(nulls) == parse(enabled())


def test_a_required_key_that_is_null_is_missing() -> None:
    assert set(faults(enabled(image=None, command=None))) == {
        "task.container.image",
        "task.container.command",
    }


@pytest.mark.parametrize("value", [True, "true", "TRUE", " Yes ", "on", "y", "t", "1", 1])
def test_every_spelling_of_true_enables(value: object) -> None:
    assert container(enabled(enabled=value))["enabled"] is True


@pytest.mark.parametrize("value", [False, "false", "No", "off", "n", "f", "0", 0, None])
def test_every_spelling_of_false_disables(value: object) -> None:
    assert container({"task": {"container": {"enabled": value}}})["enabled"] is False


@pytest.mark.parametrize(
    ("raw", "derived"),
    [
        ({}, []),
        (enabled(), ["docker"]),
        ({"repository": "a/b"}, ["git"]),
        ({"task": {"publish": {"mode": "pr"}}}, ["gh"]),
        ({"task": {"publish": {"mode": "branch"}}}, []),
        ({"targetRuntime": " Codex "}, ["codex"]),
        ({"task": {"skill": {"requiredCapabilities": ["Unity", "gpu"]}}}, ["unity", "gpu"]),
        (
            enabled() | {"requiredCapabilities": ["GPU", "gpu ", "Docker"], "repository": "a/b"},
            ["gpu", "docker", "git"],
        ),
    ],
)
def test_capabilities_follow_from_the_task(raw: object, derived: list[str]) -> None:
    assert parse(raw).canonical()["requiredCapabilities"] == derived


def test_unknown_keys_outside_a_container_are_kept_as_they_are() -> None:
    extra = {"kept": [1, {"nested": None}], "UPPER_case": "x"}
    raw = enabled() | {"auth": extra}
    raw["task"] |= {"runtime": extra, "git": {"depth": extra}}
    canonical = parse(raw).canonical()
    assert canonical["auth"] == extra
    assert canonical["task"]["runtime"] == extra
    assert canonical["task"]["git"] == {"depth": extra}


def test_a_command_arrives_verbatim() -> None:
    command = ["", " a  b ", "$(id)", "line\nline", "--flag=ü", "'\"\\"]
    assert container(enabled(command=command))["command"] == command


@pytest.mark.parametrize(
    ("given_as", "canonical"),
    [("512m", "512m"), ("16G", "16g"), (" 2 GiB ", "2g"), ("1gb", "1g"), (6291456, "6291456"),
     ("6291456b", "6291456"), ("1t", "1t"), ("6144K", "6144k"), ("512Mi", "512m"), ("2Gi", "2g"),
     ("512MiB", "512m"), ("1GB", "1g"), ("1.5g", "1536m"), ("1.5 GiB", "1536m"), ("2.0g", "2g"),
     ("0.5t", "512g"), ("0.01g", "10737418"), (1073741824.0, "1073741824"),
     ("1073741824.0", "1073741824"),     ("1024m", "1024m")],
)  # fmt: skip
def test_memory_is_canonical(given_as: object, canonical: str) -> None:
    assert container(enabled(resources={"memory": given_as}))["resources"]["memory"] == canonical


@pytest.mark.parametrize(
    ("container", "canonical"),
    [
        ({"timeoutSeconds": 3600.0}, {"timeoutSeconds": 3600}),
        ({"timeoutSeconds": "3600"}, {"timeoutSeconds": 3600}),
        ({"stopGraceSeconds": "0"}, {"stopGraceSeconds": 0}),
        ({"pullTimeoutSeconds": 60.0}, {"pullTimeoutSeconds": 60}),
        ({"resources": {"cpus": "2"}}, {"resources": {"cpus": 2.0}}),
        ({"resources": {"cpus": " 1.5 "}}, {"resources": {"cpus": 1.5}}),
        ({"resources": {"pids": "9"}}, {"resources": {"pids": 9}}),
        ({"resources": {"gpus": 2.0}}, {"resources": {"gpus": 2}}),
        ({"resources": {"gpus": "2"}}, {"resources": {"gpus": 2}}),
        ({"retry": {"infrastructure": "1", "image": 1.0, "exitCodes": {"75": "2"}}},
         {"retry": {"infrastructure": 1, "image": 1, "exitCodes": {"75": 2}}}),
    ],
)  # fmt: skip
def test_a_number_in_quotes_and_a_whole_one_with_a_point_are_numbers(
    container: Any, canonical: Any
) -> None:
    found = parse(enabled(**container)).canonical()["task"]["container"]
    assert {key: found[key] for key in canonical} == canonical
    assert json.dumps(found[next(iter(canonical))]) == json.dumps(next(iter(canonical.values())))


@pytest.mark.parametrize(
    ("key", "name"),
    [("image", "python:3.12"), ("user", "1000:1000"), ("network", "none"),
     ("platform", "linux/amd64")],
)  # fmt: skip
@pytest.mark.parametrize("blanks", [("", " "), ("", "\n"), ("\t", "\r\n"), ("\xa0", "\u2028")])
def test_white_space_around_a_name_is_no_part_of_it(
    key: str, name: str, blanks: tuple[str, str]
) -> None:
    before, after = blanks
    assert container(enabled(**{key: before + name + after}))[key] == name


def test_white_space_around_a_repository_a_ref_a_volume_and_a_block_is_no_part_of_them() -> None:
    raw = enabled(secrets={"A": "task-a\n"}, cacheVolumes=[{"name": " nuget ", "target": "/c"}])
    raw |= {"repository": " https://example.org/a.git\n"}
    raw["task"]["git"] = {"startingBranch": "main\n"}
    payload = parse(raw)
    assert payload.repository == "https://example.org/a.git"
    assert payload.task.git.starting_branch == "main"
    assert payload.task.container.cache_volumes[0].name == "nuget"
    assert payload.task.container.secrets == {"A": "task-a"}


@pytest.mark.parametrize(
    "image",
    ["python", "python:3.12-slim", "library/python", "localhost:5000/a/b_c/d__e-f.g:T_1.x-y",
     "ghcr.io/o/n@sha256:" + "a" * 64, "ghcr.io/o/n:v1@sha256:" + "0" * 64, "a.b.c/x"],
)  # fmt: skip
def test_an_image_name_is_kept(image: str) -> None:
    assert container(enabled(image=image))["image"] == image


@pytest.mark.parametrize("ref", ["main", "feature/a-b_c.d", "v1.2.3", "0" * 40, "é/ü", "a@b"])
def test_a_branch_tag_or_commit_is_kept(ref: str) -> None:
    assert parse({"task": {"git": {"startingBranch": ref}}}).task.git.starting_branch == ref


@pytest.mark.parametrize(
    "repository",
    ["https://example.org/team/game.git", "http://git.internal:3000/a", "ssh://git@host:22/a.git",
     "git://host/a", "git@github.com:team/game.git", "deploy_1@host:~/a", "team/game",
     "octo_corp/.github", "https://user:pa%40ss@host/a", "https://[::1]/a", "HTTPS://Host/a",
     "git@ssh.dev.azure.com:v3/org/my%20proj/repo",
     "https://org@dev.azure.com/org/my%20proj/_git/repo"],
)  # fmt: skip
def test_a_repository_on_the_network_is_kept(repository: str) -> None:
    assert parse({"repository": repository}).canonical()["repository"] == repository


def test_a_task_without_a_container_is_valid_and_not_for_this_runner() -> None:
    with pytest.raises(PayloadError, match="this runner runs container tasks only"):
        require_runnable(parse({"targetRuntime": "codex", "task": {"runtime": {"mode": "codex"}}}))


@pytest.mark.parametrize("mode", ["branch", "pr"])
def test_publishing_is_valid_and_not_built_yet(mode: str) -> None:
    raw = enabled()
    raw["task"]["publish"] = {"mode": mode}
    with pytest.raises(PayloadError, match=r"task\.publish\.mode: is '\w+', which .* yet"):
        require_runnable(parse(raw))


def test_a_payload_that_is_parsed_already_stays_as_it_is() -> None:
    payload = parse(FULL)
    assert parse(payload) is payload


@bounded(150)
@given(valid_payloads)
def test_normalising_twice_is_normalising_once(raw: Any) -> None:
    before = copy.deepcopy(raw)
    once = parse(raw)
    assert raw == before
    canonical = once.canonical()
    assert parse(canonical) == once
    assert parse(canonical).canonical() == canonical
    assert parse(json.loads(json.dumps(canonical))) == once


@bounded(300)
@given(nonsense)
def test_no_nonsense_raises_anything_but_a_payload_error(raw: object) -> None:
    _parse_or_refuse(raw)


@bounded(300)
@given(mutated_payloads())
def test_whatever_is_accepted_names_no_host_path_and_is_stable(raw: object) -> None:
    payload = _parse_or_refuse(raw)
    if payload is None:
        return
    assert parse(payload.canonical()).canonical() == payload.canonical()
    if payload.task.container.enabled:
        job = Mount("bind", "/jobs/1", "/work/agent_jobs/1")
        spec = compile_spec(
            payload,
            Policy(),
            job,
            Run("1", 1, "host", datetime.now(UTC)),
            default_timeout_seconds=60,
        )
        assert spec.mounts[0] is job
        for mount in spec.mounts[1:]:
            assert mount.kind == "cache"
            assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]+", mount.source)


def _parse_or_refuse(raw: object) -> TaskPayload | None:
    try:
        return parse(raw)
    except PayloadError as error:
        refusal = error
    assert refusal.faults
    assert all(fault.path and fault.message for fault in refusal.faults)
    assert str(refusal).encode()
    return None
