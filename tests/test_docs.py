"""What the documentation names exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = [
    line
    for line in (ROOT / "docs" / "lifecycle.md").read_text().splitlines()
    if line.startswith("| ") and "`test_" in line
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:50])
def test_every_row_of_the_failure_table_names_its_test(row: str) -> None:
    (name,) = re.findall(r"`(test_\w+)`", row)
    files = (ROOT / "tests").glob("test_*.py")
    assert any(re.search(rf"def {name}\(", file.read_text()) for file in files)


def test_the_failure_table_has_its_rows() -> None:
    assert len(ROWS) > 20
