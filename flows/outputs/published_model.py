"""What the models of published files share: `run.json`, `outputs.json` and `manifest.json`."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class PublishedModel(BaseModel):
    """camelCase outside, snake_case inside, frozen, and nothing beyond the schema."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True
    )
