"""The log-in that a registry is shown: base64 of JSON in a header, read and written anew. Pure."""

import base64
import json

from flows.docker_proxy.refused import Refused
from flows.docker_proxy.strict_json import parse

# As docker-py writes them, by where it has them from.
_KEYS = {
    **dict.fromkeys(("username", "Username"), "username"),
    **dict.fromkeys(("password", "Password"), "password"),
    **dict.fromkeys(("serveraddress", "ServerAddress"), "serveraddress"),
    **dict.fromkeys(("identitytoken", "IdentityToken"), "identitytoken"),
    "registrytoken": "registrytoken",
    "auth": "auth",
    "email": "email",
}
_NONE = "refuses X-Registry-Auth: it is no log-in"


def rewritten(header: str) -> str:
    """The same log-in. Raises `Refused` for what is none; the sentence shows nothing of it."""
    try:
        told = parse(base64.b64decode(header, b"-_", validate=True), "X-Registry-Auth")
    except (ValueError, Refused):
        # Of a secret, not even where it cannot be read.
        raise Refused(_NONE) from None
    is_one = isinstance(told, dict) and all(
        key in _KEYS and isinstance(value, str | None) for key, value in told.items()
    )
    if not is_one or len({_KEYS[key] for key in told}) < len(told):
        raise Refused(_NONE)
    known = {_KEYS[key]: value for key, value in told.items() if value is not None}
    return base64.urlsafe_b64encode(json.dumps(known).encode()).decode()
