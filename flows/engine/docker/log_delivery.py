"""Hand each byte of a container's output to a sink once, whichever connection it comes over."""

import time

from flows.engine.contract import Sink, Tailed
from flows.engine.docker.log_position import REPLACEMENT, TEXT_DRIVER, Position, Rewind

STREAMS = (1, 2)


class OutputDelivery:
    """What has been delivered of both streams, by an attached connection or from the log.

    `seen` counts bytes that came, new or not. A log that is `strayed` does not begin with what was
    delivered, so from there on all that it has is taken for new; what was `damaged` on its way is
    not complete.
    """

    def __init__(self, sink: Sink, driver: str) -> None:
        self.tailed = Tailed()
        self.seen = 0
        self.last_output = time.time()
        self.damaged = False
        self.strayed = False
        self._broken = False
        self._sink = sink
        self._as_text = driver == TEXT_DRIVER
        self._positions = {stream: Position(as_text=self._as_text) for stream in STREAMS}

    def take_attached(self, stream: int, chunk: bytes) -> None:
        """Deliver what an attached connection gave, which is what the container wrote."""
        self.seen += len(chunk)
        self._positions[stream].add(chunk)
        self._deliver(chunk)

    def broke(self) -> None:
        """Note that the connection is over; the next output counts as a reconnect."""
        self._broken = True

    def stray(self) -> None:
        """Give up comparing the log with what was delivered."""
        self.strayed = self.damaged = True

    def rewinds(self) -> dict[int, Rewind]:
        """For a reading of the log from its beginning, by stream."""
        return {stream: position.rewind() for stream, position in self._positions.items()}

    def take_logged(self, rewind: Rewind, chunk: bytes) -> None:
        """Deliver what is new of the log's next bytes. Raises `UnlikeLogError`."""
        self.seen += len(chunk)
        fresh = chunk if self.strayed else rewind.fresh(chunk)
        if not fresh:
            return
        if self._broken:
            self._broken = False
            self.tailed.reconnects += 1
        if self._as_text and REPLACEMENT in fresh:
            # It may stand for a byte that only an attached connection would have given.
            self.damaged = True
        self._deliver(fresh)

    def _deliver(self, chunk: bytes) -> None:
        self.last_output = time.time()
        self._sink.write(chunk)
