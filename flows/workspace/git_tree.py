"""Count what a commit would put on the disk, from `git ls-tree`, before any of it is there, and
what git then writes."""

from flows.errors import CheckoutTooLarge, RepositoryRejected
from flows.units import size

# Such as ls-tree prints it: mode, type, object, size and path.
LIST_TREE = ("ls-tree", "-r", "-l", "-z", "--full-tree")
_BLOCK = 4096
# Longer than a path can be on the disk.
_LONGEST = 64 * 1024


class TreeCount:
    """Hears `git ls-tree`, and raises `RepositoryRejected` at more files or bytes than may be: a
    few kilobytes of tree can name one folder thousands of times in thousands of others."""

    def __init__(self, where: str, files: int, disk_bytes: int) -> None:
        self._where = where
        self._most_files, self._most_bytes = files, disk_bytes
        self._files = self._bytes = 0
        self._begun = b""
        self.has_attributes = self.has_submodules = False

    def hear(self, piece: bytes) -> None:
        entries = (self._begun + piece).split(b"\0")
        self._begun = entries.pop()
        for entry in entries:
            self._count(entry)
        if self._files > self._most_files:
            raise RepositoryRejected(
                f"{self._where} cannot be checked out: it has more than {self._most_files:,} "
                "files, which is what a checkout may have"
            )
        if len(self._begun) > _LONGEST:
            raise self._too_large()
        self.written(self._bytes)

    def written(self, count: int) -> None:
        """Raise `CheckoutTooLarge` where these bytes are too many: by attributes of its repository
        (`ident`, `eol`, `working-tree-encoding`) a file gets up to fifty times as large."""
        if count > self._most_bytes:
            raise self._too_large()

    def _too_large(self) -> CheckoutTooLarge:
        return CheckoutTooLarge(
            f"{self._where} cannot be checked out: it takes more than {size(self._most_bytes)} of "
            "the disk, which is what a checkout may have on this worker "
            "(MOONMIND_CHECKOUT_MAX_GIB)"
        )

    def _count(self, entry: bytes) -> None:
        facts, _, path = entry.partition(b"\t")
        length = facts.split()[-1]
        self._files += 1
        if length.isdigit():
            self._bytes += -(-int(length) // _BLOCK) * _BLOCK
        self.has_attributes |= path.endswith(b".gitattributes")
        self.has_submodules |= path == b".gitmodules"
