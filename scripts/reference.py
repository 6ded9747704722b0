"""The tables of docs/payload.md, from the schema that the submit form shows."""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from flows.payload.models import TaskPayload
from scripts.stack import ROOT

PAGE = ROOT / "docs" / "payload.md"
_MARKED = re.compile(r"(<!-- keys of (\S+), by scripts/reference -->\n).*?(<!-- end -->)", re.S)
_DEFAULT = re.compile(r" Default: (.*)\.$", re.S)
_TOP = "payload"


def main() -> int:
    """Write the page anew, or with `--check` only say whether that would change it."""
    parser = argparse.ArgumentParser(prog="scripts/reference", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; 1 when it is stale")
    check = parser.parse_args().check
    old = PAGE.read_text()
    new = renewed(old)
    if check and new != old:
        print(f"{PAGE} is not what the schema says: run scripts/reference", file=sys.stderr)
        return 1
    if new != old:
        PAGE.write_text(new)
    return 0


def renewed(page: str) -> str:
    """The page with the tables between its marks as the schema has them."""
    schema = TaskPayload.model_json_schema()
    tables = {path for _, path, _ in _MARKED.findall(page)}

    def table(found: re.Match[str]) -> str:
        begin, path, end = found.groups()
        below = [] if path == _TOP else path.split(".")
        model: dict[str, Any] = schema
        for key in below:
            model = _model(schema, model["properties"][key])
        rows = _rows(schema, model, prefix="", path=path, others=tables)
        return "\n".join([begin, "| key | default | rule |", "| --- | --- | --- |", *rows, "", end])

    return _MARKED.sub(table, page)


def _rows(
    schema: dict[str, Any], model: dict[str, Any], *, prefix: str, path: str, others: set[str]
) -> Iterator[str]:
    """A row for every key of `model`, and for those below it that have no table of their own."""
    for key, field in model["properties"].items():
        place = key if path == _TOP else f"{path}.{key}"
        inner = _model(schema, field)
        if place in others:
            continue
        if "items" in field or not inner:
            yield _row(prefix + key, field, needed=key in model["required"])
        if inner:
            below = f"{prefix}{key}[]." if "items" in field else f"{prefix}{key}."
            yield from _rows(schema, inner, prefix=below, path=place, others=others)


def _row(key: str, field: dict[str, Any], *, needed: bool) -> str:
    told = _DEFAULT.search(field["description"])
    if "default" in field or field.get("type") == "object":
        default = f"`{_plain(field.get('default', {}))}`"
    else:
        default = "required" if needed else told[1] if told else "none"
    rule = _DEFAULT.sub("", field["description"]).replace("|", r"\|")
    return f"| `{key}` | {default} | {rule} |"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _model(schema: dict[str, Any], field: dict[str, Any]) -> dict[str, Any]:
    """The model that a field, or each item of it, holds; empty for a plain value."""
    name = field.get("$ref") or field.get("items", {}).get("$ref") or ""
    model: dict[str, Any] = schema["$defs"].get(name.rpartition("/")[2], {})
    return model


if __name__ == "__main__":
    sys.exit(main())
