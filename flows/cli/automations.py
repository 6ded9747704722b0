"""Automations from files: Prefect's own fields, and a notification block by its name.

`prefect automation create` makes another automation each time, and knows a block by its id alone,
which no two servers share. Here an automation is known by its name, and made or changed as needed.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
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

from flows.cli.console import CommandError, Output
from flows.cli.exit_status import ExitStatus
from flows.cli.prefect_api import errors_told

# In an action, in place of Prefect's `block_document_id`: the block's name, or its type and name.
_BLOCK = "block_document"
_ACTIONS = ("actions", "actions_on_trigger", "actions_on_resolve")
_ANY_ID = UUID(int=0)
_BLOCKS = TypeAdapter(list[BlockDocument])


class AutomationRefused(Exception):
    """Automations cannot be deployed; `str()` has a sentence a line, each with its file."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An automation as its file says, which may name blocks that the server is to have."""

    source: str
    fields: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.fields["name"])

    @property
    def blocks(self) -> set[str]:
        """The blocks that its actions name."""
        return {str(action[_BLOCK]) for action in _actions(self.fields) if _BLOCK in action}


def read(source: str, text: str) -> list[Wanted]:
    """The automations of a file, one a YAML document.

    Raises `AutomationRefused` for what is no automation, and for keys that would be ignored.
    """
    try:
        documents = [each for each in YAML(typ="safe").load_all(text) if each is not None]
    except YAMLError as error:
        raise AutomationRefused(f"{source}: is not YAML: {' '.join(str(error).split())}") from None
    if not documents:
        raise AutomationRefused(f"{source}: holds no automation")
    found = []
    for document in documents:
        if not isinstance(document, Mapping) or "trigger" not in document:
            raise AutomationRefused(
                f"{source}: is no automation, which has a name, a trigger and actions"
            )
        wanted = Wanted(source, document)
        _judge(wanted)
        found.append(wanted)
    return found


def _judge(wanted: Wanted) -> None:
    plain = _with_blocks(wanted, dict.fromkeys(wanted.blocks, _ANY_ID))
    try:
        known = AutomationCore.model_validate(plain).model_dump(mode="json")
    except ValidationError as error:
        raise AutomationRefused(_lines(wanted, _faults(error.errors()))) from None
    if ignored := list(_ignored(plain, known)):
        raise AutomationRefused(
            _lines(
                wanted, [f"{key}: is not a key of Prefect's that exists here" for key in ignored]
            )
        )


def _faults(found: Iterable[Mapping[str, Any]]) -> Iterator[str]:
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


def _lines(wanted: Wanted, faults: Iterable[str]) -> str:
    return "\n".join(f"{wanted.source}: {fault}" for fault in faults)


def _ignored(given: object, known: object, path: str = "") -> Iterator[str]:
    """The keys that Prefect takes and forgets: a misspelt `within` would be its least value."""
    if isinstance(given, Mapping) and isinstance(known, Mapping):
        for key, value in given.items():
            where = f"{path}.{key}" if path else str(key)
            if key in known:
                yield from _ignored(value, known[key], where)
            else:
                yield where
    elif isinstance(given, list) and isinstance(known, list):
        for index, (one, other) in enumerate(zip(given, known, strict=False)):
            yield from _ignored(one, other, f"{path}.{index}")


async def deploy(client: PrefectClient, wanted: Sequence[Wanted]) -> AsyncIterator[tuple[str, str]]:
    """Make what the server does not have and change what it has otherwise.

    Yields what was done (`created`, `updated` or `unchanged`), and the name, for each.

    Nothing is touched unless all blocks are there and no two have one name: raises
    `AutomationRefused`.
    """
    _require_names(wanted)
    ids = {name: await _block_id(client, name, wanted) for name in _named(wanted)}
    present = {each.name: await client.read_automations_by_name(each.name) for each in wanted}
    if several := [name for name, found in present.items() if len(found) > 1]:
        raise AutomationRefused(
            f"the server has several automations named {several[0]}: delete all of them but one"
        )
    for each in wanted:
        automation = AutomationCore.model_validate(_with_blocks(each, ids))
        old = next(iter(present[each.name]), None)
        try:
            yield await _put(client, each, automation, old), each.name
        except PrefectHTTPStatusError as error:
            if error.response.status_code != HTTPStatus.UNPROCESSABLE_ENTITY:
                raise
            # Templates, which the server alone can judge.
            faults = [
                {**fault, "loc": fault["loc"][1:]}
                for fault in error.response.json()["exception_detail"]
            ]
            raise AutomationRefused(_lines(each, _faults(faults))) from None


def _require_names(wanted: Iterable[Wanted]) -> None:
    """Each its own: two of one name would be two automations, and no later deployment could tell
    which of them is meant."""
    sources: dict[str, str] = {}
    for each in wanted:
        if each.name in sources:
            raise AutomationRefused(
                f"{each.source}: a second automation named {each.name!r}, beside the one in "
                f"{sources[each.name]}: give one of them another name"
            )
        sources[each.name] = each.source


async def _put(
    client: PrefectClient, wanted: Wanted, new: AutomationCore, old: Automation | None
) -> str:
    if old is None:
        await client.create_automation(new)
        return "created"
    if "enabled" not in wanted.fields:
        # Whoever paused it did so on purpose.
        new = new.model_copy(update={"enabled": old.enabled})
    if AutomationCore.model_validate(old.model_dump()) == new:
        return "unchanged"
    # Of a field that is not set, the server would keep what it has; an owner it takes not at all.
    whole = AutomationCore.model_validate(new.model_dump(exclude={"owner_resource"}))
    await client.update_automation(old.id, whole)
    return "updated"


def _named(wanted: Iterable[Wanted]) -> list[str]:
    return sorted({name for each in wanted for name in each.blocks})


async def _block_id(client: PrefectClient, name: str, wanted: Iterable[Wanted]) -> UUID:
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
    blocks = _BLOCKS.validate_json(answer.content)
    found = {each.block_type.slug: each.id for each in blocks if each.block_type}
    if len(found) == 1:
        return found.popitem()[1]
    source = next(each.source for each in wanted if name in each.blocks)
    if found:
        raise AutomationRefused(
            f"{source}: several blocks are named {plain}: write one of "
            + ", ".join(f"{each}/{plain}" for each in sorted(found))
        )
    raise AutomationRefused(
        f"{source}: no block that sends notifications is named {name}: make one in the UI below "
        "Blocks, of the type Slack Webhook, Microsoft Teams Webhook, Custom Webhook or another"
    )


def _actions(fields: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for key in _ACTIONS:
        yield from filter(lambda each: isinstance(each, Mapping), fields.get(key) or ())


def _with_blocks(wanted: Wanted, ids: Mapping[str, UUID]) -> dict[str, Any]:
    """The fields as Prefect knows them."""

    def resolved(action: object) -> object:
        if not isinstance(action, Mapping) or _BLOCK not in action:
            return action
        rest = {key: value for key, value in action.items() if key != _BLOCK}
        return {**rest, f"{_BLOCK}_id": str(ids[str(action[_BLOCK])])}

    lists = {
        key: wanted.fields[key] for key in _ACTIONS if isinstance(wanted.fields.get(key), list)
    }
    return {**wanted.fields, **{key: list(map(resolved, each)) for key, each in lists.items()}}


def deployed(output: Output, names: Sequence[str]) -> int:
    """Deploy what the files say; a line for each automation."""
    try:
        wanted = [each for name in names for each in _read(name)]
        if not wanted:
            raise AutomationRefused("name files or folders of YAML, such as examples/automations")
        with errors_told():
            asyncio.run(_deploy(output, wanted))
    except AutomationRefused as error:
        raise CommandError(str(error)) from error
    return ExitStatus.SUCCEEDED


def _read(name: str) -> Iterator[Wanted]:
    if name == "-":
        yield from read("standard input", sys.stdin.read())
        return
    paths = sorted(Path(name).glob("*.yaml")) if Path(name).is_dir() else [Path(name)]
    if not paths:
        raise AutomationRefused(f"{name}: this folder has no file *.yaml")
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise AutomationRefused(f"{path}: cannot be read: {error}") from None
        yield from read(str(path), text)


async def _deploy(output: Output, wanted: list[Wanted]) -> None:
    async with get_client() as client:
        async for done, name in deploy(client, wanted):
            output.line(f"{done} {name}")
            output.record(done, name=name)
