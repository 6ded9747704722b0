"""A headless Chromium on Prefect's pages, and the submit form as a person meets it."""

import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Locator, Page, async_playwright, expect
from tenacity import retry, retry_if_exception_type, stop_after_attempt

from scripts.stack import DEPLOYMENT, Stack

WIDTH = 1400
HEIGHT = 1000
# Nothing of what a person's browser does beside showing pages; root has no sandbox.
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
)
# Prefect's pages are dark until somebody has chosen.
_LIGHT = "localStorage.setItem('color-scheme', JSON.stringify('light'))"
# A busy machine takes long to show a page.
_PATIENCE_MS = 90_000
_PAGE_MS = 30_000
# A field hands its text to the form a moment after the last key, which on a busy machine is later
# than the click that follows. The page's timers go off in their order, however late.
_SETTLED = "new Promise(settled => setTimeout(settled, 1000))"


def chromium() -> str | None:
    """The program, where this machine has it."""
    return shutil.which("chromium")


@asynccontextmanager
async def opened_page(program: str) -> AsyncIterator[Page]:
    """A page in a browser of its own, light and without animations."""
    expect.set_options(timeout=_PATIENCE_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)
        try:
            context = await browser.new_context(
                viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce"
            )
            context.set_default_timeout(_PATIENCE_MS)
            await context.add_init_script(_LIGHT)
            yield await context.new_page()
        finally:
            await browser.close()


@retry(retry=retry_if_exception_type(AssertionError), stop=stop_after_attempt(3), reraise=True)
async def visit(page: Page, address: str, sign: str) -> None:
    """Go there and see the text `sign`; again where the server was too busy to answer."""
    await page.goto(address)
    shown = page.locator("body").get_by_text(sign).filter(visible=True).last
    await expect(shown).to_be_visible(timeout=_PAGE_MS)
    await page.wait_for_load_state("networkidle")


class SubmitForm:
    """The form of `container-task/docker`, by what is written on it."""

    def __init__(self, page: Page) -> None:
        self.page = page

    @classmethod
    async def open(cls, page: Page, stack: Stack) -> "SubmitForm":
        """Go there, and wait until it can be filled in."""
        deployment = stack.api("GET", f"/deployments/name/{DEPLOYMENT}").json()["id"]
        await page.goto(f"{stack.address}/deployments/deployment/{deployment}/run")
        form = cls(page)
        # Fields with defaults come later than others.
        for last in ("Target runtime", "After image errors"):
            await form.field(last).wait_for()
        return form

    def field(self, label: str) -> Locator:
        """The innermost field of this label; its labels name no input, so `get_by_label` fails."""
        named = re.compile(rf"^{re.escape(label)}( \(Optional\))?$")
        label_of_it = self.page.locator(".schema-form-property__label").filter(has_text=named)
        return self.page.locator(".schema-form-property").filter(has=label_of_it).last

    async def fill(self, label: str, text: str) -> None:
        """Write into a field that has one input: text, a number, or JSON."""
        await self.field(label).locator("textarea, input").fill(text)

    async def add(self, label: str, *items: str) -> None:
        """Append to a field that is a list of texts."""
        field = self.field(label)
        for number, item in enumerate(items, await field.locator("textarea").count()):
            await field.get_by_role("button", name="Add item").click()
            await field.locator("textarea").nth(number).fill(item)

    async def submit(self) -> str:
        """Send it; return the id of the flow run that came of it."""
        await self.page.evaluate(_SETTLED)
        async with self.page.expect_response(re.compile("/create_flow_run$")) as answer:
            await self.page.get_by_role("button", name="Submit").click()
        return str((await (await answer.value).json())["id"])
