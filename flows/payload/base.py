"""What the models of a payload share: names, null as absence, and a schema for Prefect's form.

One text serves the form, docs/payload.md and the refusals: the `description` of a field, in
Markdown. Its first sentence says what the field takes, so that a refusal can say "it takes …". A
last sentence "Default: …" stands where the schema has no default to say it.
"""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel


def for_the_form(schema: dict[str, Any], model: "type[PayloadModel]") -> None:
    """Change the schema of `model` in place: Prefect's form orders by `position`, marks what is in
    `required`, and would show a value that may be null as a choice between types."""
    properties: dict[str, Any] = schema.get("properties", {})
    for position, (key, found) in enumerate(properties.items()):
        properties[key] = _not_null(found) | {"position": position}
    needed = {*schema.get("required", ()), *model.needs}
    schema["required"] = [key for key in properties if key in needed]


def _not_null(found: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in found.items() if (key, value) != ("default", None)}
    kinds = [kind for kind in rest.pop("anyOf", ()) if kind != {"type": "null"}]
    return rest | {"anyOf": kinds} if len(kinds) > 1 else {**(kinds[0] if kinds else {}), **rest}


class PayloadModel(BaseModel):
    """camelCase outside, snake_case inside, frozen, and `null` means absent."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        alias_generator=to_camel,
        hide_input_in_errors=True,
        json_schema_extra=for_the_form,
    )
    # Keys that the form marks as needed, beside those without a default.
    needs: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None}
