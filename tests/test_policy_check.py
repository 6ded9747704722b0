"""What a policy forbids: every rule by itself, and what each refusal tells the sender."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.errors import PolicyRefused
from flows.payload.parse import parse
from flows.payload.policy import Policy
from flows.payload.policy_check import is_allowed, require_allowed
from flows.payload.repository import Remote
from tests.glob_oracle import means
from tests.strategies import bounded, enabled

DIGEST = "sha256:" + "a" * 64


def refused(raw: object, **policy: Any) -> dict[str, str]:
    """The refusal of `raw`: message by JSON path."""
    with pytest.raises(PolicyRefused) as refusal:
        require_allowed(parse(raw), Policy(**policy))
    return {fault.path: fault.message for fault in refusal.value.faults}


def allowed(raw: object, **policy: Any) -> None:
    require_allowed(parse(raw), Policy(**policy))


@pytest.mark.parametrize(
    ("image", "glob"),
    [
        ("busybox", "*"),
        ("busybox", "busybox"),
        ("busybox:1.36", "busybox"),
        ("busybox:1.36", "busybox:1.*"),
        ("busybox:1.36", "docker.io/library/*"),
        ("docker.io/team/app", "team/*"),
        ("team/app:1", "docker.io/team/*"),
        ("ghcr.io/team/app:1", "ghcr.io/team/*"),
        ("eu.example.org/team/a/b:1", "*.example.org/team/*"),
        ("a.eu.example.org/team/a:1", "*.example.org/team/*"),
        ("ghcr.io/team/a/b:1", "**"),
        ("ghcr.io/team/a/b:1", "*/*"),
        ("ghcr.io/team/a/b:1.2", "ghcr.io/**/*:1.*"),
        ("ghcr.io/team/a/b:1.2", "ghcr.io/team/**"),
        ("Ghcr.io/team/app:1", "ghcr.io/team/app"),
        ("ghcr.io/team/app:1", "GHCR.io/team/app"),
        ("busybox:1.36.1", "busy*"),
        ("busybox", "index.docker.io/library/busybox"),
        ("docker.io/busybox", "docker.io/busybox"),
        ("index.docker.io/team/app", "docker.io/team/*"),
        ("localhost:5000/team/app", "localhost:5000/*"),
        (f"busybox@{DIGEST}", "busybox"),
        (f"busybox@{DIGEST}", f"busybox@{DIGEST}"),
    ],
)
def test_an_image_that_a_glob_covers_is_allowed(image: str, glob: str) -> None:
    allowed(enabled(image=image), allowed_images=["nothing", glob])


@pytest.mark.parametrize(
    ("image", "glob"),
    [
        ("busybox", "busybox:1.36"),
        ("evil/busybox", "busybox"),
        ("ghcr.io/evil/app", "ghcr.io/team/*"),
        ("ghcr.io.evil.example/team/app", "ghcr.io/team/*"),
        ("ghcr.io:444/team/app", "ghcr.io/team/*"),
        ("evil.example/ghcr.io/team/app", "ghcr.io/team/*"),
        ("ghcr.io/team/app", "team/*"),
        ("evil.example/x.example.org/team/app", "*.example.org/team/*"),
        ("busybox.attacker.net/x", "busybox*"),
        ("busybox.attacker.net/x", "busy*/x"),
        ("evil/busybox", "*:latest"),
        ("evil/busybox", "*busybox"),
        ("attacker.net/evil/busybox", "*.net*"),
        ("team.attacker.net/app", "team*/*"),
        ("ghcr.io.attacker.net/team/app", "ghcr.*/team/*"),
        ("x.example.org.attacker.net/team/app", "*.example.*/team/*"),
        ("ghcr.io/team/app-x/evil", "ghcr.io/team/app-*"),
        ("ghcr.io/team/a/evil:1", "ghcr.io/team/*:1"),
        ("ghcr.io/team", "ghcr.io/team/*"),
        ("docker.io/reg.example/team/app", "reg.example/team/*"),
        ("docker.io/localhost/app", "localhost/*"),
        ("localhost/python", "python"),
        ("localhost:5000/x", "localhost*"),
        ("python.attacker.net:5000/x", "python*"),
        (f"busybox:1.36@{DIGEST}", "busybox:1.36"),
        ("busybox", ""),
    ],
)
def test_an_image_that_no_glob_covers_is_refused(image: str, glob: str) -> None:
    message = refused(enabled(image=image), allowed_images=[glob])["task.container.image"]
    assert image in message
    assert "allowed_images" in message
    assert "moonmind-container-policy/default" in message


def test_an_image_without_a_digest_is_refused_where_digests_are_required() -> None:
    allowed(enabled(image=f"busybox@{DIGEST}"), require_digest=True)
    message = refused(enabled(image="busybox:1.36"), require_digest=True)
    assert "require_digest" in message["task.container.image"]


@pytest.mark.parametrize(
    ("repository", "is_allowed"),
    [
        ("team/game", True),
        ("https://github.com/team/game.git", True),
        ("https://user:secret@GitHub.com/team/game", True),
        ("git@github.com:team/game.git", True),
        ("ssh://git@github.com/team/game", True),
        ("ssh://git@github.com:22/team/game", True),
        ("https://github.com:443/team/group/game", True),
        ("git@github.com:team/my%20game.git", True),
        ("git@github.com:team/..%2fevil/game", False),
        ("git@github.com:%74eam/game", False),
        ("git@github.com:team%2fgame", False),
        ("https://github.com/team%2fgame", False),
        ("ssh://git@github.com:443/team/game", False),
        ("evil/game", False),
        ("https://github.com.evil.example/team/game", False),
        ("https://evil.example/github.com/team/game", False),
        ("https://github.com:444/team/game", False),
        ("https://github.com@evil.example/team/game", False),
        ("https://github.com/team/../evil/game", False),
        ("https://github.com/team/%2e%2e/evil/game", False),
        ("https://github.com/team/%252e%252e/evil/game", False),
        ("https://github.com//team/game", False),
    ],
)
def test_a_repository_is_checked_by_its_host_and_path(repository: str, is_allowed: bool) -> None:
    raw = enabled() | {"repository": repository}
    if is_allowed:
        allowed(raw, allowed_repositories=["github.com/team/*"])
        return
    message = refused(raw, allowed_repositories=["github.com/team/*"])["repository"]
    assert "allowed_repositories" in message
    assert "secret" not in message


def test_a_port_of_an_address_of_ipv6_is_told_from_its_last_digits() -> None:
    found = [Remote.parse(f"https://{host}/x").address for host in ("[::1:8080]", "[::1]:8080")]
    assert found == ["[::1:8080]/x", "[::1]:8080/x"]


@pytest.mark.parametrize(
    ("repository", "glob"),
    [
        ("https://github.com.attacker.net/team/game", "github.com*/team/game"),
        ("https://gitlab.attacker.net/team/game", "git*/team/*"),
        ("https://github.com/team/game-x/evil", "github.com/team/game-*"),
        ("https://github.com/team/game", "github.com*"),
    ],
)
def test_a_wildcard_for_a_repository_runs_over_no_slash_and_out_of_no_host(
    repository: str, glob: str
) -> None:
    message = refused(enabled() | {"repository": repository}, allowed_repositories=[glob])
    assert glob in message["repository"]


_word = st.text("ab.", min_size=1, max_size=4)
_glob = st.text("ab.*", min_size=1, max_size=4) | st.sampled_from(["*", "**", "*.a", "*."])


@bounded(1500)
@given(
    st.lists(_word, min_size=1, max_size=4).map("/".join),
    st.lists(_glob, min_size=1, max_size=4).map("/".join),
)
def test_a_glob_matches_what_an_oracle_finds_by_trying_everything(spelling: str, glob: str) -> None:
    assert is_allowed([spelling], [glob]) == means(glob, spelling)


def test_a_task_without_a_repository_is_allowed_wherever_repositories_are_limited() -> None:
    allowed(enabled(), allowed_repositories=[])


@pytest.mark.parametrize(
    ("repository", "address"),
    [
        ("team/game", "github.com/team/game"),
        ("https://example.org:8443/a/b.git/", "example.org:8443/a/b"),
        ("https://example.org:443/a/b", "example.org/a/b"),
        ("git@ssh.dev.azure.com:v3/org/my%20proj/repo", "ssh.dev.azure.com/v3/org/my%20proj/repo"),
        ("user@example.org:a/b.git", "example.org/a/b"),
    ],
)
def test_a_repository_has_one_address_in_every_spelling(repository: str, address: str) -> None:
    assert Remote.parse(repository).address == address


@pytest.mark.parametrize(
    ("container", "policy", "path", "rule"),
    [
        ({"network": "internal"}, {}, "network", "allowed_networks"),
        ({"network": "bridge"}, {"allowed_networks": [], "network": "none"}, "network",
         "allowed_networks"),
        ({"user": "0"}, {"allowed_users": ["1000", "1000:*"]}, "user", "allowed_users"),
        ({"user": "root"}, {"allowed_users": ["1000"]}, "user", "allowed_users"),
        ({"user": "1000:0"}, {"allowed_users": ["1000"]}, "user", "allowed_users"),
        ({}, {"allowed_users": ["1000"]}, "user", "allowed_users"),
        ({"secrets": {"A": "prod-key"}}, {}, "secrets.A", "allowed_secrets"),
        ({"secrets": {"A": "task-key"}}, {"allowed_secrets": []}, "secrets.A", "allowed_secrets"),
        ({"timeoutSeconds": 61}, {"max_timeout_seconds": 60}, "timeoutSeconds",
         "max_timeout_seconds: 60"),
        ({"resources": {"cpus": 2.5}}, {"max_cpus": 2}, "resources.cpus", "max_cpus: 2"),
        ({"resources": {"memory": "2g"}}, {"max_memory": "1g"}, "resources.memory",
         "max_memory: 1g"),
        ({"resources": {"pids": 4097}}, {}, "resources.pids", "pids_limit: 4096"),
        ({"resources": {"gpus": 1}}, {}, "resources.gpus", "max_gpus: 0"),
        ({"resources": {"gpus": "all"}}, {"max_gpus": 8}, "resources.gpus", "max_gpus: 8"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_rule_and_how_to_change_it(
    container: Any, policy: Any, path: str, rule: str
) -> None:
    message = refused(enabled(**container), **policy)[f"task.container.{path}"]
    assert rule in message
    assert "have an operator change" in message


@pytest.mark.parametrize(
    ("container", "policy"),
    [
        ({}, {"network": "internal", "allowed_networks": []}),
        ({"network": "internal"}, {"allowed_networks": ["int*"]}),
        ({}, {"user": "1000", "allowed_users": []}),
        ({"user": "1000:1000"}, {"allowed_users": ["1000:*"]}),
        ({"secrets": {"A": "task-key"}}, {}),
        ({"resources": {"gpus": "all"}}, {"max_gpus": None}),
        ({"resources": {"gpus": 2}}, {"max_gpus": 2}),
        ({"timeoutSeconds": 60, "resources": {"memory": "1g"}},
         {"max_timeout_seconds": 60, "max_memory": "1024m"}),
    ],
)  # fmt: skip
def test_what_is_within_the_rules_is_allowed(container: Any, policy: Any) -> None:
    allowed(enabled(**container), **policy)


def test_what_opens_a_repository_has_a_rule_of_its_own() -> None:
    raw = enabled(secrets={"A": "task-key"}) | {"auth": {"repoAuthRef": "task-git"}}
    rules = {"allowed_secrets": ["task-key"], "allowed_repository_credentials": ["task-git"]}
    allowed(raw, **rules)
    swapped = {"allowed_secrets": ["task-git"], "allowed_repository_credentials": ["task-key"]}
    told = refused(raw, **swapped)
    assert "allowed_secrets: task-git" in told["task.container.secrets.A"]
    assert "allowed_repository_credentials: task-key" in told["auth.repoAuthRef"]


def test_every_rule_that_forbids_is_told_at_once() -> None:
    raw = enabled(image="evil", network="lan", user="0", resources={"gpus": 1})
    raw["auth"] = {"repoAuthRef": "prod"}
    raw["repository"] = "evil/x"
    told = refused(raw, allowed_images=["ok"], allowed_users=["1"], allowed_repositories=["ok"])
    assert set(told) == {
        "task.container.image",
        "task.container.network",
        "task.container.user",
        "task.container.resources.gpus",
        "repository",
        "auth.repoAuthRef",
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cap_add", ["ALL"]),
        ("cap_add", ["cap_all"]),
        ("cap_add", ["net raw"]),
        ("network", "host"),
        ("network", "container:x"),
        ("user", "a b"),
        ("max_memory", "much"),
        ("max_timeout_seconds", 0),
    ],
)
def test_a_policy_that_makes_no_sense_is_none(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate({field: value})


def test_an_empty_line_of_a_form_is_no_rule() -> None:
    policy = Policy.model_validate({"user": "", "max_memory": ""})
    assert (policy.user, policy.max_memory_bytes) == (None, None)


def test_a_task_that_asks_for_gpus_goes_to_a_worker_that_has_some() -> None:
    canonical = parse(enabled(resources={"gpus": 1})).canonical()
    assert canonical["requiredCapabilities"] == ["docker", "gpu"]
