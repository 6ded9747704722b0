"""What a policy's glob means, found by trying every way to lay it over a name."""


def means(glob: str, name: str) -> bool:
    """Whether `glob` is to match `name`."""
    if glob in ("*", "**"):
        return True
    if "/" not in glob:
        return "/" not in name and _lies_over(name, glob)
    return _parts_lie_over(name.split("/"), glob.split("/"), is_first=True)


def _lies_over(text: str, glob: str) -> bool:
    if not glob:
        return not text
    if glob[0] == "*":
        return any(_lies_over(text[n:], glob[1:]) for n in range(len(text) + 1))
    return text[:1] == glob[0] and _lies_over(text[1:], glob[1:])


def _parts_lie_over(parts: list[str], globs: list[str], *, is_first: bool) -> bool:
    if not globs:
        return not parts
    glob, *rest = globs
    if glob == "**" or (glob == "*" and not is_first and not rest):
        least = 0 if glob == "**" else 1
        counts = range(least, len(parts) + 1)
        return any(_parts_lie_over(parts[n:], rest, is_first=False) for n in counts)
    lies_over = _is_host_of if is_first else _lies_over
    fits = bool(parts) and lies_over(parts[0], glob)
    return fits and _parts_lie_over(parts[1:], rest, is_first=False)


def _is_host_of(host: str, glob: str) -> bool:
    if glob == "*":
        return True
    if glob.startswith("*."):
        ends = [host[n + 1 :] for n, char in enumerate(host) if char == "."]
        return any(_labels_lie_over(end, glob[2:]) for end in ends)
    return _labels_lie_over(host, glob)


def _labels_lie_over(host: str, glob: str) -> bool:
    labels, globs = host.split("."), glob.split(".")
    return len(labels) == len(globs) and all(map(_lies_over, labels, globs))
