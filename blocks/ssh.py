"""Private keys and `known_hosts` as OpenSSH writes them, also where a form took the line ends."""

import base64
import binascii
import re
import textwrap

_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----(.*?)-----END \1-----", re.DOTALL)
_OPENSSH = b"openssh-key-v1\0\0\0\0"
_HOST = re.compile(
    r"(?:(?:^|(?<=\s))(@cert-authority|@revoked)\s+)?(\S+)\s+"
    r"((?:ssh|ecdsa|sk-ssh|sk-ecdsa)-\S+)\s+(AAAA[0-9A-Za-z+/]+={0,3})(?=\s|$)"
)


def valid_key(text: str) -> str:
    """The key, its lines as ssh wants them. Raises `ValueError` for what is none, and for one with
    a passphrase."""
    found = _PEM.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            "takes a private key as ssh-keygen writes it, from -----BEGIN to the end of -----END"
        )
    label, body = found[1], re.sub(r"\s", "", found[2])
    if "ENCRYPTED" in label or "Proc-Type:" in body or _is_locked(body):
        raise ValueError(
            "takes a key without a passphrase, as nobody is there to type one: ssh-keygen -p "
            "removes it"
        )
    lines = textwrap.wrap(body, 70)
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def _is_locked(body: str) -> bool:
    """Whether OpenSSH's own format names a cipher. Raises `ValueError` for what is no base64."""
    try:
        data = base64.b64decode(body, validate=True)
    except binascii.Error:
        raise ValueError("takes a private key, and this one is damaged or not whole") from None
    return data.startswith(_OPENSSH) and not data[len(_OPENSSH) :].startswith(b"\4none")


def valid_hosts(text: str) -> str:
    """The entries, a line each. Raises `ValueError` where there is text and no entry in it."""
    plain = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found = [" ".join(filter(None, entry)) for entry in _HOST.findall(plain)]
    if plain.strip() and not found:
        raise ValueError(
            "takes lines of host, kind and key, such as ssh-keyscan prints and known_hosts has"
        )
    return "".join(f"{entry}\n" for entry in found)
