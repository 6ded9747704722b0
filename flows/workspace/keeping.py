"""Put a file of the checkout among the artifacts: as a further name of the same file, or a copy.

For containers that have stopped. What the task itself left under the name is kept under
another one; what an earlier process put there is found and left alone.
"""

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from flows.workspace.safe_open import beside, folder_of, new_file


def keep(source: BinaryIO, path: Path, root: Path) -> None:
    """Have the open file `source` at `path`, below `root`, too. Raises `OSError`."""
    with folder_of(path, root, clearing=True) as folder:
        if _is_there(source, path.name, folder):
            return
        with suppress(FileNotFoundError):
            os.rename(path.name, beside(path.name), src_dir_fd=folder, dst_dir_fd=folder)
        try:
            # What was opened, whatever has its name by now.
            os.link(f"/proc/self/fd/{source.fileno()}", path.name, dst_dir_fd=folder)
        except OSError:
            # Another file system, or one that gives no file two names.
            _copy(source, path.name, folder)


def _is_there(source: BinaryIO, name: str, folder: int) -> bool:
    """Whether an earlier process did it: a copy has the time of its source to the nanosecond."""
    try:
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    wanted = os.fstat(source.fileno())
    return os.path.samestat(there, wanted) or _marks(there) == _marks(wanted)


def _marks(found: os.stat_result) -> tuple[int, int, int]:
    return stat.S_IFMT(found.st_mode), found.st_size, found.st_mtime_ns


def _copy(source: BinaryIO, name: str, folder: int) -> None:
    draft = beside(f".{name[:100]}")
    try:
        with open(new_file(draft, folder), "wb") as file:
            source.seek(0)
            shutil.copyfileobj(source, file, 1024**2)
            file.flush()
            found = os.fstat(source.fileno())
            os.utime(file.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))
        os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=folder)
        raise
