"""Where a repository is: the address git is given, apart from the credentials it may carry."""

import posixpath
import re
from dataclasses import dataclass, field, replace
from typing import Self
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

REPO_AUTH = "auth.repoAuthRef"
# The longest that hosts give out, tokens of a CI's jobs for instance, have less than half of it.
MAX_CREDENTIAL_BYTES = 4096
# Longer than names, or as long as long ones and mixed as names hardly are.
_TOKEN = re.compile(r"(?=.*\d)(?=.*[A-Za-z]).{16,}|.{24,}", re.DOTALL)
_PORTS = {"https": 443, "http": 80, "ssh": 22, "git": 9418}


@dataclass(frozen=True, slots=True)
class Remote:
    """A clone address and, separately, what it takes to read it.

    `url` and `display` never hold a secret; `username` and `password` go to git by environment,
    `ssh_key` to ssh by a file in memory. With `known_hosts`, ssh believes no other host. With
    `below`, all these are for what lies below that URL alone.
    """

    url: str
    display: str
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    ssh_key: str = field(default="", repr=False)
    known_hosts: str = field(default="", repr=False)
    below: str = ""

    @classmethod
    def parse(cls, repository: str) -> Self:
        """Split a validated payload's `repository`; `owner/name` means GitHub over https."""
        if "://" not in repository:
            is_short = ":" not in repository
            url = f"https://github.com/{repository.removesuffix('.git')}.git"
            return cls(url=url if is_short else repository, display=repository)
        parts = urlsplit(repository)
        host = parts.netloc.rpartition("@")[2]
        # An ssh user is an account name, not a secret, and the address is useless without it.
        if parts.scheme == "ssh" and parts.username:
            host = f"{parts.username}@{host}"
        bare = urlunsplit((parts.scheme, host, parts.path, "", ""))
        return cls(
            url=bare,
            display=bare,
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
        )

    @property
    def _parts(self) -> SplitResult:
        """Of the URL, that of `user@host:path` included."""
        url = self.url if "://" in self.url else "ssh://" + self.url.replace(":", "/", 1)
        return urlsplit(url)

    def is_below(self, url: str) -> bool:
        """Whether credentials for `url` are for this: of the same origin, for ssh of the same user
        as well, and below its path, or with `.git` where that has none."""
        given, wanted = urlsplit(url), self._parts
        if self.address is None or _origin(given) != _origin(wanted):
            return False
        path, own = unquote(given.path).rstrip("/"), unquote(wanted.path)
        return f"{own}/".startswith(f"{path}/") or own == f"{path}.git"

    def with_login(self, username: str, password: str) -> Self:
        """The same with these; without a user name, that of the URL, or one that hosts take with
        any token."""
        return replace(self, username=username or self.username or "git", password=password)

    @property
    def address(self) -> str | None:
        """Host and path, for a glob to match; None where user or path hide what it is."""
        parts = self._parts
        path = unquote(parts.path)
        # git decodes an ssh URL before it takes it apart, and looks for `@[host]` in all of it.
        hidden = parts.scheme == "ssh" and ("%" in parts.netloc or "[" in path)
        hidden |= "%" in path or "\\" in path or path.count("/") != parts.path.count("/")
        if hidden or posixpath.normpath(path) != path.rstrip("/"):
            # Not as it seems: what the server makes of it is anybody's guess.
            return None
        port = parts.port if parts.port != _PORTS.get(parts.scheme) else None
        name = parts.hostname or ""
        host = (f"[{name}]" if ":" in name else name) + (f":{port}" if port else "")
        # Of `user@host:path`, git decodes nothing.
        said = path if "://" in self.url else parts.path
        return host + said.rstrip("/").removesuffix(".git")

    @property
    def owner(self) -> str:
        """Whose data a run of it leaves: its address. With an account of ssh's that is not git's
        usual one, that too, as the path may lie below its home."""
        parts, name = self._parts, self.address or self.display
        is_usual = parts.scheme != "ssh" or parts.username in (None, "git")
        return name if is_usual else f"{parts.username}@{name}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not appear in any text: a password, a key, and a token in the user's place."""
        user = (self.username,) if self._user_is_a_token else ()
        return (*filter(None, (self.password, self.ssh_key)), *user)

    @property
    def _user_is_a_token(self) -> bool:
        """Hosts take a token alone, or before a word that says nothing. A name is no secret: it is
        `build`, `x-access-token`, or the organisation that stands in the host or the path as well.
        """
        parts = urlsplit(self.url)
        if parts.scheme not in ("https", "http") or _TOKEN.fullmatch(self.password):
            return False
        shown = (*(parts.hostname or "").split("."), *unquote(parts.path).split("/"))
        return bool(_TOKEN.fullmatch(self.username)) and self.username not in shown


def _origin(url: SplitResult) -> tuple[str | int | None, ...]:
    user = url.username if url.scheme == "ssh" else None
    return url.scheme, user, url.hostname, url.port or _PORTS.get(url.scheme)


def credential_fault(url: SplitResult) -> str | None:
    """What keeps the user or the password of a URL from being one, to end a sentence."""
    for what, written in (("a user", url.username), ("a password", url.password)):
        text = unquote(written or "")
        if not text.isprintable():
            return f"has {what} with control characters, which no host gives out"
        if len(text.encode()) > MAX_CREDENTIAL_BYTES:
            return f"has {what} of more than {MAX_CREDENTIAL_BYTES} bytes"
    return None


def is_url_with_login(value: str) -> bool:
    """Such as opens a repository: Secret blocks did, before there was a type for that."""
    try:
        url = urlsplit(value.strip())
    except ValueError:
        return False
    return url.scheme in ("https", "http") and "@" in url.netloc
