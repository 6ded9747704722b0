"""What the screenshots show: a small project on a git server, and tasks that end in each way."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.runs import PYTHON

_BASKETS = """
import hashlib
import time

import pytest

from prices import total

BASKETS = {
    "empty": [],
    "bread": [250],
    "bread-and-milk": [250, 119],
    "cheese": [845],
    "cheese-and-wine": [845, 1290],
    "apples": [60, 60, 60],
    "apples-and-pears": [60, 60, 75],
    "soap": [189],
    "coffee": [690],
    "tea-for-two": [320, 320],
    "sunday": [250, 690, 845],
    "party": [1290, 1290, 845, 320],
}
PANTRY = []


@pytest.mark.parametrize("basket", BASKETS.values(), ids=BASKETS)
def test_costs_what_is_in_it(basket):
    PANTRY.append(bytearray(6_000_000))
    hashlib.pbkdf2_hmac("sha256", b"slow", b"salt", 300_000)
    time.sleep(1)
    assert total(basket) == sum(basket)
"""
_SAY = """
def pytest_runtest_logreport(report):
    if report.when == "call":
        print(f"{report.outcome}  {report.nodeid}", flush=True)
"""
_THUMBNAILS = """
import hashlib
import time

album = []
while True:
    album.append(bytearray(9_000_000))
    hashlib.pbkdf2_hmac("sha256", b"slow", b"salt", 300_000)
    time.sleep(1)
    print(f"page {len(album)}: {9 * len(album)} MB of thumbnails in memory", flush=True)
"""
_PRICES = 'def total(basket):\n    """What a basket costs, in cents."""\n    return {}\n'
# By branch.
PROJECT = {
    "main": {
        "prices.py": _PRICES.format("sum(basket)"),
        "test_baskets.py": _BASKETS,
        "conftest.py": _SAY,
        "pytest.ini": "[pytest]\naddopts = -s -p no:terminal\n",
        "thumbnails.py": _THUMBNAILS,
    },
    "rounding": {"prices.py": _PRICES.format("sum(basket) // 5 * 5")},
}
_PYTEST = [
    "sh",
    "-c",
    "tar -czf prices.tar.gz prices.py; "
    "python -m pytest --junitxml $ARTIFACT_DIR/test-results/baskets.xml",
]
_OUTPUTS: list[dict[str, object]] = [
    {"path": "$ARTIFACT_DIR/test-results/*.xml", "required": True, "type": "junit"},
    {"path": "*.tar.gz", "required": True},
    {"path": "coverage/"},
]


def tasks(repository: str) -> dict[str, Any]:
    """Payloads by the outcome that each has, longest first."""
    return {
        "out-of-memory": _payload(
            repository, "Make the album's thumbnails", ["python", "thumbnails.py"], memory="96m"
        ),
        "failed": _payload(
            repository, "Run the unit tests of the new rounding", _PYTEST, branch="rounding",
            outputs=_OUTPUTS,
        ),
        "succeeded": _payload(
            repository, "Run the unit tests", _PYTEST, outputs=_OUTPUTS
        ),
    }  # fmt: skip


def _payload(
    repository: str, instructions: str, command: list[str], *, branch: str = "main",
    memory: str = "512m", outputs: Sequence[Mapping[str, object]] = (),
) -> Any:  # fmt: skip
    container = {
        "enabled": True,
        "image": PYTHON,
        "command": command,
        "env": {"PYTHONDONTWRITEBYTECODE": "1"},
        "resources": {"cpus": 0.6, "memory": memory},
        "outputs": list(outputs),
        "timeoutSeconds": 600,
    }
    task = {"instructions": instructions, "git": {"startingBranch": branch}, "container": container}
    return {"repository": repository, "task": task}
