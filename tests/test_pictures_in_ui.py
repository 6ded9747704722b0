"""What a person sees of a run in the Prefect UI, through a browser."""

import asyncio

import pytest
from playwright.async_api import Page

from scripts.stack import Stack
from tests.runs import shell

SIZE = "document.images.length && [document.images[0].naturalWidth, document.images[0].clientWidth]"


@pytest.mark.docker
@pytest.mark.server
@pytest.mark.thorough
async def test_the_picture_and_the_report_are_seen_in_the_ui(stack: Stack, page: Page) -> None:
    run_id = stack.submit(shell("sleep 7; echo '<b>the end</b>'", resources={"memory": "64m"}))
    ended = await asyncio.to_thread(stack.await_final, run_id)
    assert ended["state_type"] == "COMPLETED"
    wanted = {"flow_run_id": {"any_": [run_id]}}
    found = stack.api("POST", "/artifacts/filter", artifacts=wanted).json()
    ids = {each["key"]: each["id"] for each in found}
    for ui in ("", "/v2"):
        await page.goto(f"{stack.address}{ui}/artifacts/artifact/{ids['container-run-usage']}")
        await page.wait_for_function(f"({SIZE} || [0])[0] === 900")
        assert (await page.evaluate(SIZE))[1] > 300
        await page.goto(f"{stack.address}{ui}/artifacts/artifact/{ids['container-run']}")
        await page.wait_for_selector("h1:has-text('Succeeded')")
        # In the last lines, and in the command to run by hand.
        assert await page.locator("pre", has_text="<b>the end</b>").count() == 2
        assert await page.locator("table").count() == 2
        shown = await page.locator("body").inner_text()
        assert "64 MiB" in shown
        assert "docker run --rm --init" in shown
