"""The artifacts on the page of a run, but for those that are made while it runs. Pure."""

import base64
import json
from collections.abc import Iterator

from prefect.client.schemas.actions import ArtifactCreate

from flows.report.names import METADATA_KEY, OUTPUTS_KEY, REPORT_KEY, TESTS_KEY, USAGE_KEY
from flows.report.run_json import RunReport, metadata_table
from flows.report.tables import table_of_outputs, table_of_tests
from flows.results import Results
from flows.text import escape


def run_artifacts(
    facts: RunReport, path: str, report: str, picture: str | None, results: Results | None
) -> Iterator[ArtifactCreate]:
    """What shows how an attempt went. The page of a run shows them in no order: Prefect sorts
    them by ids that are random.

    `path` is where `run.json` is, `report` Markdown, `picture` an SVG, `results` what the
    container left; None where there is none.
    """
    about = escape(f"{facts.outcome}: {facts.error or f'exited {facts.exit_code}'}")
    yield ArtifactCreate(key=REPORT_KEY, type="markdown", description=about, data=report)
    if results is not None and results.tests is not None:
        about = "What the test reports say, failures first"
        yield _table(TESTS_KEY, about, table_of_tests(results.tests))
    if results is not None and results.outputs:
        about = "What the task was to leave, and what of it there is"
        yield _table(OUTPUTS_KEY, about, table_of_outputs(results))
    if picture is not None:
        # Within its own address, for whoever sees the page.
        address = f"data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()}"
        about = "Memory and CPU of the container over time, against their limits"
        yield ArtifactCreate(key=USAGE_KEY, type="image", description=about, data=address)
    yield _table(METADATA_KEY, path, metadata_table(facts))


def _table(key: str, about: str, rows: object) -> ArtifactCreate:
    return ArtifactCreate(key=key, type="table", description=about, data=json.dumps(rows))
