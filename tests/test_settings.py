"""What a host's environment sets, and what a worker refuses for it."""

from pathlib import Path

import pytest

from flows.errors import CapabilityMissing, HostMisconfigured
from flows.outcome import OutcomeName, outcome_of
from flows.payload.parse import parse
from flows.payload.policy_check import require_capabilities
from flows.settings import HostSettings
from tests.strategies import enabled


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which no setting is made."""
    for name in HostSettings.model_fields.values():
        monkeypatch.delenv(str(name.alias), raising=False)
    return monkeypatch


def test_nothing_needs_setting(environment: pytest.MonkeyPatch) -> None:
    host = HostSettings.from_environment()
    assert host.workdir == Path("/work/agent_jobs")
    assert host.workspace_volume == ""
    assert host.capabilities == ("docker", "git")
    assert host.timeout_seconds == 3600
    assert host.worker


def test_every_setting_has_a_variable(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MOONMIND_WORKDIR", "/srv/jobs")
    environment.setenv("MOONMIND_CONTAINER_WORKSPACE_VOLUME", "agent_workspaces")
    environment.setenv("MOONMIND_WORKER_CAPABILITIES", " Docker, git ,,GPU")
    environment.setenv("MOONMIND_CONTAINER_TIMEOUT_SECONDS", "60")
    environment.setenv("MOONMIND_PULL_INACTIVITY_SECONDS", "45")
    environment.setenv("MOONMIND_WORKER_NAME", "host-1")
    host = HostSettings.from_environment()
    assert host.workdir == Path("/srv/jobs")
    assert host.workspace_volume == "agent_workspaces"
    assert host.capabilities == ("docker", "git", "gpu")
    assert host.timeout_seconds == 60
    assert host.pull_inactivity_seconds == 45
    assert host.worker == "host-1"


def test_an_empty_variable_is_a_variable_not_set(environment: pytest.MonkeyPatch) -> None:
    for name in ("WORKDIR", "CONTAINER_TIMEOUT_SECONDS", "WORKER_CAPABILITIES", "WORKER_NAME"):
        environment.setenv(f"MOONMIND_{name}", "")
    assert HostSettings.from_environment().capabilities == ("docker", "git")
    assert HostSettings.from_environment().timeout_seconds == 3600


def test_a_variable_of_somebody_else_is_not_read(environment: pytest.MonkeyPatch) -> None:
    for name in HostSettings.model_fields:
        environment.setenv(name.upper(), "0")
    assert HostSettings.from_environment().timeout_seconds == 3600
    assert HostSettings.from_environment().workdir == Path("/work/agent_jobs")


def test_a_relative_folder_for_jobs_is_meant_from_here(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MOONMIND_WORKDIR", "jobs")
    assert HostSettings.from_environment().workdir == Path.cwd() / "jobs"


@pytest.mark.parametrize("value", ["0", "-1", "soon", "1.5", "1e3"])
def test_a_time_limit_that_is_none_is_refused(environment: pytest.MonkeyPatch, value: str) -> None:
    environment.setenv("MOONMIND_CONTAINER_TIMEOUT_SECONDS", value)
    with pytest.raises(HostMisconfigured) as refusal:
        HostSettings.from_environment()
    assert str(refusal.value) == (
        f"MOONMIND_CONTAINER_TIMEOUT_SECONDS is {value!r} on this worker, but takes a whole "
        "number of seconds, 1 or more"
    )
    assert outcome_of(refusal.value).name is OutcomeName.INFRASTRUCTURE


@pytest.mark.parametrize("value", ["0", "-1", "inf", "1e999", "nan", "100g"])
def test_a_size_of_checkouts_that_is_none_is_refused(
    environment: pytest.MonkeyPatch, value: str
) -> None:
    environment.setenv("MOONMIND_CHECKOUT_MAX_GIB", value)
    with pytest.raises(HostMisconfigured, match="MOONMIND_CHECKOUT_MAX_GIB"):
        HostSettings.from_environment()


def test_a_worker_with_every_capability_takes_the_task(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MOONMIND_WORKER_CAPABILITIES", "docker,git,gpu")
    payload = parse(enabled() | {"repository": "a/b", "requiredCapabilities": ["GPU"]})
    require_capabilities(payload, HostSettings.from_environment().capabilities)


def test_a_worker_names_every_capability_that_it_lacks(environment: pytest.MonkeyPatch) -> None:
    payload = parse(enabled() | {"requiredCapabilities": ["GPU", "docker", "unity"]})
    with pytest.raises(CapabilityMissing, match=r"lacks the capability gpu, unity .*docker, git"):
        require_capabilities(payload, HostSettings.from_environment().capabilities)
