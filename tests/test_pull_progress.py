"""How far a pull is, from the events that an engine tells."""

from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.engine.images.progress import PullProgress
from tests.strategies import bounded

DIGEST = "sha256:" + "a" * 64


def event(status: str, layer: str = "", current: int = 0, total: int = 0) -> dict[str, Any]:
    detail = {"current": current, "total": total} if total else {}
    return {"status": status, "id": layer, "progressDetail": detail}


def after(*events: dict[str, Any]) -> PullProgress:
    return reduce(PullProgress.after, events, PullProgress())


FIRST = [
    event("Pulling from library/busybox", "1.36"),
    event("Pulling fs layer", "a"),
    event("Pulling fs layer", "b"),
    event("Already exists", "c"),
    event("Waiting", "b"),
]
WHOLE = [
    *FIRST,
    event("Downloading", "a", 2 * 2**20, 4 * 2**20),
    event("Download complete", "a"),
    event("Extracting", "a", 2**20, 4 * 2**20),
    event("Retrying in 3 seconds", "b"),
    # What is small is there before anything is said of its way.
    event("Extracting", "b", 100, 100),
    event("Pull complete", "a"),
    event("Pull complete", "b"),
    {"status": f"Digest: {DIGEST}"},
    {"status": "Status: Downloaded newer image for busybox:1.36"},
]


@pytest.mark.parametrize(
    ("events", "said", "percent"),
    [
        (0, "waiting for the registry", 0.0),
        (1, "waiting for the registry", 0.0),
        (5, "1 of 3 layers, 0 B of 0 B", 33.3),
        (6, "1 of 3 layers, 2 MiB of 4 MiB", 46.7),
        (7, "1 of 3 layers, 4 MiB of 4 MiB", 60.0),
        (8, "1 of 3 layers, 4 MiB of 4 MiB", 61.7),
        (11, "2 of 3 layers, 4 MiB of 4 MiB", 100.0),
        (14, "3 of 3 layers, 4 MiB of 4 MiB", 100.0),
    ],
)
def test_a_pull_is_as_far_as_its_layers(events: int, said: str, percent: float) -> None:
    progress = after(*WHOLE[:events])
    assert (str(progress), progress.percent) == (said, percent)


def test_the_end_has_the_digest_and_what_was_downloaded() -> None:
    progress = after(*WHOLE)
    assert (progress.digest, progress.bytes) == (DIGEST, 4 * 2**20 + 100)
    assert (progress.begun, progress.up_to_date) == (True, False)


def test_an_image_that_is_up_to_date_has_nothing_to_show() -> None:
    progress = after(
        event("Already exists", "a"),
        {"status": f"Digest: {DIGEST}"},
        {"status": "Status: Image is up to date for busybox:1.36"},
    )
    assert (progress.begun, progress.up_to_date, progress.bytes) == (False, True, 0)


_events = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from([each["status"] for each in WHOLE]) | st.none(),
        "id": st.sampled_from("abc"),
        "progressDetail": st.none()
        | st.fixed_dictionaries(
            {}, optional={"current": st.integers(0, 9), "total": st.integers(-1, 9)}
        ),
    },
)


@bounded(200)
@given(st.lists(_events, max_size=12))
def test_whatever_comes_the_progress_lies_between_nothing_and_all(events: Any) -> None:
    assert 0 <= after(*events).percent <= 100
