"""`container-task deploy-automations`: Prefect's automations created or updated from YAML files.

`prefect automation create` makes another automation each time, and knows a block by its id alone,
which no two servers share. Here an automation is known by its name, and a block by its own.
"""

import asyncio
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import BlockDocument
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import PrefectHTTPStatusError
from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows.cli.console import CommandError, Console, ExitStatus
from flows.cli.prefect_api import api_errors

# In an action, in place of Prefect's `block_document_id`: the block's name, or its type and name.
_BLOCK = "block_document"
_ACTIONS = ("actions", "actions_on_trigger", "actions_on_resolve")


@dataclass(frozen=True, slots=True)
class AutomationSpec:
    """An automation as its file says: Prefect's fields, with names of blocks for their ids."""

    source: str
    fields: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.fields["name"])

    @property
    def blocks(self) -> set[str]:
        actions = (each for key in _ACTIONS for each in self.fields.get(key) or ())
        return {
            str(each[_BLOCK]) for each in actions if isinstance(each, Mapping) and _BLOCK in each
        }

    def with_ids(self, ids: Mapping[str, UUID]) -> dict[str, Any]:
        """The fields as Prefect knows them."""

        def with_id(action: object) -> object:
            if not isinstance(action, Mapping) or _BLOCK not in action:
                return action
            rest = {key: value for key, value in action.items() if key != _BLOCK}
            return {**rest, f"{_BLOCK}_id": str(ids[str(action[_BLOCK])])}

        found = ((key, self.fields.get(key)) for key in _ACTIONS)
        lists = {key: list(map(with_id, each)) for key, each in found if isinstance(each, list)}
        return {**self.fields, **lists}

    def refusal(self, faults: Iterable[str]) -> CommandError:
        return CommandError("\n".join(f"{self.source}: {fault}" for fault in faults))


def parse_automations(source: str, text: str) -> list[AutomationSpec]:
    """The automations of a file, one a YAML document. Raises `CommandError` for what is no
    automation, and for keys that would be ignored."""
    try:
        documents = [each for each in YAML(typ="safe").load_all(text) if each is not None]
    except YAMLError as error:
        raise CommandError(f"{source}: is not YAML: {' '.join(str(error).split())}") from None
    if not documents:
        raise CommandError(f"{source}: holds no automation")
    return [_validated(source, document) for document in documents]


def _validated(source: str, document: object) -> AutomationSpec:
    if not isinstance(document, Mapping) or "trigger" not in document:
        raise CommandError(f"{source}: is no automation, which has a name, a trigger and actions")
    spec = AutomationSpec(source, document)
    plain = spec.with_ids(dict.fromkeys(spec.blocks, UUID(int=0)))
    try:
        known = AutomationCore.model_validate(plain).model_dump(mode="json")
    except ValidationError as error:
        raise spec.refusal(_sentences(error.errors())) from None
    if ignored := list(_ignored_keys(plain, known)):
        raise spec.refusal(f"{key}: is not a key of Prefect's that exists here" for key in ignored)
    return spec


def _sentences(found: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What pydantic says is wrong, without what an action would lack if it were another."""
    faults = [(tuple(each["loc"]), each) for each in found]
    # Where an action's type is not this one; its third place is the name of the type.
    others = {where[:3] for where, each in faults if each["type"] == "literal_error"}
    own = [(where, each) for where, each in faults if where[:3] not in others]
    for where, each in own:
        place = where[:2] + where[3:] if where[0] in _ACTIONS else where
        yield f"{'.'.join(map(str, place))}: {each['msg'].removeprefix('Value error, ')}"
    if not own:
        kinds = sorted({str(each["ctx"]["expected"]) for _, each in faults if "ctx" in each})
        yield f"{'.'.join(map(str, faults[0][0][:2]))}.type: takes {', '.join(kinds)}"


def _ignored_keys(given: object, known: object, path: str = "") -> Iterator[str]:
    """The keys that Prefect takes and forgets: a misspelt `within` would be its least value."""
    if isinstance(given, Mapping) and isinstance(known, Mapping):
        for key, value in given.items():
            where = f"{path}.{key}" if path else str(key)
            if key in known:
                yield from _ignored_keys(value, known[key], where)
            else:
                yield where
    elif isinstance(given, list) and isinstance(known, list):
        for index, (one, other) in enumerate(zip(given, known, strict=False)):
            yield from _ignored_keys(one, other, f"{path}.{index}")


def deploy_files(console: Console, names: Sequence[str]) -> int:
    """Deploy what the files say; a line for each automation."""
    specs = [each for name in names for each in _parse_files(name)]
    if not specs:
        raise CommandError("name files or folders of YAML, such as examples/automations")
    with api_errors():
        asyncio.run(_deploy(console, specs))
    return ExitStatus.SUCCEEDED


async def _deploy(console: Console, specs: Sequence[AutomationSpec]) -> None:
    """Create what the server does not have and update what it has otherwise. Nothing is touched
    unless all blocks are there and no two have one name."""
    _require_unique_names(specs)
    async with get_client() as client:
        blocks = sorted({block for each in specs for block in each.blocks})
        ids = {block: await _block_id(client, block, specs) for block in blocks}
        present = {each.name: await client.read_automations_by_name(each.name) for each in specs}
        if several := [name for name, found in present.items() if len(found) > 1]:
            raise CommandError(
                f"the server has several automations named {several[0]}: delete all of them but one"
            )
        for each in specs:
            new = AutomationCore.model_validate(each.with_ids(ids))
            try:
                done = await _create_or_update(client, each, new, present[each.name])
            except PrefectHTTPStatusError as error:
                if error.response.status_code != HTTPStatus.UNPROCESSABLE_ENTITY:
                    raise
                # Templates, which the server alone can check.
                found = error.response.json()["exception_detail"]
                faults = ({**fault, "loc": fault["loc"][1:]} for fault in found)
                raise each.refusal(_sentences(faults)) from None
            console.line(f"{done} {each.name}")
            console.record(done, name=each.name)


def _parse_files(name: str) -> Iterator[AutomationSpec]:
    if name == "-":
        yield from parse_automations("standard input", sys.stdin.read())
        return
    paths = sorted(Path(name).glob("*.yaml")) if Path(name).is_dir() else [Path(name)]
    if not paths:
        raise CommandError(f"{name}: this folder has no file *.yaml")
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{path}: cannot be read: {error}") from None
        yield from parse_automations(str(path), text)


def _require_unique_names(specs: Iterable[AutomationSpec]) -> None:
    """Of two with one name, no later deployment could tell which is meant."""
    sources: dict[str, str] = {}
    for each in specs:
        if each.name in sources:
            raise CommandError(
                f"{each.source}: a second automation named {each.name!r}, beside the one in "
                f"{sources[each.name]}: give one of them another name"
            )
        sources[each.name] = each.source


async def _create_or_update(
    client: PrefectClient, spec: AutomationSpec, new: AutomationCore, present: list[Automation]
) -> str:
    """What was done: `created`, `updated` or `unchanged`."""
    if not present:
        await client.create_automation(new)
        return "created"
    old = present[0]
    if "enabled" not in spec.fields:
        # Whoever paused it did so on purpose.
        new = new.model_copy(update={"enabled": old.enabled})
    if AutomationCore.model_validate(old.model_dump()) == new:
        return "unchanged"
    # Of a field that is not set, the server would keep what it has; an owner it takes not at all.
    whole = AutomationCore.model_validate(new.model_dump(exclude={"owner_resource"}))
    await client.update_automation(old.id, whole)
    return "updated"


async def _block_id(client: PrefectClient, name: str, specs: Iterable[AutomationSpec]) -> UUID:
    """The id of a notification block by its name, or by its type and name with a slash between."""
    kind, _, plain = name.rpartition("/")
    answer = await client.request(
        "POST",
        "/block_documents/filter",
        json={
            "block_documents": {"name": {"any_": [plain]}},
            "block_types": {"slug": {"any_": [kind]}} if kind else None,
            "block_schemas": {"block_capabilities": {"all_": ["notify"]}},
        },
    )
    blocks = TypeAdapter(list[BlockDocument]).validate_json(answer.content)
    found = {each.block_type.slug: each.id for each in blocks if each.block_type}
    if len(found) == 1:
        return found.popitem()[1]
    source = next(each.source for each in specs if name in each.blocks)
    if found:
        raise CommandError(
            f"{source}: several blocks are named {plain}: write one of "
            + ", ".join(f"{each}/{plain}" for each in sorted(found))
        )
    raise CommandError(
        f"{source}: no block that sends notifications is named {name}: make one in the UI below "
        "Blocks, of the type Slack Webhook, Microsoft Teams Webhook, Custom Webhook or another"
    )
