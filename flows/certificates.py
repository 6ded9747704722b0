"""A bundle of the system's certificate authorities and the operator's (`MOONMIND_CA_FILE`), for
programs that take one file in place of the system's: git's curl, and S3's client."""

import os
import ssl
from functools import cache
from pathlib import Path

from flows.memory_file import memory_descriptor, path_of

# By which the environment names another file than the system's.
_NAMED = ("GIT_SSL_CAINFO", "SSL_CERT_FILE")
# Debian's, Fedora's, SUSE's and Alpine's.
_SYSTEMS = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def require_certificates(file: Path) -> Path:
    """The same path. Raises `ValueError` where no certificates can be read from it."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except (OSError, ssl.SSLError) as error:
        raise ValueError("has no certificates") from error
    return file


def bundle_with(file: Path) -> str:
    """The path of the bundle, which is there as long as this process. Raises `OSError`."""
    return path_of(_bundle(file, file.stat().st_mtime_ns))


@cache
def _bundle(file: Path, _changed: int) -> int:
    named = [os.environ.get(name, "") for name in _NAMED]
    # None on a host that has no certificates at all: git would find none either.
    systems = [Path(each) for each in (*named, *_SYSTEMS) if os.path.isfile(each)][:1]
    parts = (each.read_text(encoding="utf-8", errors="replace") for each in (*systems, file))
    return memory_descriptor("\n".join(parts))
