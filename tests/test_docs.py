"""What the documentation names exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TESTS = {
    name
    for file in (ROOT / "tests").glob("test_*.py")
    for name in re.findall(r"def (test_\w+)\(", file.read_text())
}


FILES = {file.stem for file in (ROOT / "tests").glob("test_*.py")}


def rows(page: str) -> list[str]:
    """The rows of a page's tables that name a test."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    return [line for line in lines if line.startswith("| ") and "`test_" in line]


@pytest.mark.parametrize(
    "row",
    [*rows("lifecycle.md"), *rows("security.md")],
    ids=lambda row: row.split("|")[1].strip()[:50],
)
def test_every_promise_names_the_test_that_holds_it(row: str) -> None:
    names = re.findall(r"`(test_\w+)(?:\.py)?`", row)
    assert names
    assert set(names) <= TESTS | FILES


@pytest.mark.parametrize("page", ["lifecycle.md", "security.md"])
def test_the_tables_have_their_rows(page: str) -> None:
    assert len(rows(page)) > 15
