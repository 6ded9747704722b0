"""What the helper for git repositories must not touch."""

import os
import subprocess
import sys
from pathlib import Path

from scripts.stack import ROOT
from tests.git_server import commit_all, git

COMMIT = """
import sys; from pathlib import Path; from tests.git_server import commit_all
commit_all(Path(sys.argv[1]), "Import")
"""


def test_a_test_under_a_hook_commits_nothing_into_the_repository_that_is_pushed(
    tmp_path: Path,
) -> None:
    pushed, own = tmp_path / "pushed", tmp_path / "own"
    for folder in (pushed, own):
        folder.mkdir()
        (folder / folder.name).touch()
    head = commit_all(pushed, "First")
    hook = {
        "GIT_DIR": str(pushed / ".git"),
        "GIT_WORK_TREE": str(pushed),
        "GIT_INDEX_FILE": str(pushed / ".git" / "index"),
    }
    subprocess.run([sys.executable, "-c", COMMIT, own], env=os.environ | hook, cwd=ROOT, check=True)
    assert git(pushed, "rev-parse", "HEAD") == head
    assert git(pushed, "ls-files") == "pushed"
    assert git(own, "ls-files") == "own"
