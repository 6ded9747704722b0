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
    """The rows of a page's tables whose last column is of tests."""
    text = (ROOT / "docs" / page).read_text()
    tables = re.findall(r"^\|.*\| tests? \|\n\|[ -|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    found = [row for table in tables for row in table.splitlines()]
    # pytest would skip a test of no rows.
    assert found, f"no table of tests in {page}"
    return found


@pytest.mark.parametrize(
    "row",
    [*rows("lifecycle.md"), *rows("security.md")],
    ids=lambda row: row.split("|")[1].strip()[:50],
)
def test_every_promise_names_the_test_that_holds_it(row: str) -> None:
    names = re.findall(r"`(test_\w+)(?:\.py)?`", row)
    assert names or re.search(r"\battacks?\b", row), "neither a test nor an attack"
    assert set(names) <= TESTS | FILES
