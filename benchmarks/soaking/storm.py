"""The storm: to each host, and to the server, one deed after another, chosen by the seed."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from benchmarks.soaking.host import Host
from benchmarks.soaking.plan import Deed, What, deeds
from scripts.stack import Stack
from tests.machines import Machine


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
        self._over = threading.Event()
        self.hosts = [Host(machine, self._over) for machine in machines]
        self._stack = stack
        self._seed = seed
        self._tell = tell

    @contextmanager
    def raging(self) -> Iterator[None]:
        """For the length of the block; afterwards all is up."""
        with ThreadPoolExecutor(thread_name_prefix="storm") as threads:
            storms = [threads.submit(self._rage, "server", self._to_server)]
            for host in self.hosts:
                storms.append(threads.submit(self._rage, host.name, host.suffer))
                storms.append(threads.submit(host.attend, self._tell))
            try:
                yield
            finally:
                self._over.set()
            for each in storms:
                each.result()

    def _rage(self, whom: str, do: Callable[[Deed], None]) -> None:
        for deed in deeds(self._seed, whom):
            if self._over.wait(deed.pause):
                return
            self._tell(f"{whom}: {deed.what}, {deed.seconds:.0f} s")
            do(deed)
            self.done[deed.what.value] += 1

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
