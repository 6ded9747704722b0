"""Names that Prefect shows: the flow run's, with repository, image and command at a glance for any
payload whatever, and the keys of its artifacts."""

from flows.errors import PayloadError
from flows.masking import Masker
from flows.payload.parse import parse
from flows.payload.repository import Remote
from flows.spec import command_summary

FLOW_NAME = "container-task"
# Of the artifacts that tell of a run; published.
REPORT_KEY = "container-run"
METADATA_KEY = "container-run-metadata"
TESTS_KEY = "container-run-tests"
OUTPUTS_KEY = "container-run-outputs"
USAGE_KEY = "container-run-usage"
FILES_KEY = "container-run-files"
PROGRESS_KEY = "container-run-progress"
PULL_PROGRESS_KEY = "image-pull"
_COMMAND_LENGTH = 60


def run_name(raw: object, masker: Masker | None = None) -> str:
    """A name of one line for the run of `raw`; a payload that is refused still gets one.

    `masker` knows every secret of the run. Before anybody has read them, a payload that names some
    gets a name without its command.
    """
    try:
        payload = parse(raw)
    except PayloadError as error:
        return f"refused payload: {error.faults[0].path}"
    container = payload.task.container
    if container.image is None or container.command is None:
        return "no container task"
    remote = payload.remote
    parts = [*([_repository(remote)] if remote else []), _image(container.image)]
    if masker is not None or not payload.secret_blocks:
        known = masker or Masker(remote.secrets if remote else ())
        parts.append(command_summary(known.words(container.command), _COMMAND_LENGTH))
    return " · ".join(parts)


def _repository(remote: Remote) -> str:
    path = remote.display.rstrip("/").removesuffix(".git")
    return "/".join(path.replace(":", "/").split("/")[-2:])


def _image(image: str) -> str:
    """Without the registry and the digest, which fill the line and tell little."""
    return "/".join(image.partition("@")[0].split("/")[-2:])
