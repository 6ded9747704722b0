"""The time limits behind the engine's own deadline, each longer than the one inside it.

The engine's deadline (`spec.timeout_seconds` from the container's start) is the one that is meant
to end a task. These end a run whose deadline, for whatever reason, did not.
"""

from flows.spec import ContainerSpec

# What the slowest engine that still answers takes to stop a container and to hand out its log.
EXECUTE_SLACK_SECONDS = 300.0
FLOW_SLACK_SECONDS = 600.0
# Of the publication alone, so that a task that used up its time still delivers its results.
PUBLISH_SECONDS = 900.0
# Of these for the upload, so that what is not uploaded by then is told; the sweep goes on with it.
UPLOAD_SECONDS = 840.0
# Somebody waits for the end of a run that is cancelled.
UPLOAD_CANCELED_SECONDS = 10.0


def execute_seconds(spec: ContainerSpec) -> float:
    """How long the execute task may take."""
    return spec.limit_seconds + EXECUTE_SLACK_SECONDS


def flow_seconds(spec: ContainerSpec) -> float:
    """How long the flow waits for the execute task."""
    return spec.limit_seconds + FLOW_SLACK_SECONDS
