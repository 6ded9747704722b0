"""What is uploaded of an attempt, and under which names: no store needed."""

import string
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.outputs.manifest import SkippedFile, StoredFile, UploadManifest, as_json
from flows.outputs.upload_plan import (
    key_of,
    link,
    plan,
    progress,
)
from flows.worker.cleanup import allowance, is_due
from flows.workspace.tree import Found

NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
# File names are bytes; Python shows those that are no UTF-8 as surrogates.
NAMES = (
    st.binary(min_size=1, max_size=255)
    .map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda name: name not in (b".", b".."))
    .map(lambda name: name.decode("utf-8", "surrogateescape"))
)
PATHS = st.lists(NAMES, min_size=1, max_size=12).map(tuple)


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        (("container", "logs", "runner.log"), "container/logs/runner.log"),
        (("Bericht für März.txt",), "Bericht für März.txt"),
        (("manifest.json",), "manifest%2Ejson"),
        (("manifest.json", "x"), "manifest%2Ejson/x"),
        (("deep", "manifest.json"), "deep/manifest.json"),
        (("a\nb",), "a%0Ab"),
        (("\udcff\udcfe",), "%FF%FE"),
        (("*", "[a]", "{b}"), "%2A/%5Ba%5D/%7Bb%7D"),
        (("a\\..\\b",), "a%5C..%5Cb"),
        (("x?versionId=1",), "x%3FversionId=1"),
        (("s3::x",), "s3%3A%3Ax"),
        (("100%",), "100%25"),
        (("\u202etxt.exe",), "%E2%80%AEtxt.exe"),
    ],
)
def test_a_key_is_the_path_with_escapes_for_what_a_store_would_interpret(
    parts: tuple[str, ...], key: str
) -> None:
    assert key_of(parts) == key


@given(PATHS)
def test_a_key_stays_below_its_prefix_and_within_the_bounds_of_stores(
    parts: tuple[str, ...],
) -> None:
    names = key_of(parts).split("/")
    assert not {"", ".", ".."} & set(names)
    assert len(key_of(parts).encode()) <= 640
    assert all(len(name.encode()) <= 255 for name in names)
    assert not set("\\*?[]{}:") & set(key_of(parts))
    assert key_of(parts).isprintable()


@given(PATHS, PATHS)
def test_two_paths_have_two_keys(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert (key_of(one) == key_of(other)) is (one == other)


def test_what_does_not_fit_is_left_out_and_said_so() -> None:
    found = [
        Found(("a",), "file", 10),
        Found(("link",), "symlink"),
        Found(("vast",), "file", 8 * 1024**6),
        Found(("b",), "file", 5),
        Found(("more",), "file", 1),
    ]
    planned = plan(found, max_bytes=15, max_entries=4)
    assert [item.parts for item in planned.items] == [("a",), ("b",)]
    assert {each.path: each.kind for each in planned.skipped} == {
        "link": "symlink",
        "vast": "too-large",
    }
    assert planned.left_out == 1


def test_a_manifest_names_the_key_only_where_it_is_not_the_path() -> None:
    manifest = UploadManifest(
        job_id="j",
        attempt=2,
        created_at=NOW,
        files=[
            StoredFile(path="a", size_bytes=1, sha256="0" * 64),
            StoredFile(path="a\nb", size_bytes=0, sha256="1" * 64, key="a%0Ab"),
        ],
        skipped=[SkippedFile(path="pipe", kind="fifo")],
        left_out=0,
    )
    assert UploadManifest.model_validate_json(as_json(manifest)) == manifest
    text = as_json(manifest).decode()
    assert '"schemaVersion": 1' in text
    assert text.count('"key"') == 1


@pytest.mark.parametrize(
    ("tries", "seconds", "due"),
    [
        (1, 0, True),
        (2, 59, False),
        (2, 60, True),
        (4, 239, False),
        (4, 240, True),
        (40, 3600, True),
    ],
)
def test_a_sweep_tries_at_once_and_then_ever_more_seldom(
    tries: int, seconds: float, due: bool
) -> None:
    assert is_due(tries, NOW, NOW + timedelta(seconds=seconds)) is due


def test_each_try_of_the_sweep_gets_more_time_up_to_the_limit() -> None:
    assert [allowance(tries, 840) for tries in (0, 1, 2, 3, 4, 50)] == [60, 120, 240, 480, 840, 840]


def test_progress_is_told_in_figures_that_people_read() -> None:
    told = progress(3200, 10_000, 340 * 1024**2, 1024**3)
    assert told == "Uploaded 3,200 of 10,000 files, 340 of 1,024 MiB"


def test_a_link_has_nothing_in_it_that_ends_one() -> None:
    address = "file:///srv/my results (old)/é"
    assert set(link(address)) <= set(string.ascii_letters + string.digits + "/:@%._-~")
