"""`fchown`, POSIX ACL or `fchmod` of a checkout, so that the container's user may write in it.

git leaves what it made to the worker alone to change. For a checkout that no container has seen.
"""

import errno
import os
import stat
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from flows.errors import WorkspaceError
from flows.workspace.tree import Descent, Tree, walk

_MAX_ID = 2**31 - 1
# How linux/posix_acl_xattr.h stores an ACL: its version; then of each entry what it is for, the
# permissions, and whose, where that is not said by what it is for.
_ACL = "system.posix_acl_access"
_VERSION, _NOBODY = struct.pack("<I", 2), 2**32 - 1
_USER_OBJ, _USER, _GROUP_OBJ, _MASK, _OTHER = 1, 2, 4, 16, 32
_IMPOSSIBLE_HERE = {errno.EPERM, errno.EINVAL, errno.ENOTSUP}


class How(Enum):
    """In which way the container's user gets at the checkout; each is followed by what is done
    where it is impossible."""

    AS_IT_IS = "it may write there already"
    OWNER = "the files are given to it"
    ENTRY = "an entry in the ACL of each file"
    ANYBODY = "the files are opened to everybody"


@dataclass(frozen=True, slots=True)
class Access:
    """`uid` and `gid` are the container's user; -1 where its number is not known."""

    how: How
    uid: int = -1
    gid: int = -1


def access_for(
    user: str, worker_uid: int, cap_add: Collection[str] = (), cap_drop: Collection[str] = ()
) -> Access:
    """How a container's `user`, as Docker is told it, gets to write what this worker checked out.

    Who a name is, only its image knows, but for root.
    """
    name, _, group = user.partition(":")
    uid = 0 if name in ("", "root") else _number(name)
    if uid < 0:
        return Access(How.ANYBODY)
    if uid == worker_uid or (uid == 0 and _overrides(cap_add, cap_drop)):
        return Access(How.AS_IT_IS, uid)
    return Access(How.OWNER if worker_uid == 0 else How.ENTRY, uid, _number(group))


def give_access(folder: Path, access: Access) -> Access:
    """Give it to `folder` and all in it; what it came to where the file system has no owners or
    ACLs. Follows no link. Raises `WorkspaceError`."""
    ways = list(How)[list(How).index(access.how) :] if access.how is not How.AS_IT_IS else []
    for how in ways:
        access = replace(access, how=how)
        try:
            _change_all(folder, access)
            return access
        except OSError as error:
            if error.errno not in _IMPOSSIBLE_HERE or how is How.ANYBODY:
                raise WorkspaceError(
                    f"cannot give the container's user access to {folder}: "
                    f"{error.strerror or error}"
                ) from error
    return access


def _number(word: str) -> int:
    is_number = word.isascii() and word.isdecimal() and int(word) <= _MAX_ID
    return int(word) if is_number else -1


def _overrides(cap_add: Collection[str], cap_drop: Collection[str]) -> bool:
    """Whether root has the capability that no mode or owner keeps out."""
    added, dropped = (
        {name.upper().removeprefix("CAP_") for name in names} for names in (cap_add, cap_drop)
    )
    # Docker drops all before it adds.
    return (
        bool({"ALL", "DAC_OVERRIDE"} & added)
        if "ALL" in dropped
        else ("DAC_OVERRIDE" not in dropped)
    )


def _change_all(folder: Path, access: Access) -> None:
    change: Callable[[str, int], None] = {
        How.OWNER: lambda name, parent: os.chown(
            name, access.uid, access.gid, dir_fd=parent, follow_symlinks=False
        ),
        How.ENTRY: lambda name, parent: _opened(name, parent, access.uid),
        How.ANYBODY: lambda name, parent: _opened(name, parent, None),
    }[access.how]
    with closing(Descent(Tree(folder.parent))) as descent:
        for *above, name in _paths(folder):
            change(name, descent.folder(tuple(above)))


def _paths(folder: Path) -> Iterator[tuple[str, ...]]:
    """The names on the way to everything in `folder`, from beside it; folders, itself too, last."""
    folders: list[tuple[str, ...]] = [(folder.name,)]

    def enters(parts: tuple[str, ...]) -> bool:
        folders.append((folder.name, *parts))
        return True

    for found in walk(Tree(folder), enters):
        yield (folder.name, *found.parts)
    yield from folders


def _opened(name: str, parent: int, uid: int | None) -> None:
    """`chmod a+rwX`, or of an ACL `u:<uid>:rwX`, of a file or folder."""
    if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        return
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if uid is None:
            os.fchmod(descriptor, mode | (0o777 if mode & 0o111 else 0o666))
        else:
            os.setxattr(descriptor, _ACL, _acl(mode, uid))
    finally:
        os.close(descriptor)


def _acl(mode: int, uid: int) -> bytes:
    """What `mode` says, and all of it for one user more."""
    user, group, other = mode >> 6 & 7, mode >> 3 & 7, mode & 7
    theirs = 7 if mode & 0o111 else 6
    entries = [
        (_USER_OBJ, user, _NOBODY),
        (_USER, theirs, uid),
        (_GROUP_OBJ, group, _NOBODY),
        # The most that any but the owner and the others may.
        (_MASK, theirs | group, _NOBODY),
        (_OTHER, other, _NOBODY),
    ]
    return _VERSION + b"".join(struct.pack("<HHI", *entry) for entry in entries)
