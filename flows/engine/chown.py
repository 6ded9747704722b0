"""The container that chowns a job's folder to a worker that is not root, as data."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, Self

from flows.spec import LABEL_EXPIRES_AT, LABEL_JOB_ID, Mount

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
        return cls(outer_id(os.geteuid(), _id_map("uid")), outer_id(gid, _id_map("gid")))


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
        return self.labels[LABEL_JOB_ID]

    @property
    def command(self) -> tuple[str, ...]:
        numbers = (str(self.owner.uid), str(self.owner.gid))
        return ("sh", "-c", SCRIPT, "reclaim", *numbers, self.mount.target)


def plan_reclaim(
    name: str, mount: Mount, image: str, owner: Owner, labels: Mapping[str, str], now: datetime
) -> Reclaim:
    """The container for the folder of a container `name`, whose job has these `labels`."""
    times = {
        "moonmind.created_at": now.isoformat(),
        LABEL_EXPIRES_AT: (now + _EXPIRES_AFTER).isoformat(),
    }
    return Reclaim(f"{name}-files", image, mount, owner, {**labels, **times})


def outer_id(number: int, table: str) -> int:
    """The number of a user or group outside of the user namespace of which `table` is the map."""
    for line in table.splitlines():
        inner, outer, count = map(int, line.split())
        if inner <= number < inner + count:
            return number - inner + outer
    return number


def _id_map(kind: str) -> str:
    try:
        return Path(f"/proc/self/{kind}_map").read_text()
    except OSError:
        return ""
