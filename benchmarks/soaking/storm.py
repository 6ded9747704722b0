"""The storm: to each host, and to the server, one deed after another, chosen by the seed."""

import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from benchmarks.soaking.plan import Deed, What, deeds
from scripts.stack import Stack
from tests.gateway import Gateway
from tests.machines import Machine

_ANSWERS = {What.LOSE_API: b"/set_state", What.LOSE_ENGINE: b"/containers/"}


class Storm:
    """Rages in a thread for each host and for the server; what it breaks it mends at its end."""

    def __init__(
        self,
        stack: Stack,
        machines: tuple[Machine, ...],
        seed: int,
        tell: Callable[[str], None],
    ) -> None:
        self.done: Counter[str] = Counter()
        self.ended_by_themselves: list[str] = []
        self._stack = stack
        self._machines = machines
        self._seed = seed
        self._tell = tell
        self._over = threading.Event()

    @contextmanager
    def raging(self) -> Iterator[None]:
        """For the length of the block; afterwards all is up."""
        whom: dict[str, Callable[[Deed], None]] = {
            machine.name: _Host(machine, self._over).suffer for machine in self._machines
        }
        whom["server"] = self._to_server
        with ThreadPoolExecutor(thread_name_prefix="storm") as threads:
            storms = [threads.submit(self._rage, *each) for each in whom.items()]
            try:
                yield
            finally:
                self._over.set()
            for each in storms:
                each.result()

    def _rage(self, whom: str, do: Callable[[Deed], None]) -> None:
        machine = next((each for each in self._machines if each.name == whom), None)
        for deed in deeds(self._seed, whom):
            is_over = self._over.wait(deed.pause)
            if machine is not None:
                self.attend(machine)
            if is_over:
                return
            self._tell(f"{whom}: {deed.what}, {deed.seconds:.0f} s")
            do(deed)
            self.done[deed.what] += 1

    def attend(self, machine: Machine) -> None:
        """What systemd or Docker do: start a worker again that ended by itself."""
        if machine.has_worker and (code := self._stack.process(machine.name).poll()) is not None:
            self.ended_by_themselves.append(f"{machine.name}, exit code {code}")
            self._tell(f"{machine.name}: its worker ended by itself, with {code}")
            self._stack.forget(machine.name)
            machine.start_worker(is_awaited=False)

    def _to_server(self, deed: Deed) -> None:
        if deed.what is What.KILL_SERVER:
            process = self._stack.process("server")
            process.kill()
            process.wait()
            self._stack.forget("server")
        else:
            self._stack.stop("server")
        self._over.wait(deed.seconds)
        self._stack.start_server()


class _Host:
    """What can be done to one."""

    def __init__(self, machine: Machine, over: threading.Event) -> None:
        self._machine = machine
        self._over = over

    def suffer(self, deed: Deed) -> None:
        machine, ways = self._machine, {"API": self._machine.api, "ENGINE": self._machine.docker}
        verb, _, noun = deed.what.name.partition("_")
        if noun in ways and verb not in ("RESTART", "KILL"):
            self._block(ways[noun], deed)
            return
        match deed.what:
            case What.KILL_WORKER:
                machine.kill_worker()
                self._over.wait(deed.seconds)
                machine.start_worker(is_awaited=False)
            case What.STOP_WORKER:
                machine.stop_worker()
                self._over.wait(deed.seconds)
                machine.start_worker(is_awaited=False)
            case What.RESTART_ENGINE | What.KILL_ENGINE:
                self._end_engine(deed.what)
                self._over.wait(deed.seconds)
                machine.engine.start()
            case What.DIE:
                machine.die()
                self._over.wait(deed.seconds)
                machine.come_back(is_awaited=False)

    def _block(self, way: Gateway, deed: Deed) -> None:
        verb = deed.what.name.partition("_")[0]
        if verb == "CUT":
            way.cut()
            return
        with ExitStack() as weather:
            if verb == "REFUSE":
                weather.enter_context(way.refusing())
            elif verb == "HANG":
                weather.enter_context(way.hanging())
            else:
                weather.enter_context(way.losing_answer(_ANSWERS[deed.what], 3, part=0))
                weather.enter_context(way.losing_answer(_ANSWERS[deed.what], 3, part=0.5))
            self._over.wait(deed.seconds)

    def _end_engine(self, what: What) -> None:
        engine = self._machine.engine
        if what is What.KILL_ENGINE:
            engine.end(signal.SIGKILL)
            return
        try:
            engine.end(signal.SIGTERM)
        except subprocess.TimeoutExpired:
            engine.kill_all()
