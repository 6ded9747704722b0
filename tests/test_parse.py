"""Keys that stand in the wrong place, and faults of two kinds at once."""

from typing import Any

import pytest

from flows.errors import PayloadError
from flows.payload.parse import misplaced, parse, runnable
from tests.strategies import enabled


@pytest.mark.parametrize(
    ("outside", "inside", "sentences"),
    [
        ({}, {}, []),
        ({"note": "x"}, {"priority": 3}, []),
        ({"image": "x"}, {}, ["image has no effect there; did you mean task.container.image?"]),
        (
            {},
            {"timeoutSeconds": 5, "memory": "1g"},
            [
                "task.timeoutSeconds has no effect there; did you mean "
                "task.container.timeoutSeconds?",
                "task.memory has no effect there; did you mean task.container.resources.memory?",
            ],
        ),
    ],
)
def test_a_key_of_the_container_beside_it_is_kept_and_told(
    outside: dict[str, Any], inside: dict[str, Any], sentences: list[str]
) -> None:
    raw = enabled() | outside
    raw["task"] |= inside
    assert misplaced(runnable(raw)) == sentences
    assert parse(raw).canonical() == parse(parse(raw).canonical()).canonical()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("depth", "the checkout has one commit"),
        ("depht", "the checkout has one commit"),
        ("fetch-depth", "the checkout has one commit"),
        ("lfs", "stay the pointers"),
        ("LFS", "stay the pointers"),
        ("submodules", "submodules are not checked out"),
        ("submodule", "submodules are not checked out"),
        ("tags", "tags are not fetched"),
        ("fetch_tags", "tags are not fetched"),
        ("sparse", "all files are checked out"),
        ("sparseCheckout", "all files are checked out"),
        ("branch", "did you mean task.git.startingBranch?"),
        ("starting_branch", "did you mean task.git.startingBranch?"),
    ],
)
def test_a_key_of_git_that_others_know_and_this_runner_does_not_is_kept_and_told(
    key: str, said: str
) -> None:
    raw = enabled()
    raw["task"]["git"] = {key: True, "startingBranch": "main"}
    (sentence,) = misplaced(runnable(raw))
    assert sentence.startswith(f"task.git.{key} has no effect")
    assert said in sentence
    assert parse(raw).canonical()["task"]["git"][key] is True


@pytest.mark.parametrize("key", ["provider", "x", "", "remote", "k" * 5000])
def test_a_key_of_git_that_is_like_none_is_kept_in_silence(key: str) -> None:
    raw = enabled()
    raw["task"]["git"] = {key: 1}
    assert misplaced(runnable(raw)) == []


@pytest.mark.parametrize(
    ("raw", "path"),
    [({"task": {"containers": {}}}, "task.containers"), ({"container": {}}, "container")],
)
def test_a_container_by_another_name_is_named(raw: Any, path: str) -> None:
    with pytest.raises(PayloadError) as refused:
        runnable(raw)
    (fault,) = refused.value.faults
    assert fault.message.endswith(f". {path} has no effect; did you mean task.container?")


def test_a_misspelt_key_and_a_container_that_is_not_enabled_are_told_at_once() -> None:
    raw = enabled(timeoutSecond=3)
    del raw["task"]["container"]["enabled"]
    with pytest.raises(PayloadError) as refused:
        runnable(raw)
    assert {fault.path for fault in refused.value.faults} == {
        "task.container.timeoutSecond",
        "task.container.enabled",
    }


@pytest.mark.parametrize("key", ["cpus", "memory", "pids", "shm", "gpus"])
def test_a_limit_beside_resources_is_told_where_it_belongs(key: str) -> None:
    with pytest.raises(PayloadError) as refused:
        runnable(enabled(**{key: "1"}))
    (fault,) = refused.value.faults
    assert fault.message == f"is not a key that exists here; did you mean 'resources.{key}'?"
