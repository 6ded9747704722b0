"""Hosts whose certificate is of an authority of one's own: `MOONMIND_CA_FILE`."""

import io
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from flows.certificates import bundle_with
from flows.errors import HostMisconfigured, WorkspaceError
from flows.outputs.stores import FsspecStore, HashingReader
from flows.payload.repository import Remote
from flows.settings import HostSettings
from flows.workspace.git import checkout
from flows.workspace.git_access import HostAccess
from tests.git_server import PASSWORD, USER, commit_all, git_http
from tests.s3 import BUCKET, endpoint


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody but itself has signed, and beside it its key."""
    certificate = tmp_path_factory.mktemp("authority") / "ca.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=Test"
    outputs = ["-keyout", str(certificate.with_suffix(".key")), "-out", str(certificate)]
    subprocess.run(
        ["openssl", *words.split(), "-addext", "subjectAltName=IP:127.0.0.1", *outputs],
        check=True,
        capture_output=True,
    )
    return certificate


@pytest.fixture(scope="module")
def context(authority: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, authority.with_suffix(".key"))
    return context


@pytest.fixture(scope="module")
def remote(context: ssl.SSLContext, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    base = tmp_path_factory.mktemp("https")
    (base / "game").mkdir()
    (base / "game" / "file").write_text("from there\n")
    commit_all(base / "game", "First")
    with git_http(base, tls=context) as server:
        yield Remote.parse(f"https://{USER}:{quote(PASSWORD, safe='')}@{server}/game")


async def test_git_believes_the_operators_authority(
    authority: Path, remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOONMIND_CA_FILE", str(authority))
    host = HostAccess(certificates=HostSettings.from_environment().certificates)
    await checkout(remote, None, tmp_path, host=host)
    assert (tmp_path / "file").read_text() == "from there\n"


async def test_git_believes_no_other_and_says_what_to_do(remote: Remote, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"certificate.*MOONMIND_CA_FILE") as raised:
        await checkout(remote, None, tmp_path)
    assert not raised.value.may_pass


@pytest.mark.thorough
def test_a_storage_believes_the_operators_authority(authority: Path) -> None:
    with endpoint((str(authority), str(authority.with_suffix(".key")))) as s3:
        with pytest.raises(OSError, match=r"SSL|certificate"):
            put(FsspecStore(f"s3://{BUCKET}", s3.options()))
        put(FsspecStore(f"s3://{BUCKET}", s3.options(), bundle_with(authority)))


def put(store: FsspecStore) -> None:
    try:
        store.put("key", HashingReader(io.BytesIO(b"data"), 4, lambda: False))
        assert store.has("key", 4)
    finally:
        store.close()


def test_the_systems_authorities_are_believed_as_before(
    authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems = tmp_path / "systems"
    systems.write_text("the system's\n")
    monkeypatch.setenv("GIT_SSL_CAINFO", "/none")
    monkeypatch.setenv("SSL_CERT_FILE", str(systems))
    mine = tmp_path / "mine"
    mine.write_text(authority.read_text())
    assert Path(bundle_with(mine)).read_text() == f"the system's\n\n{authority.read_text()}"


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_file_without_certificates_is_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    monkeypatch.setenv("MOONMIND_CA_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(HostMisconfigured, match=r"MOONMIND_CA_FILE is .* certificates in PEM"):
        HostSettings.from_environment()
