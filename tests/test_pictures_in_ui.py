"""What a person sees of a run in the Prefect UI, through a browser."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from scripts.stack import Stack
from tests.runs import shell

WORDS = (
    "--no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
SIZE = "document.images.length && [document.images[0].naturalWidth, document.images[0].clientWidth]"


@pytest.fixture
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=WORDS.split())
        yield started
        started.close()


@pytest.mark.docker
@pytest.mark.server
@pytest.mark.thorough
def test_the_picture_and_the_report_are_seen_in_the_ui(stack: Stack, browser: Browser) -> None:
    run_id = stack.submit(shell("sleep 7; echo '<b>the end</b>'", resources={"memory": "64m"}))
    assert stack.await_final(run_id)["state_type"] == "COMPLETED"
    wanted = {"flow_run_id": {"any_": [run_id]}}
    found = stack.api("POST", "/artifacts/filter", artifacts=wanted).json()
    ids = {each["key"]: each["id"] for each in found}
    page = browser.new_page()
    for ui in ("", "/v2"):
        page.goto(f"{stack.address}{ui}/artifacts/artifact/{ids['container-run-usage']}")
        page.wait_for_function(f"({SIZE} || [0])[0] === 900", timeout=30_000)
        assert page.evaluate(SIZE)[1] > 300
        page.goto(f"{stack.address}{ui}/artifacts/artifact/{ids['container-run']}")
        page.wait_for_selector("h1:has-text('Succeeded')", timeout=30_000)
        # In the last lines, and in the command to run by hand.
        assert page.locator("pre", has_text="<b>the end</b>").count() == 2
        assert page.locator("table").count() == 2
        shown = page.locator("body").inner_text()
        assert "64 MiB" in shown
        assert "docker run --rm --init" in shown
