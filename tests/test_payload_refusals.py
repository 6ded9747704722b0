"""What a payload may not say: where each refusal points, and what it tells the sender."""

import json
import re
from typing import Any
from urllib.parse import unquote

import pytest

from flows.errors import PayloadError
from flows.payload.parse import parse
from flows.payload.repository import Remote
from flows.payload.validation import MAX_FAULTS
from tests.specs import faults
from tests.strategies import FULL, enabled

Values = tuple[Any, ...]


@pytest.mark.parametrize("value", [2, -1, 1.0, "maybe", "", [], {}, ["true"]])
def test_what_is_neither_true_nor_false_is_refused(value: object) -> None:
    assert "neither true nor false" in faults(enabled(enabled=value))["task.container.enabled"]


@pytest.mark.parametrize("value", ["docker", {"docker": 1}, [1], [""], [None], ["a\nb"]])
def test_capabilities_that_are_no_words_are_refused(value: object) -> None:
    assert list(faults({"requiredCapabilities": value})) == ["requiredCapabilities"]


@pytest.mark.parametrize(
    ("settings", "path", "nearest"),
    [
        ({"timeoutSecond": 5}, "timeoutSecond", "timeoutSeconds"),
        ({"timeout_seconds": 5}, "timeout_seconds", "timeoutSeconds"),
        ({"Image": "x"}, "Image", "image"),
        ({"comand": []}, "comand", "command"),
        ({"artifacts": "x"}, "artifacts", "artifactsSubdir"),
        ({"cache_volumes": []}, "cache_volumes", "cacheVolumes"),
        ({"resources": {"memmory": "1g"}}, "resources.memmory", "memory"),
        ({"resources": {"cpu": 1}}, "resources.cpu", "cpus"),
        ({"cacheVolumes": [{"name": "aa", "target": "/a", "tarqet": "/b"}]},
         "cacheVolumes[0].tarqet", "target"),
    ],
)  # fmt: skip
def test_a_misspelt_key_is_refused_with_the_nearest(settings: Any, path: str, nearest: str) -> None:
    assert f"did you mean {nearest!r}?" in faults(enabled(**settings))[f"task.container.{path}"]


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("ports", "localhost"),
        ("volumes", "cacheVolumes"),
        ("volume", "cacheVolumes"),
        ("binds", "cacheVolumes"),
        ("mounts", "outputs"),
        ("volumesFrom", "cacheVolumes"),
        ("devices", "resources.gpus"),
        ("privileged", "cap_add"),
        ("capAdd", "cap_add"),
        ("cap_add", "cap_add"),
        ("capabilities", "cap_add"),
        ("securityOpt", "policy"),
        ("networkMode", "there is network"),
        ("network_mode", "there is network"),
        ("pid", "namespace"),
        ("ipc", "resources.shm"),
        ("restart", "retry"),
        ("build", "push it to a registry"),
        ("links", "one container"),
        ("depends_on", "one container"),
        ("services", "one container"),
        ("initContainers", "one container"),
        ("imagePullSecrets", "Docker Registry Credentials"),
        ("extraHosts", "engine's host"),
        ("extra-hosts", "engine's host"),
        ("dns", "engine's host"),
        ("sysctls", "kernel"),
        ("runtime", "operator"),
        ("labels", "itself"),
        ("tty", "no terminal"),
        ("env_file", "env"),
    ],
)
def test_a_key_that_is_refused_on_purpose_says_why_and_what_there_is_instead(
    key: str, instead: str
) -> None:
    message = faults(enabled(**{key: True}))[f"task.container.{key}"]
    assert message.startswith("is refused on purpose: ")
    assert instead in message


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("environment", "env"),
        ("args", "command"),
        ("timeout", "timeoutSeconds"),
        ("working_dir", "workdir"),
        ("mem_limit", "resources.memory"),
        ("imagePullPolicy", "pull"),
    ],
)
def test_another_programs_word_for_a_key_is_answered_with_the_one_here(key: str, name: str) -> None:
    assert f"did you mean {name!r}?" in faults(enabled(**{key: 1}))[f"task.container.{key}"]


@pytest.mark.parametrize("key", ["flavour", "xyz", "zone"])
def test_a_key_that_nobody_knows_is_refused_with_those_there_are(key: str) -> None:
    message = faults(enabled(**{key: True}))[f"task.container.{key}"]
    assert "image" in message
    assert "timeoutSeconds" in message


# fmt: off
BAD_IMAGES: Values = (
    "", " ", "Busybox", "busy box", "a//b", "/a", "a/", "a:", ":tag",
    "a:b:c", "a@sha256:12", "a@md5:" + "a" * 32, "https://a/b", "../a", "-v", "--privileged",
    "a:-x", "a..b", "a" * 501, "a" * 64, "sha256:" + "a" * 64, "sha256:77a82587649e",
    "ü", "a\0", "a:" + "t" * 129,
    "host:port/a", 1, True, ["a"], {},
)
BAD_PATHS: Values = (
    "", ".", "x", "./x", "../x", "/a/../etc", "/..", "/a\nb", "/a\0b", "~", "C:\\x", 1, [],
)
BAD_SUBDIRS: Values = (
    "", ".", "..", "../../x", "/abs", "a//b", "a/", "/", "a/../b", "a/.", "a b", "a\\b", "~", "-a",
    ".git", "a\n", "a\0", "é", "/".join("a" * 9), "a" * 101, 1, [], "logs/execute.log",
    "logs/execute.log/x",
)
BAD_NAMES: Values = (
    "/etc", "../x", "x", "a:b", "", ".", "..", "a/b", "./a", "-ab", ".ab", "a b", "a\nb", "aé",
    "a" * 129, "mm-task-1", "/var/run/docker.sock", "C:\\x", 12, None,
)
BAD_TARGETS: Values = (
    *BAD_PATHS, "/", "//", "/work", "/work/agent_jobs", "/work/agent_jobs/x", "/proc", "/proc/1",
    "/sys/fs", "/dev/shm", "/a:ro", "/./work/", "//proc",
)
BAD_CPUS: Values = (0, -1, 0.001, "two", "-2", "1e3", "500m", "", True, 4097, 2**63, [])
BAD_MEMORY: Values = (
    "lots", "", "-1g", "1.5", "1.5.5g", ".5g", "1.g", "16x", "16bb", "16ii", "0.001g",
    "1 g b", 0, 16, -5, True, False, 1.5, "6143k",
    "9999999t", "\uff19g", [], {}, "1g\n1",
)
BAD_PIDS: Values = (0, -1, 1.5, True, "9.5", "-9", "nine", "9" * 40, 1e300, 2**31, [])
BAD_SHM: Values = ("lots", 0, -1, True, "9999999t", [])
BAD_GPUS: Values = (0, -1, 1.5, True, "ALL", "two", "0", 1025, [])
BAD_BLOCKS: Values = ("", "Task-x", "task x", "a/b", "a.b", "-x", "é", 1, True, [])
BAD: dict[str, Values] = {
    "image": BAD_IMAGES,
    "command": ([], "make test", {}, {"0": "a"}, 1, True),
    "command[0]": ([1], [None], [True], [["b"]], ["a\0b"], ["x" * 131072]),
    "workdir": BAD_PATHS,
    "env": ("A=1", ["A=1"], [["A", "1"]], 1),
    "env.KEY": ({"KEY": 1}, {"KEY": 1.5}, {"KEY": True}, {"KEY": []}, {"KEY": {}}, {"KEY": "\0"}),
    "env.JOB_ID": ({"JOB_ID": "x"},),
    "env.REPOSITORY": ({"REPOSITORY": "x"},),
    "env.ARTIFACT_DIR": ({"ARTIFACT_DIR": "x"},),
    'env[""]': ({"": "x"},),
    'env["A=B"]': ({"A=B": "x"},),
    'env["A B"]': ({"A B": "x"},),
    'env["A\\u0000"]': ({"A\0": "x"},),
    "artifactsSubdir": BAD_SUBDIRS,
    "timeoutSeconds": (0, -1, True, False, "1h", "60.5", "0", 1.5, 2_592_001, 2**63, [], {}),
    "resources": ("1g", [], 1),
    "resources.cpus": tuple({"cpus": value} for value in BAD_CPUS),
    "resources.memory": tuple({"memory": value} for value in BAD_MEMORY),
    "resources.pids": tuple({"pids": value} for value in BAD_PIDS),
    "resources.shm": tuple({"shm": value} for value in BAD_SHM),
    "resources.gpus": tuple({"gpus": value} for value in BAD_GPUS),
    "entrypoint": ("sh -c", {}, 1, True),
    "entrypoint[0]": ([1], [None], [["b"]], ["a\0b"], ["x" * 131072]),
    "user": ("", " ", "a b", "a:b:c", ":0", "0:", "-1", "+0", "a\nb", "é", "2147483648",
             "0:4294967296", "a" * 33, "/", "../x", 0, 1000, True, []),
    "network": ("", "moonmind-tasks", "host", "HOST", "default", "container:db",
                "ns:/proc/1/ns/net", "a b", "-x", ".x", "a/b", "x\ny", "é", "a" * 129, 1, True, []),
    "secrets": ("A=b", ["A"], 1),
    "secrets.KEY": tuple({"KEY": name} for name in BAD_BLOCKS),
    "secrets.JOB_ID": ({"JOB_ID": "task-x"},),
    "pull": ("Always", "missing", "", True, [], 1),
    "platform": ("", "linux", "linux/", "/amd64", "a/b/c/d", "linux/arm 64", True, [], "l/\n",
                 "linux/ amd64"),
    "cacheVolumes": (
        "a:/b", {"name": "aa"}, 1,
        [{"name": "aa", "target": "/c"}, {"name": "bb", "target": "/c/"}],
    ),
    "cacheVolumes[0]": (["aa:/b"], [["aa", "/b"]]),
    "cacheVolumes[0].name": tuple([{"name": name, "target": "/c"}] for name in BAD_NAMES),
    "cacheVolumes[0].target": tuple([{"name": "aa", "target": target}] for target in BAD_TARGETS),
}
# fmt: on


@pytest.mark.parametrize(
    ("path", "value"),
    [(path, value) for path, values in BAD.items() for value in values],
    ids=lambda value: ascii(value)[:60],
)
def test_a_bad_value_is_refused_at_its_path_with_what_would_do(path: str, value: Any) -> None:
    key = path.partition(".")[0].partition("[")[0]
    ((found, message),) = faults(enabled(**{key: value})).items()
    assert found == f"task.container.{path}"
    assert "; it takes " in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ({"task": []}, "task"),
        ({"task": {"container": "busybox"}}, "task.container"),
        ({"task": {"instructions": 5}}, "task.instructions"),
        ({"task": {"instructions": "a\0b"}}, "task.instructions"),
        ({"task": {"publish": {"mode": "push"}}}, "task.publish.mode"),
        ({"task": {"skill": {"requiredCapabilities": "x"}}}, "task.skill.requiredCapabilities"),
        ({"targetRuntime": ""}, "targetRuntime"),
        ({"targetRuntime": ["x"]}, "targetRuntime"),
        *[({"task": {"git": {"startingBranch": ref}}}, "task.git.startingBranch")
          for ref in ("", "-x", "--upload-pack=id", "+x", "a b", "a..b", "a:b", "a~1", "a^",
                      "a@{1}", "@", "/a", "a/", "a//b", ".a", "a/.b", "a.", "a.lock",
                      "a.lock/b", "a\nb", "a\0", "a*", "a?", "a[", "a\\b", "x" * 251, 1)],
        ({"task": {"git": {"newBranch": "-f"}}}, "task.git.newBranch"),
    ],
)  # fmt: skip
def test_a_bad_value_outside_the_container_is_refused(raw: object, path: str) -> None:
    (fault,) = faults(raw).items()
    assert fault[0] == path
    assert "; it takes " in fault[1]


@pytest.mark.parametrize(
    "repository",
    ["/srv/x", "./x", "../x", "x", "~/x", "file:///srv/x", "file://host/x", "file:/x", "file:x",
     "FILE:///x", "ext::sh -c id", "ext::sh", "fd::3", "--upload-pack=x", "-oProxyCommand",
     "-oProxyCommand=id@host:x", "-t@host:x", "ssh://-oProxyCommand=id/x", "ssh://-oX@host/x",
     "git@-oX:x", "git@host:-x", "http://", "https://", "https:///x", "http:/x/y", "C:\\x", "C:/x",
     "\\\\host\\x", "https://host\\@other/x", "a/b/c", "owner/..", "owner/.", "/owner/name",
     "-a/b", "", " ", "https://host/a b", "https://host/x\ny", "owner/na me", "gitlab.com/g/p",
     "https://host:0/x", "https://host:99999/x", "https://[::1/x", "https://h\0/x", "ftp://host/x",
     "git://other:9%2f[v1.host]/x", "ssh://git@other%2f[v1.host]/x", "https://other[v1.host]/x",
     "https://[v1.host]/x", "https://[::1]x/y", "https://host%2f/x",
     "javascript:alert(1)", "host:/srv/x", "git@host:", 1, [], {"url": "x"}],
)  # fmt: skip
def test_a_repository_that_is_not_on_the_network_is_refused(repository: object) -> None:
    (fault,) = faults({"repository": repository}).items()
    assert fault == ("repository", fault[1])
    assert "owner/name" in fault[1] or "not a string" in fault[1]


@pytest.mark.parametrize(
    ("repository", "hint"),
    [
        ("gitlab.com/g/p", "put https:// before it"),
        ("git.internal.example:3000/g/p.git", "put https:// before it"),
        ("gitlab.com:g/p.git", "put git@ before it"),
        ("https://dev.azure.com/org/my proj/_git/repo", "write %20 for a blank"),
        ("git+https://gitlab.com/g/p", "leave 'git+' out"),
    ],
)
def test_a_repository_that_is_nearly_an_address_is_refused_with_what_it_lacks(
    repository: str, hint: str
) -> None:
    message = faults({"repository": repository})["repository"]
    assert message.startswith(f"is neither a git URL nor owner/name: {hint}; it takes ")


@pytest.mark.parametrize(
    "url",
    ["ssh://git@%5Bother%5D@host/x", "ssh://git@other%3A22%2Fx@host/x", "ssh://a%40other@host/x"],
)
def test_a_user_for_ssh_names_no_other_host_in_gits_reading(url: str) -> None:
    message = faults({"repository": url})["repository"]
    assert message.startswith("has a user for ssh that is no account's name")
    assert Remote.parse(url).address is None


@pytest.mark.parametrize(
    "url",
    ["ssh://git@host/x@[other:22]/y", "ssh://git@host/x%40%5Bother%5D/y", "git://host/@[other]/y"],
)
def test_a_path_names_no_other_host_in_gits_reading(url: str) -> None:
    assert faults({"repository": url})["repository"].startswith("has a bracket in its path")
    assert not url.startswith("ssh") or Remote.parse(url).address is None


@pytest.mark.parametrize("rest", ["?ref=main", "#main", "?", "#", "?token=hunter2#x"])
@pytest.mark.parametrize("url", ["https://host/x.git", "ssh://git@host/x", "git://host:9418/x"])
def test_what_git_would_not_be_given_of_a_url_is_refused(url: str, rest: str) -> None:
    message = faults({"repository": url + rest})["repository"]
    assert "no query or fragment; name a branch, tag or commit in task.git.starting" in message
    assert "hunter2" not in message


def test_a_refused_repository_does_not_show_its_password() -> None:
    assert "hunter2" not in str(faults({"repository": "ftp://user:hunter2@host/x"}))
    assert "hunter2" not in repr(parse({"repository": "https://user:hunter2@host/x"}))


def test_all_faults_come_at_once() -> None:
    raw = enabled(image="UPPER", timeoutSeconds=0, env={"JOB_ID": "x", "N": 1}, privileged=True)
    del raw["task"]["container"]["command"]
    raw |= {"repository": "/srv/x", "requiredCapabilities": "docker"}
    raw["task"]["publish"] = {"mode": "push"}
    assert set(faults(raw)) == {
        "repository",
        "requiredCapabilities",
        "task.container.command",
        "task.container.env.JOB_ID",
        "task.container.env.N",
        "task.container.image",
        "task.container.privileged",
        "task.container.timeoutSeconds",
        "task.publish.mode",
    }


@pytest.mark.parametrize("key", ["$ref", "__prefect_kind"])
@pytest.mark.parametrize(
    "place",
    [
        lambda bad: bad,
        lambda bad: {"task": bad},
        lambda bad: {"unknown": [[{"deep": [bad]}]]},
        lambda bad: enabled(env=bad),
        lambda bad: enabled(resources=bad),
        lambda bad: enabled(cacheVolumes=[bad]),
        lambda bad: enabled(command=["a", bad]),
        lambda bad: {"auth": {"x": bad}},
    ],
)
def test_a_key_that_prefect_acts_on_is_refused_wherever_it_stands(key: str, place: Any) -> None:
    (fault,) = faults(place({key: "x"})).items()
    assert fault[0].endswith(key)
    assert "Prefect" in fault[1]


@pytest.mark.parametrize(
    ("value", "words"),
    [(float("nan"), "finite"), (float("inf"), "finite"), (2**65, "64 bits"),
     pytest.param(10**5000, "64 bits", id="huge"),
     ("\ud800", "surrogate"), (b"x", "bytes"), ({1}, "set"), ((1,), "tuple"), (object(), "object")],
)  # fmt: skip
def test_what_json_cannot_say_is_refused_at_its_path(value: object, words: str) -> None:
    (fault,) = faults({"unknown": [{"deep": value}]}).items()
    assert fault[0] == "unknown[0].deep"
    assert words in fault[1]


@pytest.mark.parametrize(
    ("credentials", "says"),
    [
        ("x" * 4097, "a user of more than 4096 bytes"),
        ("build:" + "x" * 4097, "a password of more than 4096 bytes"),
        ("build:" + "%C3%BC" * 2049, "a password of more than 4096 bytes"),
        ("build:one%0Atwo", "a password with control characters"),
        ("one%00two:x", "a user with control characters"),
        ("build:%E2%80%AEx", "a password with control characters"),
    ],
)
@pytest.mark.parametrize("scheme", ["https", "ssh"])
def test_what_cannot_be_a_credential_is_refused_and_not_shown(
    scheme: str, credentials: str, says: str
) -> None:
    message = faults({"repository": f"{scheme}://{credentials}@host/x"})["repository"]
    assert message.startswith(f"has {says}")
    assert "two" not in message
    assert len(message) < 500


@pytest.mark.parametrize("password", ["x" * 4096, "%C3%BC" * 2048, "pass%20word%40"])
def test_a_long_token_is_a_credential(password: str) -> None:
    remote = parse({"repository": f"https://build:{password}@host/x"}).remote
    assert remote is not None
    assert remote.password == unquote(password)


def test_a_variable_that_linux_would_not_take_is_refused_with_its_name() -> None:
    most = 128 * 1024 - len("NAME=") - 1
    assert parse(enabled(env={"NAME": "x" * most})).task.container.env
    message = faults(enabled(env={"NAME": "x" * (most + 1)}))["task.container.env"]
    assert message.startswith("has NAME, which has more than 131071 bytes with its name")


@pytest.mark.parametrize(
    "key", [1, None, ("a",), b"x", True, pytest.param(10**5000, id="huge"), "\udfff"]
)
def test_a_key_that_is_no_text_is_refused(key: object) -> None:
    assert "JSON keys are strings" in faults({"unknown": {key: 1}})["unknown"]


@pytest.mark.parametrize("raw", [None, [], "x", 1, b"{}", [FULL], json.dumps(FULL), object()])
def test_a_payload_that_is_no_object_is_refused(raw: object) -> None:
    assert "it takes a JSON object" in faults(raw)["payload"]


def test_structures_without_an_end_are_refused() -> None:
    itself: dict[str, Any] = {}
    itself["again"] = itself
    bush: list[Any] = []
    bush.extend([bush] * 10)
    deep: Any = "bottom"
    for _ in range(100_000):
        deep = [deep]
    for endless in (itself, {"bush": bush}, {"deep": deep}):
        assert any("levels deep" in message for message in faults(endless).values())


def test_a_payload_too_large_to_send_is_refused() -> None:
    assert "limit is 524288" in faults(enabled() | {"auth": "x" * 5_000_000})["payload"]
    assert "more than 10000 values" in faults({"auth": [0] * 200_000})["payload"]


def test_countless_faults_are_told_in_bounds() -> None:
    for raw in (enabled(**{f"k{i}": 1 for i in range(9_000)}), {"a": [float("nan")] * 9_000}):
        with pytest.raises(PayloadError) as refusal:
            parse(raw)
        assert len(refusal.value.faults) == MAX_FAULTS + 1
        assert len(str(refusal.value)) < 20_000


@pytest.mark.parametrize("key", ["a\nb", "\x1b[31m", "a: b", "x" * 100_000])
def test_a_hostile_key_leaves_a_fault_on_one_short_line(key: str) -> None:
    for raw in (enabled(**{key: 1}), {"auth": {key: float("nan")}}):
        ((path, message),) = faults(raw).items()
        assert len(path) < 130
        assert not re.search(r"[\x00-\x1f]", path + message)
