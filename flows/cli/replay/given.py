"""Values for a replay's secrets from `--secret NAME` and `--secret-file NAME=FILE`.

Which variable or file of this machine a task is given, the person says who replays it, and never
the payload, which somebody else may have written.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from flows.cli.console import CommandError
from flows.payload import process

_MOST_BYTES = 512 * 1024


def given_values(names: Sequence[str], files: Sequence[str]) -> dict[str, str]:
    """The value of each variable that an option names. Raises `CommandError`."""
    found: dict[str, str] = {}
    for name, value in (*_from_environment(names), *_from_files(files)):
        if name in found:
            raise CommandError(f"{name} is given twice: leave one of the options out")
        found[name] = value
    return found


def require_named(given: Collection[str], secrets: Collection[str]) -> None:
    """Raise `CommandError` where an option gives what the task does not name."""
    for name in given:
        if name not in secrets:
            has = f"but {', '.join(secrets)}" if secrets else "nor any other"
            raise CommandError(f"--secret {name}: the task has no secret of that name, {has}")


def _from_environment(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        if "=" in name:
            raise CommandError(
                "--secret takes the name of a variable and reads its value from this environment: "
                "everybody on this machine can list the words of a command"
            )
        if name not in os.environ:
            raise CommandError(
                f"--secret {name}: there is no variable {name} in this environment: export it, or "
                f"give a file by --secret-file {name}=FILE"
            )
        yield name, os.environ[name]


def _from_files(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word in words:
        name, _, path = word.partition("=")
        if not name or not path:
            raise CommandError("--secret-file takes NAME=FILE, such as TOKEN=token.txt")
        yield name, _content(name, path)


def _content(name: str, path: str) -> str:
    """As `$(cat FILE)` has it, without the line ends at its end."""
    try:
        with Path(path).expanduser().open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        said = error.strerror or type(error).__name__
        raise CommandError(f"--secret-file {name}: cannot read {path}: {said}") from None
    if len(data) > _MOST_BYTES:
        raise CommandError(f"--secret-file {name}: {path} has more than 512 KiB")
    try:
        return process.variable(name, data.decode().rstrip("\r\n"))
    except UnicodeDecodeError:
        raise CommandError(f"--secret-file {name}: {path} is no text") from None
    except ValueError as error:
        raise CommandError(f"--secret-file {name}: {path} {error}") from None
