"""Which paths a glob matches, and into which folders a walk for it goes."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.outputs.globs import Globs


def matches(pattern: str, path: str) -> bool:
    return bool(Globs([pattern]).matching(tuple(path.split("/"))))


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("a.zip", "a.zip"),
        ("build/*.zip", "build/a.zip"),
        ("build/*", "build/.hidden"),
        ("build/?.[ch]", "build/x.c"),
        ("build/[!a]*", "build/b"),
        ("build/[[]x]", "build/[x]"),
        ("**/*.zip", "a.zip"),
        ("**/*.zip", "a/b/c.zip"),
        ("build/**/x", "build/x"),
        ("build/**/x", "build/a/b/x"),
        ("build/**", "build/a/b"),
        ("**", "a"),
        ("a**b", "a-b"),
        ("**/a/**/a", "a/x/a"),
        ("*\n*", "a\nb"),
    ],
)
def test_a_path_that_matches(pattern: str, path: str) -> None:
    assert matches(pattern, path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("a.zip", "A.zip"),
        ("a.zip", "b/a.zip"),
        ("build/*.zip", "build/x/a.zip"),
        ("build", "build/a"),
        ("build/?", "build/ab"),
        ("build/[!a]*", "build/a"),
        ("build/**", "other/a"),
        ("**/x", "x/y"),
        ("**/a/**/a", "a"),
        ("a**b", "a/b"),
        ("*.zip", "a.zip\n"),
    ],
)
def test_a_path_that_does_not_match(pattern: str, path: str) -> None:
    assert not matches(pattern, path)


def test_a_walk_goes_only_where_something_can_match() -> None:
    globs = Globs(["build/**/*.zip", "docs/*.pdf", "**/report.xml"])
    assert globs.may_hold(("build", "deep")) == [0, 2]
    assert globs.may_hold(("docs",)) == [1, 2]
    assert globs.may_hold(("docs", "sub")) == [2]
    assert Globs(["build/*.zip"]).may_hold(("src",)) == []
    assert globs.matching(("build", "deep", "report.xml")) == [2]


names = st.text("ab.*?", min_size=1, max_size=4)
segments = st.one_of(st.just("**"), st.text("ab.*?", min_size=1, max_size=4))


def simply(parts: list[str], path: list[str]) -> bool:
    """The definition of a match, one choice at a time."""
    if not parts:
        return not path
    if parts[0] == "**":
        return simply(parts[1:], path) or (bool(path) and simply(parts, path[1:]))
    return bool(path) and name_matches(parts[0], path[0]) and simply(parts[1:], path[1:])


def name_matches(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "*":
        return name_matches(pattern[1:], name) or (bool(name) and name_matches(pattern, name[1:]))
    return bool(name) and pattern[0] in ("?", name[0]) and name_matches(pattern[1:], name[1:])


@given(st.lists(segments, min_size=1, max_size=5), st.lists(names, min_size=1, max_size=6))
def test_a_match_is_what_its_definition_says(parts: list[str], path: list[str]) -> None:
    globs = Globs(["/".join(parts)])
    expected = simply(parts, path)
    assert globs.matching(tuple(path)) == ([0] if expected else [])
    if expected:
        for length in range(len(path)):
            assert globs.may_hold(tuple(path[:length])) == [0]


def test_no_pattern_takes_long() -> None:
    globs = Globs(["/".join(["**", "*a" * 12 + "b"] * 20), "*a" * 240 + "b"])
    began = time.thread_time()
    for depth in (1, 200):
        assert globs.matching(("a" * 250,) * depth) == []
    assert time.thread_time() - began < 5
