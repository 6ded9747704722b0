"""Globs over the paths of a tree, for a walk that enters only folders that can hold a match.

As in pathlib: `*`, `?` and `[a-z]` stay within a name and match those that begin with a dot, `**`
stands for any number of folders, and a last `**` for all below. Pure; the time that a name takes
does not grow with what a pattern could be made to try.
"""

import re
from collections.abc import Iterable, Sequence
from fnmatch import translate

# Where in which pattern a path may have got to: positions between its segments.
_Places = frozenset[tuple[int, int]]

# The names of a path below a folder.
Parts = tuple[str, ...]


class Globs:
    """Several patterns, asked about one folder's names after another's.

    As in pathlib: `*`, `?` and `[a-z]` stay within a name and match those that begin with a dot,
    `**` stands for any number of folders, and a last `**` for all below. The time that a name takes
    does not grow with what a pattern could be made to try.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        # None is `**`; a name is matched by the standard library, which does not backtrack.
        self._patterns = [
            [None if part == "**" else re.compile(translate(part)) for part in pattern.split("/")]
            for pattern in patterns
        ]
        self._top = self._rested((index, 0) for index in range(len(patterns)))
        self._folder: tuple[str, ...] = ()
        self._places = self._top

    def matching(self, path: tuple[str, ...]) -> list[int]:
        """The indices of the patterns that match."""
        places = self._after(path)
        return sorted(index for index, place in places if place == len(self._patterns[index]))

    def may_hold(self, folder: tuple[str, ...]) -> list[int]:
        """The indices of the patterns that may match something in the folder."""
        places = self._after(folder)
        return sorted({index for index, place in places if place < len(self._patterns[index])})

    def _after(self, path: tuple[str, ...]) -> _Places:
        return self._with(self._of_folder(path[:-1]), path[-1]) if path else self._top

    def _of_folder(self, folder: tuple[str, ...]) -> _Places:
        """Remembered for the next name, which mostly is of the same folder."""
        if folder != self._folder:
            # A walk goes on in what it has just found, mostly.
            is_below = folder[:-1] == self._folder
            places = self._places if is_below else self._top
            for name in folder[-1:] if is_below else folder:
                places = self._with(places, name)
            self._folder, self._places = folder, places
        return self._places

    def _with(self, places: _Places, name: str) -> _Places:
        reached = []
        for index, place in places:
            if place < len(self._patterns[index]):
                part = self._patterns[index][place]
                if part is None:
                    reached.append((index, place))
                elif part.match(name):
                    reached.append((index, place + 1))
        return self._rested(reached)

    def _rested(self, places: Iterable[tuple[int, int]]) -> _Places:
        """With what is reached by letting a `**` stand for nothing."""
        reached = set()
        for index, place in places:
            reached.add((index, place))
            for part in self._patterns[index][place:]:
                if part is not None:
                    break
                place += 1
                reached.add((index, place))
        return frozenset(reached)
