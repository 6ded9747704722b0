"""What a checkout has not, and its author may count on: contents of LFS files, and submodules."""

from flows.text import one_line
from flows.workspace.git_command import GitCommand
from flows.workspace.git_tree import TreeCount

_NAMED = 3
_ATTRIBUTE = ":(attr:filter=lfs)"


async def missing(git: GitCommand, count: TreeCount) -> list[str]:
    """A sentence for each kind of thing that the checkout just made lacks."""
    told = []
    if count.has_attributes and (files := _paths(await git("ls-files", "-z", "--", _ATTRIBUTE))):
        told.append(
            f"{git.remote.display} keeps files in Git LFS, and the checkout has LFS pointers, not "
            f"contents: {_some(files)}; fetch them in the task itself, with git lfs"
        )
    if count.has_submodules:
        told.append(
            f"{git.remote.display} has submodules (.gitmodules), which are not checked out: their "
            "folders are empty; fetch them in the task itself"
        )
    return told


def _paths(printed: str) -> list[str]:
    # The end of a long list may be cut.
    return printed.split("\0")[:-1]


def _some(files: list[str]) -> str:
    names = ", ".join(one_line(each, 100) for each in files[:_NAMED])
    return names if len(files) <= _NAMED else f"{names} and others"
