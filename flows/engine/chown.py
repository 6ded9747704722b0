"""Whose the files in a job's folder are, and what is done about those that are not the worker's.

A container may write as any user. A worker that is not root can then neither read nor remove what
it left, so a small container of the runner's own gives the folder back. Pure but for the look.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Literal, Self

from flows.spec import LABEL_EXPIRES_AT, LABEL_JOB_ID, Mount

# To look at as many takes a second or so; for folders with more it is not worth it.
_LOOKED_AT = 100_000
# Two hundred thousand files take two.
RECLAIM_SECONDS = 120.0
_EXPIRES_AFTER = timedelta(hours=1)

# For any POSIX shell with find and awk. It gets the user and the group as the namespace around
# this one numbers them. Neither links nor devices are touched: a device that belonged to the
# worker would be one that it may open. A path that grows too long for the system goes on from the
# folder that it has got to; the shell's own note of where it is would soon be too long as well.
SCRIPT = r"""
inside() {
  awk -v id="$1" '$2 <= id && id < $2 + $3 { printf "%.0f", id - $2 + $1 }' "/proc/self/$2_map"
}
export uid=$(inside "$1" uid) gid=$(inside "$2" gid) LC_ALL=C
[ -n "$uid" ] && [ -n "$gid" ] || { echo "the engine knows no user $1 or no group $2"; exit 1; }
export far="$(printf '%3700s' | tr ' ' '?')*"
export walk='exec find . \
  -type d -path "$far" -prune \
    -exec sh -c "cd -P \"\$1\" && unset PWD OLDPWD && eval \"\$walk\"" sh {} \; \
  -o \( -type d \( ! -user "$uid" -o ! -perm -700 \) \
    -o -type f \( ! -user "$uid" -o ! -perm -400 -o -perm /6000 \) \) \
    -exec chown -h "$uid:$gid" {} + -exec chmod u+rwX {} + \
    -type f -exec chmod a-s {} +'
cd "$3" || exit 1
problems=$( (eval "$walk") 2>&1 | tail -c 300)
[ -z "$problems" ] || { echo "$problems"; exit 1; }
"""


class Found(Enum):
    """What a look into a folder told."""

    OURS = "everything there is the worker's, and nothing shut to it"
    FOREIGN = "something there is not"
    UNSEEN = "there is more than was looked at"


@dataclass(frozen=True, slots=True)
class Owner:
    """A user and a group, by the numbers of the user namespace around this process's own."""

    uid: int
    gid: int

    @classmethod
    def in_folder(cls, folder: Path) -> Self:
        """Whoever owns what this process makes in `folder`."""
        found = folder.stat()
        gid = found.st_gid if found.st_mode & stat.S_ISGID else os.getegid()
        return cls(outside(os.geteuid(), _table("uid")), outside(gid, _table("gid")))


@dataclass(frozen=True, slots=True)
class Reclaim:
    """A container that makes everything in one folder its `owner`'s, decided before it exists."""

    name: str
    image: str
    mount: Mount
    owner: Owner
    labels: Mapping[str, str]
    pull: Literal["if-missing"] = "if-missing"
    platform: None = None

    @property
    def job_id(self) -> str:
        """Whose folder it is."""
        return self.labels[LABEL_JOB_ID]

    @property
    def command(self) -> tuple[str, ...]:
        """What runs in it."""
        numbers = (str(self.owner.uid), str(self.owner.gid))
        return ("sh", "-c", SCRIPT, "reclaim", *numbers, self.mount.target)


def reclaim_of(
    name: str, mount: Mount, image: str, owner: Owner, labels: Mapping[str, str], now: datetime
) -> Reclaim:
    """Decide the container that gives a folder back; `name` is that of what filled it.

    `labels` are the job's. Only the times are its own: a sweep may come long after the job.
    """
    times = {
        "moonmind.created_at": now.isoformat(),
        LABEL_EXPIRES_AT: (now + _EXPIRES_AFTER).isoformat(),
    }
    return Reclaim(f"{name}-files", image, mount, owner, {**labels, **times})


def look(folder: Path, user: int, limit: int = _LOOKED_AT) -> Found:
    """Whether all in `folder` is `user`'s and open to it; nothing there is nobody else's.

    Links and special files do not count: whoever has their folder can remove them, and nobody
    reads them.
    """
    if not os.path.lexists(folder):
        return Found.OURS
    try:
        if not _is_ours(os.lstat(folder), user):
            return Found.FOREIGN
        for number, child in enumerate(_below(folder)):
            if number == limit:
                return Found.UNSEEN
            if not _is_ours(child.stat(follow_symlinks=False), user):
                return Found.FOREIGN
    except PermissionError:
        return Found.FOREIGN
    except OSError:
        # Deeper than paths are long.
        return Found.UNSEEN
    return Found.OURS


def outside(number: int, table: str) -> int:
    """What the user or group `number` is called in the namespace around this process's own.

    `table` is the text of `/proc/self/uid_map` or `gid_map`; without it, all is one namespace.
    """
    for line in table.splitlines():
        inner, outer, count = map(int, line.split())
        if inner <= number < inner + count:
            return number - inner + outer
    return number


def _below(folder: Path) -> Iterator["os.DirEntry[str]"]:
    pending = [os.fspath(folder)]
    while pending:
        with os.scandir(pending.pop()) as scan:
            for child in scan:
                yield child
                if child.is_dir(follow_symlinks=False):
                    pending.append(child.path)


def _is_ours(found: os.stat_result, user: int) -> bool:
    mode = found.st_mode
    if stat.S_ISDIR(mode):
        return found.st_uid == user and mode & 0o700 == 0o700
    if stat.S_ISREG(mode):
        return found.st_uid == user and mode & 0o400 != 0 and not mode & 0o6000
    return True


def _table(kind: str) -> str:
    try:
        return Path(f"/proc/self/{kind}_map").read_text()
    except OSError:
        return ""
