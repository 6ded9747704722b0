"""docs/payload.md: its tables are the schema's, and what it says of a refusal is what is said."""

import json
import re
import subprocess
import sys

import pytest

from flows.errors import PayloadError
from flows.payload.parse import parse
from scripts.reference import PAGE, renewed
from scripts.stack import ROOT


def test_the_tables_are_what_the_schema_says() -> None:
    command = [sys.executable, "-m", "scripts.reference", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_table_that_somebody_edited_is_written_anew_and_nothing_beside_it() -> None:
    page = PAGE.read_text()
    edited = page.replace("| `image` | required |", "| `image` | `busybox` |").replace(
        "| `timeoutSeconds` |", "| `timeout` |"
    )
    assert edited != page
    assert renewed(edited) == page
    assert renewed("before\n" + page + "after\n") == "before\n" + page + "after\n"


def test_every_key_has_its_row() -> None:
    rows = re.findall(r"^\| `([\w.\[\]]+)` \| .+ \| .+ \|$", PAGE.read_text(), re.M)
    assert {"repository", "git.startingBranch", "image", "resources.memory", "retry.image",
            "cacheVolumes", "cacheVolumes[].name", "auth.repoAuthRef"} <= set(rows)  # fmt: skip
    assert len(rows) == len(set(rows))


def test_the_refusal_on_the_page_is_what_its_payload_gets() -> None:
    section = PAGE.read_text().partition("## Refusals")[2]
    payload, told = re.findall(r"```(?:json|console)\n(.*?)```", section, re.S)
    with pytest.raises(PayloadError) as refusal:
        parse(json.loads(payload))
    assert [str(fault) for fault in refusal.value.faults] == told.splitlines()
