"""Load the Prefect block of a type that is in force: the saved one named `default`, or none."""

from typing import TypeVar

from flows.text import one_line  # noqa: TID251 - a rule for texts, pure
from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

NAME = "default"
# Prefect's API, or what stands before it, may say more than a sentence has.
_MAX_SAID = 500
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


def reason(error: BaseException) -> str:
    """Why a block could not be loaded, without what is in it."""
    cause = error.__cause__ or error
    return invalid_fields(cause) if isinstance(cause, ValidationError) else error_line(cause)


def error_line(error: BaseException) -> str:
    """An exception's name and text, on one line, in bounds."""
    return one_line(f"{type(error).__name__}: {error}", _MAX_SAID)


def invalid_fields(error: ValidationError) -> str:
    """What is wrong with which field, without the values: one of them may be a password."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    told = (
        ": ".join(filter(None, (".".join(map(str, fault["loc"])), fault["msg"])))
        for fault in faults
    )
    return one_line("; ".join(told), _MAX_SAID)
