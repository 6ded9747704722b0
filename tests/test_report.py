"""How it went, for people and programs: sentences, Markdown, and run.json with its schema."""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jsonschema
import pytest
from markdown_it import MarkdownIt
from rich.console import Console
from rich.markdown import Markdown

from flows.attempt import Executed, Prepared, RetryRules, Upload
from flows.engine.types import ContainerState, Image, Usage
from flows.errors import (
    CapabilityMissing,
    EngineRefused,
    EngineUnavailable,
    ImageError,
    PayloadError,
    WorkspaceError,
)
from flows.outcome import (
    FailureClass,
    Outcome,
    OutcomeName,
    StoppedBy,
    container_outcome,
    outcome_of,
)
from flows.payload.parse import parse
from flows.report import names
from flows.report.artifacts import metadata
from flows.report.page import markdown, rejection_markdown
from flows.report.run_json import Artifact, RunReport, run_report
from flows.workspace.folder import Workspace
from flows.workspace.listing import Entry, Listing
from flows.workspace.logs import LogFacts
from tests.specs import IMAGE, NOW, compiled
from tests.strategies import FULL, enabled

SCHEMA = Path(__file__).parent.parent / "docs" / "run.schema.json"
REGENERATE = (
    "python -c 'import json; from flows.report.run_json import RunReport; print(json.dumps("
    'RunReport.model_json_schema(by_alias=True, mode="serialization"), indent=2))\''
    " > docs/run.schema.json"
)
LOG = LogFacts(bytes=12, lines=2, dropped_from_ui=0, error=None, tail="one\nlast line\n")
FOUND = Listing(
    (
        Entry("container/logs/runner.log", "file", 12, "0" * 64),
        Entry("away", "symlink", 0, None),
    )
)


NO_RETRY = RetryRules(0, 0, {})


def ended(exit_code: int | None, *, oom: bool = False, late: bool = False) -> Outcome:
    state = ContainerState(False, exit_code, oom, started_at=NOW, finished_at=NOW)
    stopped_by = StoppedBy.DEADLINE if late else StoppedBy.CONTAINER
    return container_outcome(compiled(FULL), state, stopped_by)


def refusal() -> PayloadError:
    with pytest.raises(PayloadError) as error:
        parse(enabled(image="UPPER; a: b", imagee="x", timeoutSeconds=0))
    return error.value


OUTCOMES = {
    "succeeded": ended(0),
    "failed": ended(3),
    "signalled": ended(139),
    "not found": ended(127),
    "not executable": ended(126),
    "timed out": ended(143, late=True),
    "timed out, exit 0": ended(0, late=True),
    "out of memory": ended(137, oom=True),
    "killed": ended(137),
    "canceled": Outcome(OutcomeName.CANCELED, FailureClass.CANCELED, "somebody cancelled the run"),
    "no capability": outcome_of(CapabilityMissing("this worker lacks the capability gpu")),
    "refused": outcome_of(EngineRefused("Docker refused while creating: 99 CPUs")),
    "no image": outcome_of(ImageError("cannot pull the image busybox: not found")),
    "no engine": outcome_of(EngineUnavailable("Docker does not answer")),
    "no disk": outcome_of(WorkspaceError("cannot make the job folder")),
}
each_outcome = pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=OUTCOMES)


def reported(outcome: Outcome = OUTCOMES["succeeded"], **changes: Any) -> RunReport:
    spec = replace(compiled(FULL), **changes.pop("spec", {}))
    prepared = Prepared(
        Workspace(Path("/srv/jobs"), spec.job_id),
        spec,
        "https://example.org/a.git",
        "c" * 40,
        None,
        NO_RETRY,
        0.1,
    )
    ended = datetime(2026, 2, 3, 4, 6, 0, 250_000, tzinfo=UTC)
    image = changes.pop("image_of", IMAGE)
    executed = Executed(replace(outcome, image=image), LOG, NOW, ended)
    return run_report(replace(prepared, **changes), executed, FOUND)


@pytest.mark.parametrize(
    ("case", "name", "says"),
    [
        ("succeeded", None, "exited 0"),
        ("failed", None, "exited 3: see the end of runner.log. Its last line: last line"),
        ("signalled", None, "exited 139, ended by SIGSEGV: the program used memory"),
        (
            "not found",
            None,
            "exited 127, which usually means that a command was not found: check that 'bash'",
        ),
        (
            "not executable",
            None,
            "exited 126, which usually means that a file is not executable: check",
        ),
        ("timed out", "TimedOut", "ran longer than its limit of 3600 s and was stopped: raise"),
        ("timed out, exit 0", "TimedOut", "ran longer than its limit"),
        ("out of memory", "OutOfMemory", "ran out of memory at its limit of 16384 MiB: raise"),
        ("killed", None, "exited 137"),
        ("canceled", None, "somebody cancelled the run"),
        ("no capability", "Rejected", "this worker lacks the capability gpu"),
        ("refused", "Rejected", "Docker refused while creating: 99 CPUs"),
        ("no image", "ImageError", "cannot pull the image busybox: not found"),
        ("no engine", "InfrastructureError", "Docker does not answer"),
        ("no disk", "InfrastructureError", "cannot make the job folder"),
    ],
)
def test_the_state_says_how_it_ended(case: str, name: str | None, says: str) -> None:
    outcome = OUTCOMES[case]
    assert names.state_name(outcome) == name
    assert names.state_message(outcome, LOG).startswith(says)


def test_every_outcome_is_among_those_tested() -> None:
    assert {outcome.name for outcome in OUTCOMES.values()} == set(OutcomeName)


@pytest.mark.parametrize(
    ("tail", "line"),
    [
        ("", ""),
        ("\n \n\t\n", ""),
        ("a\n  error: no\n\n", "error: no"),
        ("x" * 999, "x" * 199 + "…"),
        ("\x1b[1;31merror\x1b[0m: no\x1b[K", "error: no"),
        ("no\n\x1b[0m\x1b[?25h\n", "no"),
        ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b", "ab"),
        ("\x9b31ma\x1b(B\x1b=\x1b7b", "ab"),
        ("10 %\r20 %\x08\x07\tdone\x7f", r"20 %\x08 done\x7f"),
        ("\x1b]0;no end\nreason", "reason"),
        ("\x1b", ""),
    ],
)
def test_a_failed_state_shows_the_last_line_that_says_anything(tail: str, line: str) -> None:
    message = "exited 3: see the end of runner.log" + (f". Its last line: {line}" if line else "")
    assert names.state_message(OUTCOMES["failed"], replace(LOG, tail=tail)) == message


@pytest.mark.parametrize(
    ("case", "name"),
    [("failed", "Exited 3"), ("timed out", "TimedOut"), ("no image", "ImageError"),
     ("canceled", "Failed")],
)  # fmt: skip
def test_a_stage_is_named_after_what_ended_it(case: str, name: str) -> None:
    assert names.stage_name(OUTCOMES[case]) == name


def test_run_json_has_the_facts_of_the_attempt() -> None:
    written = json.loads(reported(OUTCOMES["failed"]).as_json())
    expected = {
        "schemaVersion": 1,
        "jobId": "7f1e",
        "attempt": 2,
        "repository": "https://example.org/a.git",
        "commit": "c" * 40,
        "containerName": "mm-task-7f1e-2",
        "image": "mcr.microsoft.com/dotnet/sdk:8.0",
        "imageId": IMAGE.id,
        "imageDigest": None,
        "imagePlatform": None,
        "imageCacheHit": None,
        "imagePulledBytes": None,
        "imagePullSeconds": None,
        "command": ["bash", "-lc", "dotnet test ./Game.sln --logger junit"],
        "commandSummary": "bash -lc 'dotnet test ./Game.sln --logger junit'",
        "pullMode": "if-missing",
        "workdir": "/work/agent_jobs/7f1e/repo",
        "artifactDir": "/work/agent_jobs/7f1e/artifacts/container",
        "timeoutSeconds": 3600,
        "timedOut": False,
        "exitCode": 3,
        "oomKilled": False,
        "outcome": "failed",
        "failureClass": "exit-code",
        "error": "exited 3: see the end of runner.log",
        "startedAt": "2026-02-03T04:05:06Z",
        "finishedAt": "2026-02-03T04:06:00.250000Z",
        "durationSeconds": 54.25,
        "worker": "host-1",
        "logs": {"bytes": 12, "complete": True, "droppedFromUi": 0, "lines": 2, "reconnects": 0},
    }
    assert {key: written[key] for key in expected} == expected
    assert written["artifacts"][1] == {
        "path": "away", "kind": "symlink", "sizeBytes": 0, "sha256": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("image", "keys", "row"),
    [
        (
            Image("sha256:1", "sha256:2", "linux/arm64/v8", False, 3 * 2**20, 4.25),
            ("linux/arm64/v8", False, 3 * 2**20, 4.25),
            "linux/arm64/v8, 3 MiB in 4.2 s",
        ),
        (
            Image("sha256:1", "", "linux/amd64", True, 0, 0.0),
            ("linux/amd64", True, 0, 0.0),
            "linux/amd64, present already",
        ),
        (Image("sha256:1"), (None, None, None, None), "unknown"),
    ],
)
def test_a_report_tells_how_the_image_came(
    image: Image, keys: tuple[object, ...], row: str
) -> None:
    facts = reported(OUTCOMES["failed"], image_of=image)
    image_keys = ("imagePlatform", "imageCacheHit", "imagePulledBytes", "imagePullSeconds")
    written = json.loads(facts.as_json())
    assert tuple(written[name] for name in image_keys) == keys
    assert page(markdown(facts, LOG)).facts["Pull"] == row


def schema() -> Any:
    return json.loads(SCHEMA.read_text())


def faults(document: object) -> Iterator[jsonschema.ValidationError]:
    validator = jsonschema.Draft202012Validator
    return validator(schema(), format_checker=validator.FORMAT_CHECKER).iter_errors(document)


def test_the_published_schema_is_up_to_date() -> None:
    current = RunReport.model_json_schema(by_alias=True, mode="serialization")
    assert schema() == current, f"run: {REGENERATE}"
    jsonschema.Draft202012Validator.check_schema(current)


@each_outcome
def test_run_json_keeps_to_its_schema(outcome: Outcome) -> None:
    assert list(faults(json.loads(reported(outcome).as_json()))) == []


@pytest.mark.parametrize(
    "change",
    [
        {"startedAt": "yesterday"},
        {"startedAt": "2026-02-03T04:05:06"},
        {"outcome": "fine"},
        {"exitCode": "0"},
        {"schemaVersion": 2},
        {"durationSeconds": -1},
        {"surprise": 1},
        {"jobId": None},
    ],
)
def test_the_schema_refuses_what_is_no_report(change: Any) -> None:
    assert list(faults(json.loads(reported().as_json()) | change))


def test_every_key_of_a_report_is_always_there() -> None:
    written = set(json.loads(reported(OUTCOMES["no engine"]).as_json()))
    assert written == set(schema()["required"]) == set(schema()["properties"])


def test_an_incomplete_log_is_not_called_complete() -> None:
    spec = compiled(FULL)
    prepared = Prepared(Workspace(Path("/j"), "1"), spec, None, None, None, NO_RETRY, 0.1)
    log = replace(LOG, error="runner.log is incomplete: No space left on device")
    executed = Executed(ended(0), log, NOW, NOW + timedelta(seconds=1))
    facts = run_report(prepared, executed, Listing(()))
    assert facts.logs.complete is False
    assert "No space left on device" in page(markdown(facts, log)).text


@pytest.mark.parametrize(
    ("case", "begins", "ends"),
    [
        ("succeeded", "exited 0. Its files are on its host", "the sweep tries again"),
        ("failed", "exited 3: see the end of runner.log. Its files", ". Its last line: last line"),
    ],
)
def test_what_keeps_an_upload_is_said_beside_the_outcome(case: str, begins: str, ends: str) -> None:
    upload = Upload("s3://bucket", "the bucket is *gone*")
    said = names.state_message(OUTCOMES[case], LOG, upload)
    assert said.startswith(begins)
    assert said.endswith(ends)
    assert "not uploaded: the bucket is *gone*; the sweep" in said
    shown = page(markdown(reported(OUTCOMES[case]), LOG, upload=upload))
    assert "not uploaded: the bucket is *gone*" in shown.text
    assert "Uploaded to" not in shown.facts
    assert shown.links == []


def test_the_report_says_where_the_files_are() -> None:
    shown = page(markdown(reported(), LOG, upload=Upload("s3://bucket/7f1e/2")))
    assert shown.facts["Uploaded to"] == "s3://bucket/7f1e/2"
    assert shown.links == ["s3://bucket/7f1e/2/container/logs/runner.log"]


def test_a_link_leads_to_the_file_whatever_its_name_is() -> None:
    names = ["a b/c).txt", "x](http://evil.example)", "q?#|.txt", "bytes\\xff"]
    files = [Artifact(path=n, kind="file", size_bytes=1, sha256=None) for n in names]
    facts = reported().model_copy(update={"artifacts": files})
    shown = page(markdown(facts, LOG, upload=Upload("https://store.example/7f1e/2")))
    assert [unquote(unquote(link)) for link in shown.links] == [
        f"https://store.example/7f1e/2/{name}" for name in names[:3]
    ]


class Page(HTMLParser):
    """What a Markdown renderer makes of a report: its elements, its cells, points and text.

    `blocks` are the fenced ones, in their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.points: list[str] = []
        self.links: list[str] = []
        self.blocks: list[str] = []
        self.text = ""
        self._into: list[str] | None = None

    @property
    def facts(self) -> dict[str, str]:
        """The points that are `name: value`."""
        return {
            name: value for name, colon, value in (p.partition(": ") for p in self.points) if colon
        }

    @property
    def table(self) -> dict[str, list[str]]:
        """The rows of stages and resources, by their first cell."""
        stages, rows = self.cells.index("Time"), self.cells
        return {
            row[0]: row[1:]
            for half in (rows[:stages], rows[stages:])
            for row in (half[i : i + 4] for i in range(0, len(half), 4))
        }

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        into = {"td": self.cells, "li": self.points, "pre": self.blocks}
        if tag in into:
            self._into = into[tag]
            self._into.append("")
        if tag == "a":
            self.links.append(dict(attrs)["href"] or "")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "li", "pre"):
            self._into = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._into is not None:
            self._into[-1] += data


def page(markdown: str) -> Page:
    parsed = Page()
    parsed.feed(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown))
    return parsed


def terminal(markdown: str) -> list[str]:
    """The lines that a terminal of 80 columns shows."""
    screen = io.StringIO()
    Console(file=screen, width=80).print(Markdown(markdown))
    return screen.getvalue().splitlines()


HOSTILE = [
    "`code` ``more`` ```",
    "grep 'a\\|b' | cut -d\\| -f1",
    "[click](javascript:alert(1)) ![x](http://example.org/x.png)",
    "<script>alert(1)</script> <img src=x onerror=alert(1)> &lt;b&gt;",
    "# title\n\n| a | b |\n| --- | --- |\n| 1 | 2 |",
    "**bold** _it_ ~~gone~~ \\` \\",
    "```\n</pre><h1>out</h1>\n````\n~~~",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text_in_the_report(text: str) -> None:
    outcome = replace(OUTCOMES["failed"], error=text, cleanup_error=text)
    facts = reported(outcome, instructions=text, repository=text, spec={"command": (text,)})
    facts = facts.model_copy(
        update={"artifacts": [Artifact(path=text, kind="file", size_bytes=1, sha256=None)]}
    )
    attempts = [outcome, outcome]
    shown = page(markdown(facts, replace(LOG, tail=text), attempts))
    assert set(shown.tags) <= {
        "h1", "h2", "p", "blockquote", "table", "thead", "tbody", "tr", "th", "td", "ul", "li",
        "code", "pre",
    }  # fmt: skip
    assert [shown.tags.count(tag) for tag in ("h1", "h2", "table", "ul", "pre")] == [1, 7, 3, 2, 2]
    assert len(shown.cells) == 4 * 2 + 4 * 7 + 3 * 2
    assert len(shown.points) == 1 + 11
    flat = " ".join(text.split())
    assert shown.facts["Command"] == facts.command_summary
    assert [" ".join(shown.facts["Repository"].split()), shown.cells[-1]] == [flat, flat]
    assert " ".join(shown.points[0].split()) == f"{flat}, 1 B"
    assert shown.text.count(flat) >= 5
    assert shown.blocks == [text.rstrip("\n") + "\n", facts.docker_run + "\n"]


UNSEEN = "\x1b[2J\x1b]0;owned\x07a\x1b\x07\x08b\u202egnp.exe\u2028c\x9b1md"


def test_nothing_that_acts_in_a_terminal_gets_into_a_report() -> None:
    outcome = replace(OUTCOMES["failed"], error=UNSEEN, cleanup_error=UNSEEN)
    facts = reported(outcome, instructions=UNSEEN, repository=UNSEEN, spec={"command": (UNSEEN,)})
    file = Artifact(path=UNSEEN, kind="file", size_bytes=1, sha256=None)
    facts = facts.model_copy(update={"artifacts": [file]})
    text = markdown(facts, replace(LOG, tail=UNSEEN), [outcome] * 2, Upload("s3://b"))
    assert [char for char in text if not char.isprintable() and char != "\n"] == []
    assert page(text).points[0].startswith("\\x1b[2J\\x1b]0;owned\\x07a")


@pytest.mark.parametrize(
    ("tail", "shown"),
    [
        ("\x1b[1;31merror\x1b[0m: no\x1b[K\n", "error: no"),
        ("10 %\r20 %\r100 %\ndone\r\n", "100 %\ndone"),
        ("a\tb\n\n  c\n", "a\tb\n\n  c"),
        ("\r", "(no output)"),
        ("", "(no output)"),
    ],
)
def test_the_last_lines_are_those_that_a_terminal_would_have_left(tail: str, shown: str) -> None:
    blocks = page(markdown(reported(), replace(LOG, tail=tail))).blocks
    assert blocks[0] == f"{shown}\n"


def test_a_report_shows_the_facts_and_the_last_lines() -> None:
    usage = Usage(
        2**29,
        cpu_seconds=108.0,
        block_read_bytes=0,
        network_sent_bytes=1234,
        samples=3,
        peak_pids=41,
    )
    outcome = replace(
        OUTCOMES["failed"],
        usage=usage,
        stages={"run": 54.0},
        finished_at=NOW + timedelta(seconds=54),
    )
    shown = page(markdown(reported(outcome, instructions="Run it"), LOG))
    assert (shown.facts["Exit code"], shown.facts["Ended by"]) == ("3", "itself")
    assert shown.table == {
        "prepare": ["0.1 s", "0 %", "░" * 20],
        "run": ["54 s", "100 %", "█" * 20],
        "publish": ["0 s", "0 %", "░" * 20],
        "Time": ["54 s", "1 h", "2 %"],
        "Memory": ["512 MiB at its peak", "16 GiB", "3 %"],
        "CPU": ["108.0 CPU-seconds, 2 CPUs on average", "8 CPUs", "25 %"],
        "Processes": ["41 at their peak, threads included", "4,096", "1 %"],
        "Shared memory": ["not measured", "64 MiB", ""],
        "Disk": ["0 B read", "none", ""],
        "Network": ["1.21 KiB sent", "none", ""],
    }
    assert shown.facts["Commit"] == "c" * 40
    assert shown.points[:2] == [
        f"container/logs/runner.log, 12 B, sha256 {'0' * 12}",
        "away, a link",
    ]
    assert shown.blocks[0] == "one\nlast line\n"
    assert "Run it" in shown.text


@pytest.mark.parametrize(
    ("outcome", "heading", "advice"),
    [
        ("succeeded", "Succeeded", "Exited 0 after 54 s."),
        ("failed", "Failed", "Exited 3: see the end of runner.log."),
        ("timed out", "Stopped at its time limit", "Ran longer than its limit of 3600 s"),
        ("out of memory", "Ran out of memory", "Ran out of memory at its limit of 16384 MiB"),
        ("canceled", "Canceled", "Somebody cancelled the run."),
        ("no image", "Its image could not be had", "Cannot pull the image busybox: not found."),
        ("no engine", "The host failed, not the task", "Docker does not answer."),
        ("no capability", "Rejected", "This worker lacks the capability gpu."),
    ],
)
def test_a_report_begins_with_the_outcome_and_what_to_do(
    outcome: str, heading: str, advice: str
) -> None:
    shown = page(markdown(reported(OUTCOMES[outcome]), LOG)).text
    assert shown.startswith(f"{heading}\n{advice}")


def test_the_image_is_named_by_its_digest() -> None:
    digest = "sha256:" + "d" * 64
    facts = reported(image_of=Image("sha256:1", digest))
    shown = page(markdown(facts, LOG))
    assert shown.facts["Exact image"] == f"mcr.microsoft.com/dotnet/sdk@{digest}"
    assert f"sdk@{digest} bash -lc" in shown.blocks[1]


def test_a_terminal_of_80_columns_cuts_nothing_off() -> None:
    path = "/".join(["a-folder-with-a-long-name"] * 6)
    digest = "sha256:" + "d" * 64
    file = Artifact(path=path, kind="file", size_bytes=1, sha256="0" * 64)
    facts = reported(
        replace(OUTCOMES["failed"], error="word " * 60), image_of=Image("sha256:1", digest)
    ).model_copy(update={"artifacts": [file]})
    lines = terminal(markdown(facts, replace(LOG, tail="x" * 200), [OUTCOMES["failed"]] * 2))
    joined = "".join(line.strip() for line in lines)
    assert max(map(len, lines)) <= 80
    assert "…" not in joined
    for whole in (path, digest, "x" * 200, facts.container_name):
        assert whole in joined


def test_a_command_that_fills_the_page_is_left_to_run_json() -> None:
    facts = reported(spec={"command": ("x" * 9000,)})
    shown = page(markdown(facts, LOG))
    assert len(shown.blocks) == 1
    assert "it is dockerRun in run.json" in shown.text


@pytest.mark.parametrize(
    ("outcome", "exit_code", "ended_by"),
    [
        ("killed", "137, SIGKILL", "itself"),
        ("timed out", "143, SIGTERM", "its time limit"),
        ("no engine", "none", "it never ran"),
    ],
)
def test_a_report_tells_who_ended_it_and_with_which_signal(
    outcome: str, exit_code: str, ended_by: str
) -> None:
    shown = page(markdown(reported(OUTCOMES[outcome]), LOG))
    assert (shown.facts["Exit code"], shown.facts["Ended by"]) == (exit_code, ended_by)
    assert "It ended before its use of resources was first measured" in shown.text
    assert shown.table["Memory"][0] == shown.table["CPU"][0] == "unknown"


def test_a_report_lists_fifty_files_and_counts_the_rest() -> None:
    files = [Artifact(path=f"f{i}", kind="file", size_bytes=i, sha256=None) for i in range(60)]
    shown = page(markdown(reported().model_copy(update={"artifacts": files}), LOG))
    assert len(shown.points) == 50 + 11
    assert "Files (60)" in shown.text
    assert "and 10 more: all are in run.json" in shown.text


def test_what_no_list_has_room_for_is_counted() -> None:
    facts = reported().model_copy(update={"artifacts_left_out": 7})
    shown = page(markdown(facts, LOG))
    assert "Files (9)" in shown.text
    assert "and 7 more that are listed nowhere" in shown.text
    assert json.loads(facts.as_json())["artifactsLeftOut"] == 7


def test_a_refusal_is_a_list_with_a_line_a_fault() -> None:
    error = refusal()
    shown = page(rejection_markdown(outcome_of(error), error.faults))
    assert [tag for tag in shown.tags if tag != "code"] == ["h1", "ul", "li", "li", "li"]
    assert "task.container.image: is 'UPPER; a: b', not an image name; it takes" in shown.text
    assert "task.container.imagee: is not a key that exists here; did you mean" in shown.text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text_in_a_refusal(text: str) -> None:
    outcome = Outcome(OutcomeName.REJECTED, FailureClass.REPOSITORY, text)
    shown = page(rejection_markdown(outcome))
    assert set(shown.tags) <= {"h1", "ul", "li", "p", "code"}
    assert " ".join(text.split()) in shown.text


def test_the_metadata_table_cuts_what_the_page_would_cut() -> None:
    outcome = replace(OUTCOMES["failed"], error="long " * 100)
    rows = metadata(reported(outcome))
    assert len(rows["error"]) == 120
    assert rows["error"].endswith("long…")


def test_the_metadata_table_has_a_row_for_every_plain_key() -> None:
    rows = metadata(reported())
    assert rows["exitCode"] == "0"
    assert rows["error"] == ""
    assert rows["outcome"] == "succeeded"
    assert rows["limits.memoryBytes"] == str(16 * 2**30)
    assert rows["stageSeconds.prepare"] == "0.1"
    assert rows["usage.peakMemoryBytes"] == ""
    assert {"logs", "artifacts", "command", "dockerRun"}.isdisjoint(rows)


def test_the_page_on_reports_lists_every_artifact() -> None:
    text = (SCHEMA.parent / "reports.md").read_text()
    listed = re.findall(r"^\| `([a-z-]+)` \| (?:markdown|table|image|progress) \|", text, re.M)
    keys = {
        names.REPORT_KEY,
        names.METADATA_KEY,
        names.TESTS_KEY,
        names.OUTPUTS_KEY,
        names.USAGE_KEY,
        names.PROGRESS_KEY,
        names.FILES_KEY,
        names.PULL_PROGRESS_KEY,
    }
    assert set(listed) == keys
    assert all(outcome in re.findall(r"^\| `([a-z-]+)` \|", text, re.M) for outcome in OutcomeName)
