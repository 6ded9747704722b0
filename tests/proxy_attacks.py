"""Creations that are beyond a task's rights, and the spellings by which one may hide."""

import json
import random
import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.runs import BUSYBOX

Json = dict[str, Any]


def _host(**keys: object) -> Json:
    return {"HostConfig": keys}


_BIND_OF_ROOT = {"type": "none", "o": "bind", "device": "/"}
_DRIVER = {"DriverConfig": {"Name": "local", "Options": _BIND_OF_ROOT}}
# Each is made by an engine that is asked plainly, on a host with the image of `BUSYBOX`.
FORBIDDEN: Mapping[str, Json] = {
    "privileged": _host(Privileged=True),
    "bind": _host(Binds=["/:/host"]),
    "bind mount": _host(Mounts=[{"Type": "bind", "Source": "/", "Target": "/host"}]),
    "volume that is a folder": _host(
        Mounts=[{"Type": "volume", "Target": "/host", "VolumeOptions": _DRIVER}]
    ),
    "new volume": _host(Mounts=[{"Type": "volume", "Source": "{mark}", "Target": "/x"}]),
    "host's network": _host(NetworkMode="host"),
    "host's processes": _host(PidMode="host"),
    "host's memory": _host(IpcMode="host"),
    "host's name": _host(UTSMode="host"),
    "host's users": _host(UsernsMode="host"),
    "host's cgroups": _host(CgroupnsMode="host"),
    "every capability": _host(CapAdd=["ALL"]),
    "forged packets": _host(CapDrop=[]),
    "network administration": _host(CapAdd=["NET_ADMIN"]),
    "administration": _host(CapAdd=["CAP_SYS_ADMIN"]),
    "handles": _host(CapAdd=["DAC_READ_SEARCH"]),
    "unconfined": _host(SecurityOpt=["seccomp=unconfined"]),
    "label": _host(SecurityOpt=["label=user:]", "seccomp=unconfined"]),
    "device": _host(Devices=[{"PathOnHost": "/dev/null", "PathInContainer": "/dev/sda"}]),
    "device rules": _host(DeviceCgroupRules=["a *:* rwm"]),
    "nothing masked": _host(MaskedPaths=[]),
    "nothing read-only": _host(ReadonlyPaths=[]),
    "sysctl": _host(Sysctls={"net.ipv4.ip_forward": "1"}),
    "runtime": _host(Runtime="runc"),
    "cgroup": _host(CgroupParent="/"),
    "hosts": _host(ExtraHosts=["registry:10.0.0.1"]),
    "published port": _host(PortBindings={"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "0"}]}),
    "restart": _host(RestartPolicy={"Name": "always"}),
    "log": _host(LogConfig={"Type": "none", "Config": {}}),
    "score": _host(OomScoreAdj=-1000),
    "groups": _host(GroupAdd=["0"]),
    "anonymous volume": {"Volumes": {"/data": {}}},
    "label of others": {"Labels": {"traefik.enable": "true"}},
}


def merged(base: Json, more: Json) -> Json:
    """`more` over `base`, objects within objects."""
    both = dict(base)
    for key, value in more.items():
        is_both = isinstance(value, dict) and isinstance(base.get(key), dict)
        both[key] = merged(base[key], value) if is_both else value
    return both


@dataclass(frozen=True, slots=True)
class Mark:
    """What tells the objects of one test from all others: a job of its own."""

    job_id: str

    @property
    def name(self) -> str:
        return f"mm-task-{self.job_id}-1"

    def creation(self, forbidden: Json) -> Json:
        """A task's creation, and what no task may have."""
        plain = {
            "Image": BUSYBOX,
            "Cmd": ["true"],
            "Labels": {"moonmind.job_id": self.job_id},
            "HostConfig": {"NetworkMode": "none", "CapDrop": ["NET_RAW"]},
        }
        text = json.dumps(merged(plain, forbidden)).replace("{mark}", f"mark-{self.job_id}")
        made: Json = json.loads(text)
        return made

    def made(self) -> list[str]:
        """What the engine has of it, however it came there."""
        ours = [f"label=moonmind.job_id={self.job_id}", f"name={self.job_id}"]
        asks = [["ps", "--all"], ["volume", "ls"], ["network", "ls"]]
        found = [
            subprocess.check_output(["docker", *ask, "--quiet", "--filter", each], text=True)
            for ask in asks
            for each in ours
        ]
        return "".join(found).split()

    def remove(self) -> None:
        """Whatever of it there is."""
        asks = {"rm": ["ps", "--all"], "volume rm": ["volume", "ls"]}
        for remove, ask in asks.items():
            for each in (f"label=moonmind.job_id={self.job_id}", f"name={self.job_id}"):
                listed = ["docker", *ask, "--quiet", "--filter", each]
                if names := subprocess.check_output(listed, text=True).split():
                    subprocess.run(
                        ["docker", *remove.split(), "--force", *names],
                        check=True,
                        capture_output=True,
                    )


class Wire(NamedTuple):
    """A request, before it becomes bytes."""

    target: str
    body: bytes
    version: str = "HTTP/1.1"
    headers: tuple[str, ...] = ("Content-Type: application/json",)
    is_chunked: bool = False
    length: int | None = None

    def written(self) -> bytes:
        length = len(self.body) if self.length is None else self.length
        framing = "Transfer-Encoding: chunked" if self.is_chunked else f"Content-Length: {length}"
        first = (f"POST {self.target} {self.version}".rstrip(), "Host: docker")
        is_asked = any(each.startswith("Connection:") for each in self.headers)
        last = () if is_asked else ("Connection: close",)
        lines = (*first, *self.headers, *last, framing)
        body = _chunked(self.body) if self.is_chunked else self.body
        return "\r\n".join((*lines, "", "")).encode("latin-1") + body


def _chunked(body: bytes) -> bytes:
    half = len(body) // 2
    pieces = (b"%x\r\n%b\r\n" % (len(each), each) for each in (body[:half], body[half:]) if each)
    return b"".join(pieces) + b"0\r\n\r\n"


# Spellings of JSON: text and chance to text.

_HARMLESS = '{"NetworkMode":"none","CapDrop":["NET_RAW"]}'
_FOLDS = {"s": "\N{LATIN SMALL LETTER LONG S}", "k": "\N{KELVIN SIGN}"}
_KEY = re.compile(r'"([A-Z][A-Za-z]+)"(?=:)')


def _each_key(change: Callable[[str, random.Random], str]) -> Callable[[str, random.Random], str]:
    return lambda text, rng: _KEY.sub(lambda key: f'"{change(key[1], rng)}"', text)


def _other_case(key: str, rng: random.Random) -> str:
    return "".join(rng.choice((each.lower(), each.upper())) for each in key)


def _folded(key: str, rng: random.Random) -> str:
    """Go takes these letters for s and k."""
    return "".join(_FOLDS[each] if each in _FOLDS and rng.random() < 0.7 else each for each in key)


def _escaped(key: str, rng: random.Random) -> str:
    return "".join(f"\\u{ord(each):04x}" if rng.random() < 0.5 else each for each in key)


def _folded_escaped(key: str, rng: random.Random) -> str:
    return "".join(
        f"\\u{ord(_FOLDS[each]):04x}" if each in _FOLDS and rng.random() < 0.7 else each
        for each in key
    )


def _spaced(text: str, rng: random.Random) -> str:
    blank = rng.choice((" ", "\n", "\t\r\n", " " * 5000))
    return re.sub(r"[:,{}\[\]]", lambda mark: f"{blank}{mark[0]}{blank}", text)


def _doubled(text: str, rng: random.Random) -> str:
    """The harmless and the forbidden under one key, in either order."""
    harmless = f'"HostConfig":{_HARMLESS}'
    at_the_end = rng.random() < 0.5
    return f"{text[:-1]},{harmless}}}" if at_the_end else f"{{{harmless},{text[1:]}"


def _doubled_case(text: str, _: random.Random) -> str:
    return f'{{"HostConfig":{_HARMLESS},{text[1:].replace("HostConfig", "hostconfig")}'


def _nested(text: str, _: random.Random) -> str:
    return f'{{"Config":{text},{text[1:]}'


def _trailing(text: str, rng: random.Random) -> str:
    return text + rng.choice(("{}", " null", "\n" + text, "\x00"))


def _long(text: str, rng: random.Random) -> str:
    """Longer than a filter may want to look."""
    return f'{{"Env":["X={"x" * rng.choice((70_000, 950_000))}"],{text[1:]}'


SPELLINGS: Mapping[str, Callable[[str, random.Random], str]] = {
    "plain": lambda text, _: text,
    "case": _each_key(_other_case),
    "folded": _each_key(_folded),
    "escaped": _each_key(_escaped),
    "folded and escaped": _each_key(_folded_escaped),
    "spaced": _spaced,
    "doubled": _doubled,
    "doubled in another case": _doubled_case,
    "nested": _nested,
    "trailing": _trailing,
    "long": _long,
    "byte order mark": lambda text, _: f"\ufeff{text}",
}


# Spellings of a request: wire and chance to bytes.


def _of(**changes: Any) -> Callable[[Wire, random.Random], bytes]:
    return lambda wire, _: wire._replace(**changes).written()


def _target(change: Callable[[str, random.Random], str]) -> Callable[[Wire, random.Random], bytes]:
    return lambda wire, rng: wire._replace(target=change(wire.target, rng)).written()


def _encoded(target: str, rng: random.Random) -> str:
    return "".join(
        f"%{ord(each):02x}" if each.isalnum() and rng.random() < 0.3 else each for each in target
    )


def _tricky_path(target: str, rng: random.Random) -> str:
    old = "/containers/create"
    tricks = (
        "//containers/create",
        "/./containers/create",
        "/containers//create",
        "/containers/create/",
        "/containers/../containers/create",
        "/containers/%2e%2e/containers/create",
        "/containers%2Fcreate",
        "/images/../containers/create",
        "/_ping/../containers/create",
        "/Containers/Create",
        "/containers/create%00",
        "/containers/create%3F",
    )
    return target.replace(old, rng.choice(tricks))


def _tricky_version(target: str, rng: random.Random) -> str:
    versions = ("/v1.12", "/v1.23", "/v1.023", "/v1.041", "/v01.41", "/v1.41/v1.41", "/V1.41")
    return rng.choice(versions) + re.sub("^/v1.41", "", target)


def _tricky_query(target: str, rng: random.Random) -> str:
    path, _, name = target.partition("?name=")
    tricks = (
        f"{path}?name={name}&name=other-{name}",
        f"{path}?name={name}&na%6De=other-{name}",
        f"{path}?na%6De={name}",
        f"{path}?name={name};x=1",
        f"{path}?name={name}&x",
        f"{path}?name={name}&fromImage=busybox",
        f"{path}?name={name}%00",
        f"{path}?name={name}#x",
        f"{path}?NAME={name}",
        f"{path}?x=1&name={name}",
        f"{path}?name=other-{name}",
        f"{path}?name={name}-files",
        path,
    )
    return rng.choice(tricks)


def _ahead(wire: Wire, _: random.Random) -> bytes:
    """Behind a harmless request, which a filter may take for the whole."""
    return b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n" + wire.written()


def _smuggled(wire: Wire, _: random.Random) -> bytes:
    """In the body of a harmless request, for whoever counts its length otherwise."""
    inner = wire.written()
    lines = ("GET /_ping HTTP/1.1", "Host: docker", "Connection: close")
    head = "\r\n".join((*lines, f"Content-Length: {len(inner)}", "", ""))
    return head.encode() + inner


def _both_lengths(wire: Wire, _: random.Random) -> bytes:
    both = f"Content-Length: {len(wire.body)}"
    return wire._replace(is_chunked=True, headers=(*wire.headers, both)).written()


def _two_lengths(wire: Wire, rng: random.Random) -> bytes:
    other = rng.choice((0, 2, len(wire.body), len(wire.body) + 1))
    return wire._replace(headers=(*wire.headers, f"Content-Length: {other}")).written()


def _bare_newlines(wire: Wire, _: random.Random) -> bytes:
    head, _blank, body = wire.written().partition(b"\r\n\r\n")
    return head.replace(b"\r\n", b"\n") + b"\n\n" + body


WIRES: Mapping[str, Callable[[Wire, random.Random], bytes]] = {
    "plain": _of(),
    "HTTP/1.0": _of(version="HTTP/1.0"),
    "HTTP/0.9": _of(version=""),
    "chunked": _of(is_chunked=True),
    "chunked in HTTP/1.0": _of(is_chunked=True, version="HTTP/1.0"),
    "chunked in another case": _of(
        length=0, headers=("Content-Type: application/json", "Transfer-Encoding: \tChunked")
    ),
    "both lengths": _both_lengths,
    "two lengths": _two_lengths,
    "bare newlines": _bare_newlines,
    "ahead": _ahead,
    "smuggled": _smuggled,
    "no media type": _of(headers=()),
    "another media type": _of(headers=("Content-Type: text/plain",)),
    "folded header": _of(headers=("Content-Type:", " application/json", "X: y")),
    "upgrade": _of(
        headers=("Content-Type: application/json", "Connection: Upgrade", "Upgrade: tcp"),
    ),
    "expected": _of(headers=("Content-Type: application/json", "Expect: 100-continue")),
    "encoded": _target(_encoded),
    "path": _target(_tricky_path),
    "version": _target(_tricky_version),
    "query": _target(_tricky_query),
    "absolute": _target(lambda target, _: f"http://docker{target}"),
    "another host": _of(headers=("Content-Type: application/json", "Host: engine")),
}


def variants(mark: Mark, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """What was tried and its bytes, for ever: first each spelling and each wire of each creation,
    in any order, then any two spellings on any wire."""
    each = [(what, [spelling], "plain") for what in FORBIDDEN for spelling in SPELLINGS]
    each += [(what, ["plain"], wire) for what in FORBIDDEN for wire in WIRES]
    rng.shuffle(each)
    for what, spellings, wire in each:
        yield _variant(mark, rng, what, spellings, wire)
    while True:
        what, wire = rng.choice(list(FORBIDDEN)), rng.choice(list(WIRES))
        yield _variant(mark, rng, what, rng.sample(list(SPELLINGS), 2), wire)


def _variant(
    mark: Mark, rng: random.Random, what: str, spellings: list[str], wire: str
) -> tuple[str, bytes]:
    text = json.dumps(mark.creation(FORBIDDEN[what]), separators=(",", ":"))
    for spelling in spellings:
        text = SPELLINGS[spelling](text, rng)
    request = Wire(f"/v1.41/containers/create?name={mark.name}", text.encode("utf-8"))
    return f"{what}, {' and '.join(spellings)}, {wire}", WIRES[wire](request, rng)


def spoken(port: int, request: bytes, seconds: float = 5.0) -> bytes:
    """What is answered to these bytes, to the end of the connection or until nothing more comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        answer = b""
        try:
            connection.sendall(request)
            while piece := connection.recv(65536):
                answer += piece
        except (ConnectionError, TimeoutError):
            # Hung up on, or waited for, which is an answer too.
            return answer
        return answer
