"""Where a server listens: a door that may be shut and opened again, and the way to another's."""

import contextlib
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit


def connected(to: str) -> socket.socket:
    """A connection to an address such as `unix:///path`, `tcp://host:port` or `http://host:port`."""
    address = urlsplit(to)
    if address.scheme == "unix":
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address.path)
        return connection
    return socket.create_connection((address.hostname or "127.0.0.1", address.port or 80))


class Door:
    """A port of loopback, or a socket at a path: shut, whoever connects is refused."""

    def __init__(self, at: int | Path) -> None:
        """Port 0 is any that is free; it stays the same."""
        self._at: Path | tuple[str, int]
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._is_removed = False
        if isinstance(at, Path):
            self._at = at
            return
        # Bound and never listening, so that nobody else gets the port while the door is shut.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind(("127.0.0.1", at))
        self._at = self._reserved.getsockname()

    @property
    def port(self) -> int:
        assert isinstance(self._at, tuple), "it listens at a path"
        return self._at[1]

    @property
    def url(self) -> str:
        """For DOCKER_HOST."""
        is_path = isinstance(self._at, Path)
        return f"unix://{self._at}" if is_path else f"tcp://127.0.0.1:{self.port}"

    @property
    def is_shut(self) -> bool:
        return self._listener is None

    def open(self) -> socket.socket | None:
        """A listening socket, for its caller to close; none where the door is open already."""
        with self._lock:
            if self._listener is not None or self._is_removed:
                return None
            if isinstance(self._at, Path):
                self._at.unlink(missing_ok=True)
                self._listener = socket.socket(socket.AF_UNIX)
                self._listener.bind(str(self._at))
                self._listener.listen(128)
            else:
                self._listener = socket.create_server(self._at, backlog=128, reuse_port=True)
            return self._listener

    def shut(self) -> None:
        """Whoever waits in `accept` gets an OSError; nobody listens afterwards."""
        with self._lock:
            if self._listener is not None:
                with contextlib.suppress(OSError):
                    self._listener.shutdown(socket.SHUT_RDWR)
                self._listener.close()
                self._listener = None

    def remove(self) -> None:
        """Shut it for ever."""
        self.shut()
        with self._lock:
            self._is_removed = True
            if isinstance(self._at, Path):
                self._at.unlink(missing_ok=True)
            else:
                self._reserved.close()
