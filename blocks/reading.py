"""Load the Prefect block of a type that is in force: the saved one named `default`, or none."""

from typing import TypeVar

from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

NAME = "default"
B = TypeVar("B", bound=Block)


async def saved_or_default(kind: type[B], refusal: type[Exception]) -> B:
    """The saved block named `default`, or the built-in defaults where none is saved.

    Raises `refusal` with one sentence for a person for everything else: there is a block, or may
    be, and it cannot be had.
    """
    try:
        return await kind.aload(NAME)
    except Exception as error:
        if isinstance(error.__cause__, ObjectNotFound):
            return kind()
        raise refusal(_unreadable_block(f"{kind.get_block_type_slug()}/{NAME}", error)) from error


def _unreadable_block(slug: str, error: Exception) -> str:
    cause = error.__cause__ or error
    if not isinstance(cause, ValidationError):
        said = error_line(cause)
        return f"the block {slug} cannot be read ({said}): check that Prefect's API answers"
    said = invalid_fields(cause)
    return f"the block {slug} is not valid ({said}): correct it, or delete it to have the defaults"


def error_line(error: BaseException) -> str:
    """An exception's name and text."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def invalid_fields(error: ValidationError) -> str:
    """What is wrong with which field, without the values: one of them may be a password."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        ": ".join(filter(None, (".".join(map(str, fault["loc"])), fault["msg"])))
        for fault in faults
    )
