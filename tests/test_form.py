"""The submit form in Prefect's UI: what a person reads in it, and what comes of what they write."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.async_api import Locator, Page, expect
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from flows.container_task import container_task
from scripts.browser import SubmitForm, visit
from scripts.stack import DEPLOYMENT, ROOT, Stack
from tests.runs import BUSYBOX
from tests.strategies import FULL, enabled

SCHEMA: dict[str, Any] = parameter_schema(container_task).model_dump()
EXAMPLES = sorted((ROOT / "examples").glob("*.json"))


def fields(
    name: str = "TaskPayload", path: str = ""
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Every field of the form: its path, its own schema, and the model it leads to."""
    for key, found in SCHEMA["definitions"][name]["properties"].items():
        inner = found.get("$ref") or found.get("items", {}).get("$ref")
        model = inner.rpartition("/")[2] if inner else None
        yield path + key, found, SCHEMA["definitions"][model] if model else {}
        if model:
            yield from fields(model, f"{path}{key}.")


LISTS = [path for path, field, _ in fields() if "items" in field]


@pytest.mark.parametrize(
    ("field", "model"),
    [pytest.param(field, model, id=path) for path, field, model in fields()],
)
def test_a_field_has_a_title_and_sentences_for_a_person(field: Any, model: Any) -> None:
    title = field.get("title") or model["title"]
    assert re.fullmatch(r"[A-Z][A-Za-z]*( [a-z]+|, [a-z]+)*( \(seconds\))?", title), title
    text = field.get("description") or model["description"]
    assert re.match(r"[A-Z`]", text)
    assert text.endswith(".")


def test_a_field_that_may_be_left_out_is_no_choice_between_types() -> None:
    choices = {path: field["anyOf"] for path, field, _ in fields() if "anyOf" in field}
    assert list(choices) == ["task.container.resources.gpus"]
    assert {"type": "null"} not in choices["task.container.resources.gpus"]
    assert not [path for path, field, _ in fields() if field.get("default", "") is None]


def test_the_common_fields_come_first_also_where_a_database_forgets_their_order() -> None:
    container = SCHEMA["definitions"]["Container"]["properties"]
    ordered = sorted(container, key=lambda key: container[key]["position"])
    assert ordered[:5] == ["enabled", "image", "command", "resources", "timeoutSeconds"]
    assert SCHEMA["definitions"]["Container"]["required"] == ordered[:3]
    assert SCHEMA["required"] == ["payload"]


@pytest.mark.parametrize(
    "payload",
    [
        FULL,
        enabled(),
        enabled(resources={"gpus": "all"}, env=None, workdir=None),
        enabled(resources={"gpus": 2}, retry={"exitCodes": {"75": 1}}, entrypoint=[]),
        *[json.loads(path.read_text()) for path in EXAMPLES],
    ],
    ids=["full", "least", "nulls", "rare", *[path.stem for path in EXAMPLES]],
)
def test_a_deployment_that_has_the_api_check_parameters_takes_what_the_flow_takes(
    payload: Any,
) -> None:
    assert validate({"payload": payload}, SCHEMA) == []


@pytest.mark.parametrize("payload", [enabled(image=7), enabled(command=[]), enabled(comand=["x"])])
def test_such_a_deployment_refuses_what_is_plainly_wrong(payload: Any) -> None:
    assert validate({"payload": payload}, SCHEMA)


@pytest.mark.docker
@pytest.mark.server
def test_a_run_without_a_payload_is_told_what_it_lacks(stack: Stack) -> None:
    final = stack.await_final(stack.submit_to(DEPLOYMENT))
    assert final["state_name"] == "Rejected"
    assert final["state"]["message"] == "payload: is null; it takes a JSON object"


@pytest.mark.docker
@pytest.mark.server
async def test_whoever_fills_in_image_and_command_sees_the_run_completed(
    stack: Stack, page: Page
) -> None:
    form = await SubmitForm.open(page, stack)
    await form.fill("Image", BUSYBOX)
    await form.add("Command", "sh", "-c", 'echo "$GREETING from the form"')
    await form.fill("Environment", '{"GREETING": "hello"}')
    await form.fill("Time limit (seconds)", "60")
    run_id = await form.submit()
    stack.await_final(run_id)
    await visit(page, f"{stack.address}/runs/flow-run/{run_id}", "hello from the form")
    await expect(page.locator(".state-badge").first).to_have_text("Completed")
    await expect(page.get_by_text("hello from the form", exact=True)).to_be_visible()
    container = stack.flow_run(run_id)["parameters"]["payload"]["task"]["container"]
    assert (container["enabled"], container["timeoutSeconds"]) == (True, 60)


@pytest.mark.docker
@pytest.mark.server
async def test_whoever_fills_in_something_wrong_reads_what_and_where(
    stack: Stack, page: Page
) -> None:
    form = await SubmitForm.open(page, stack)
    await form.fill("Image", "Busy Box")
    await form.add("Command", "true")
    await form.fill("Memory", "lots")
    run_id = await form.submit()
    stack.await_final(run_id)
    for sentence in (
        "task.container.image: is 'Busy Box', not an image name; it takes an image name",
        "task.container.resources.memory: is 'lots', not an amount of memory; it takes bytes, or",
    ):
        await visit(page, f"{stack.address}/runs/flow-run/{run_id}", sentence)
    await expect(page.locator(".state-badge").first).to_have_text("Rejected")


@pytest.mark.docker
@pytest.mark.server
async def test_the_form_shows_every_field_with_its_sentences(stack: Stack, page: Page) -> None:
    form = await SubmitForm.open(page, stack)
    # The fields of an item are there once the item is.
    told = {
        field.get("title") or model["title"]
        for path, field, model in fields()
        if not path.startswith(tuple(f"{lists}." for lists in LISTS))
    }
    shown = page.locator(".schema-form-property__label")
    labels = await shown.all_inner_texts()
    assert {label.removesuffix(" (Optional)") for label in labels} == told | {"Payload"}
    assert [label for label in labels if not label.endswith(" (Optional)")] == [
        "Payload", "Task", "Container", "Run in a container", "Image", "Command",
    ]  # fmt: skip
    assert await page.locator(".schema-form-property__description").count() == len(labels)
    assert await form.field("Run in a container").get_by_role("switch").is_checked()
    assert not re.search(r"[a-z][A-Z]", " ".join(labels))


@pytest.mark.docker
@pytest.mark.server
async def test_the_form_can_be_filled_in_without_a_mouse(stack: Stack, page: Page) -> None:
    form = await SubmitForm.open(page, stack)
    await form.field("Image").locator("textarea").focus()
    await page.keyboard.type(BUSYBOX)
    command = form.field("Command")
    await _walk_to(page, "Tab", command.get_by_role("button", name="Add item"))
    await page.keyboard.press("Enter")
    item = command.locator("textarea")
    await item.wait_for()
    await _walk_to(page, "Shift+Tab", item)
    await page.keyboard.type("true")
    await _walk_to(page, "Tab", page.get_by_role("button", name="Submit"))
    async with page.expect_response(re.compile("/create_flow_run$")) as answer:
        await page.keyboard.press("Enter")
    run = await (await answer.value).json()
    assert run["parameters"]["payload"]["task"]["container"]["command"] == ["true"]


async def _walk_to(page: Page, key: str, element: Locator) -> None:
    for _ in range(200):
        if await element.evaluate("element => element === document.activeElement"):
            return
        await page.keyboard.press(key)
    raise AssertionError(f"{key} never comes to {element}")
