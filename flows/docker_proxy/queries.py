"""What may follow the question mark of a call: names and values, each once. Pure."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from pydantic import AfterValidator, Field

from flows.docker_proxy.names import CONTAINER, IMAGE, PLATFORM, TAG, matching
from flows.docker_proxy.strict_json import ONE, Exact, held, parse
from flows.spec import LABEL_JOB_ID

Flag = Literal["0", "1", "true", "false", "True", "False"]
No = Literal["0", "false", "False"]
Seconds = Annotated[str, matching(r"[0-9]{1,12}(?:\.[0-9]{1,9})?")]
Platform = Annotated[str, matching(PLATFORM)]


def _filters(model: type[Exact]) -> AfterValidator:
    """For JSON in a parameter, which is written anew."""

    def check(text: str) -> str:
        return held(model, parse(text, "filters"), "filters").as_json()

    return AfterValidator(check)


class Query(Exact):
    """The base of all; alone, it is no parameter at all."""

    def encoded(self) -> str:
        """As it goes to the engine; empty, or with its question mark."""
        said: dict[str, Any] = self.model_dump(exclude_unset=True)
        return f"?{urlencode(said)}" if said else ""


class Create(Query):
    name: Annotated[str, matching(CONTAINER)]
    platform: Platform = ""


class Logs(Query):
    stdout: Flag = "0"
    stderr: Flag = "0"
    follow: Flag = "0"
    timestamps: No = "0"
    since: Seconds = ""
    tail: Annotated[str, matching("all|[0-9]{1,9}")] = ""


class Attach(Query):
    """Output alone: what is read from a container that was given no input."""

    stdout: Flag = "0"
    stderr: Flag = "0"
    stream: Flag = "0"
    logs: No = "0"
    # docker-py hands on what a person's own configuration has for them.
    detachKeys: Annotated[str, matching("[ -~]{0,64}")] = ""


class Stats(Query):
    stream: Flag = "0"


class Stop(Query):
    t: Annotated[str, matching("[0-9]{1,9}")] = ""


class RemoveContainer(Query):
    v: Flag = "0"
    force: Flag = "0"
    link: No = "0"


class Pull(Query):
    """From a registry; an import has no `fromImage`."""

    fromImage: Annotated[str, matching(IMAGE)]
    tag: Annotated[str, matching(TAG)]
    platform: Platform = ""


class _EventFilters(Exact):
    container: Annotated[list[Annotated[str, matching(CONTAINER)]], ONE]
    event: Annotated[list[Literal["kill", "oom", "die", "destroy"]], Field(min_length=1)]
    type: Annotated[list[Literal["container"]], ONE]


class Events(Query):
    """They tell of everything on the host: only those of one task's container, until a time or its
    reader goes."""

    since: Seconds
    until: Seconds
    filters: Annotated[str, _filters(_EventFilters)]


class _OursFilters(Exact):
    label: Annotated[list[Annotated[str, matching(re.escape(LABEL_JOB_ID))]], ONE]


class Listing(Query):
    """Of what carries a job's label, and nothing else."""

    filters: Annotated[str, _filters(_OursFilters)]


class _NetworkFilters(Exact):
    """Those that an engine makes itself: a listing tells of no containers."""

    type: Annotated[list[Literal["builtin"]], ONE]


class NetworkListing(Query):
    filters: Annotated[str, _filters(_NetworkFilters)]


class ContainerListing(Listing):
    limit: Literal["-1"] = "-1"
    all: Flag = "0"
    size: No = "0"
    trunc_cmd: No = "0"
