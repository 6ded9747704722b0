"""A payload's JSON Schema as Prefect's submit form wants it.

One text serves the form, docs/payload.md and the refusals: the `description` of a field, in
Markdown. Its first sentence says what the field takes, so that a refusal can say "it takes …"; the
form and the page show all of it.
"""

from typing import Any, ClassVar, Protocol

from pydantic import Field

# The default of the flow's parameter, which Prefect reads as its schema: required, and in the form
# enabled already. A run without a payload gets pydantic's word for undefined.
PAYLOAD: Any = Field(
    json_schema_extra={"title": "Payload", "default": {"task": {"container": {"enabled": True}}}}
)


class _Model(Protocol):
    needs: ClassVar[frozenset[str]]


def for_the_form(schema: dict[str, Any], model: type[_Model]) -> None:
    """Change the schema of `model` in place, as its `json_schema_extra`.

    The form knows an order by `position` alone, marks as needed what `required` names, and shows a
    value that may be null as a choice between types; but null means absent, and absent it may be.
    """
    properties: dict[str, Any] = schema.get("properties", {})
    for position, (key, found) in enumerate(properties.items()):
        properties[key] = _not_null(found) | {"position": position}
    needed = {*schema.get("required", ()), *model.needs}
    schema["required"] = [key for key in properties if key in needed]


def _not_null(found: dict[str, Any]) -> dict[str, Any]:
    """The schema of a property without the possibility of null."""
    rest = {key: value for key, value in found.items() if (key, value) != ("default", None)}
    kinds = [kind for kind in rest.pop("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) > 1:
        return rest | {"anyOf": kinds}
    return {**(kinds[0] if kinds else {}), **rest}
