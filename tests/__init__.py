"""Tests, and what they share. No variable by which git names a repository reaches a git of theirs:
a hook's would have it commit into the repository that is being pushed."""

import os
import subprocess


def _forget_the_callers_repository() -> None:
    listing = ["git", "rev-parse", "--local-env-vars"]
    for name in subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split():
        os.environ.pop(name, None)


_forget_the_callers_repository()
