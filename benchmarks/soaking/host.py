"""One host in a storm: what can be done to it, and somebody who starts its worker again."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable

from benchmarks.soaking.people import up_seconds
from benchmarks.soaking.plan import Deed, What
from tests.gateway import Gateway
from tests.machines import Machine

_ATTENDS_SECONDS = 2.0
# One that is started while the server is away gives up after a minute: that is no end by itself.
_STARTS_SECONDS = 90.0
_ANSWERS = {What.LOSE_API: b"/set_state", What.LOSE_ENGINE: b"/containers/"}


class Host:
    """A machine, until the storm is `over`."""

    def __init__(self, machine: Machine, over: threading.Event) -> None:
        self.name = machine.name
        self.ends: list[str] = []
        self.disks_lost: list[float] = []
        self._machine = machine
        self._over = over
        # Who stops or starts the worker.
        self._lock = threading.Lock()

    def attend(self, tell: Callable[[str], None]) -> None:
        """What systemd or Docker do: start a worker again that has ended by itself."""
        while not self._over.wait(_ATTENDS_SECONDS):
            with self._lock:
                machine = self._machine
                if (code := machine.worker_exit_code) is None:
                    continue
                if time.monotonic() > machine.worker_since + _STARTS_SECONDS:
                    self.ends.append(f"{self.name}: its worker ended by itself, with {code}")
                    tell(self.ends[-1])
                machine.forget_worker()
                machine.start_worker(is_awaited=False)

    def suffer(self, deed: Deed) -> None:
        """Return when it is over, and mended."""
        match deed.what:
            case What.CUT_API:
                self._machine.api.cut()
            case What.CUT_ENGINE:
                self._machine.docker.cut()
            case What.REFUSE_API | What.HANG_API | What.LOSE_API:
                self._spoil(self._machine.api, deed)
            case What.REFUSE_ENGINE | What.HANG_ENGINE | What.LOSE_ENGINE:
                self._spoil(self._machine.docker, deed)
            case What.RESTART_ENGINE | What.KILL_ENGINE:
                self._end_engine(deed.what)
                self._over.wait(deed.seconds)
                self._machine.engine.start()
            case _:
                with self._lock:
                    self._end_worker(deed)

    def _spoil(self, way: Gateway, deed: Deed) -> None:
        match deed.what.name.partition("_")[0]:
            case "REFUSE":
                with way.refusing():
                    self._over.wait(deed.seconds)
            case "HANG":
                with way.hanging():
                    self._over.wait(deed.seconds)
            case _:
                for part in (0, 0.5):
                    with way.losing_answer(_ANSWERS[deed.what], 3, part=part):
                        self._over.wait(deed.seconds / 2)

    def _end_engine(self, what: What) -> None:
        engine = self._machine.engine
        if what is What.KILL_ENGINE:
            engine.end(signal.SIGKILL)
            return
        try:
            engine.end(signal.SIGTERM)
        except subprocess.TimeoutExpired:
            engine.kill_all()

    def _end_worker(self, deed: Deed) -> None:
        machine = self._machine
        match deed.what:
            case What.KILL_WORKER:
                machine.kill_worker()
            case What.STOP_WORKER:
                machine.stop_worker()
            case _:
                machine.die()
        self._over.wait(deed.seconds)
        if deed.what in (What.DIE, What.LOSE_DISK):
            machine.engine.start()
        if deed.what is What.LOSE_DISK:
            machine.empty_disk()
            self.disks_lost.append(up_seconds())
        machine.start_worker(is_awaited=False)
