"""Globs over the paths of a tree, for a walk that enters only folders that can hold a match.

As in pathlib: `*`, `?` and `[a-z]` stay within a name and match those that begin with a dot, `**`
stands for any number of folders, and a last `**` for all below. Pure; the time that a name takes
does not grow with what a pattern could be made to try.
"""

import re
from collections.abc import Sequence
from fnmatch import translate

# Where in a pattern a path may have got to: positions between its segments.
_Places = frozenset[int]


class Glob:
    """One pattern, relative to the tree's top."""

    def __init__(self, pattern: str) -> None:
        # None is `**`; a name is matched by the standard library, which does not backtrack.
        self._parts = [None if p == "**" else re.compile(translate(p)) for p in pattern.split("/")]

    @property
    def top(self) -> _Places:
        """Before the first name."""
        return self._rested({0})

    def after(self, places: _Places, name: str) -> _Places:
        """Where a path has got to with one more name."""
        reached = set()
        for place in places:
            if place == len(self._parts):
                continue
            part = self._parts[place]
            if part is None:
                reached.add(place)
            elif part.match(name):
                reached.add(place + 1)
        return self._rested(reached)

    def is_end(self, places: _Places) -> bool:
        """Whether a path that has got there matches."""
        return len(self._parts) in places

    def goes_on(self, places: _Places) -> bool:
        """Whether anything below may match."""
        return any(place < len(self._parts) for place in places)

    def _rested(self, places: set[int]) -> _Places:
        """With what is reached by letting a `**` stand for nothing."""
        reached = set(places)
        for place, part in enumerate(self._parts):
            if part is None and place in reached:
                reached.add(place + 1)
        return frozenset(reached)


class Globs:
    """Several patterns, asked about one folder's names after another's."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._globs = [Glob(pattern) for pattern in patterns]
        self._folder: tuple[str, ...] = ()
        self._places = [glob.top for glob in self._globs]

    def matching(self, path: tuple[str, ...]) -> list[int]:
        """The indices of the patterns that match."""
        places = self._after(path)
        pairs = enumerate(zip(self._globs, places, strict=True))
        return [index for index, (glob, place) in pairs if glob.is_end(place)]

    def may_hold(self, folder: tuple[str, ...]) -> list[int]:
        """The indices of the patterns that may match something in the folder."""
        places = self._after(folder)
        pairs = enumerate(zip(self._globs, places, strict=True))
        return [index for index, (glob, place) in pairs if glob.goes_on(place)]

    def _after(self, path: tuple[str, ...]) -> list[_Places]:
        if not path:
            return [glob.top for glob in self._globs]
        return self._with(self._of_folder(path[:-1]), path[-1])

    def _of_folder(self, folder: tuple[str, ...]) -> list[_Places]:
        """Remembered for the next name, which mostly is of the same folder."""
        if folder != self._folder:
            # A walk goes on in what it has just found, mostly.
            is_below = folder[:-1] == self._folder
            places = self._places if is_below else [glob.top for glob in self._globs]
            for name in folder[-1:] if is_below else folder:
                places = self._with(places, name)
            self._folder, self._places = folder, places
        return self._places

    def _with(self, places: list[_Places], name: str) -> list[_Places]:
        pairs = zip(self._globs, places, strict=True)
        return [glob.after(place, name) if place else place for glob, place in pairs]
