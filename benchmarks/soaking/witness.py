"""Witnesses: containers that write down when they begin, work and end, where no job's folder is.

Each engine has a cache volume that is one folder of this machine, so containers of both hosts meet
in it; and an image with `flock`, and with its host's name.
"""

import io
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.soaking.plan import IMAGE, VOLUME, WITNESS
from flows.spec import LABEL_CACHE, LABEL_CACHE_OWNER
from scripts.stack import DEPLOYMENT
from tests.machines import Machine
from tests.runs import BUSYBOX


@dataclass(frozen=True, slots=True)
class Seen:
    """One line of a witness: seconds since the machine's start, host, container, what it says."""

    second: float
    host: str
    container: str
    says: str


def employ(machine: Machine, folder: Path) -> None:
    """Give its engine the image and the volume, which is `folder`."""
    folder.mkdir(exist_ok=True)
    machine.engine.import_image(_image(machine.name), IMAGE)
    owner = f"{LABEL_CACHE_OWNER}=deployment:{DEPLOYMENT}"
    labels = ("--label", f"{LABEL_CACHE}=true", "--label", owner)
    options = ("type=none", "o=bind", f"device={folder}")
    words = [word for option in options for word in ("--opt", option)]
    machine.engine.docker("volume", "create", *labels, "--driver", "local", *words, VOLUME)


def dismiss(machine: Machine) -> None:
    machine.engine.docker("volume", "rm", "--force", VOLUME)


def testify(folder: Path, run_id: str) -> list[Seen]:
    """What the containers of a run have written, oldest first."""
    try:
        lines = (folder / run_id / "log").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [
        Seen(float(second), host, container, says)
        for second, host, container, says in (line.split(" ", 3) for line in lines)
    ]


def are_awake(first: Machine, second: Machine, folder: Path) -> bool:
    """Whether two containers of one run, on two engines, at the same time, would be seen."""
    script = f"{WITNESS}\nwork 2; end 0"
    started = [
        machine.engine.docker(
            "run", "--detach", "--env", "JOB_ID=control", "--volume", f"{VOLUME}:/witness", IMAGE,
            "sh", "-c", script,
        ).strip()
        for machine in (first, second)
    ]  # fmt: skip
    for machine, container in zip((first, second), started, strict=True):
        machine.engine.docker("wait", container)
        machine.engine.docker("rm", container)
    said = [seen.says for seen in testify(folder, "control")]
    shutil.rmtree(folder / "control")
    return sorted(said) == ["beat"] * 4 + ["begin"] + ["end 0"] * 2 + ["second"]


def _image(host: str) -> bytes:
    """A root file system of busybox, and of what `flock` needs of this machine."""
    container = _output("docker", "create", BUSYBOX).decode().strip()
    try:
        data = io.BytesIO(_output("docker", "export", container))
    finally:
        _output("docker", "rm", container)
    flock = shutil.which("flock")
    assert flock, "install util-linux"
    needed = [word for word in _output("ldd", flock).decode().split() if word.startswith("/")]
    with tarfile.open(fileobj=data, mode="a") as archive:
        for path in (flock, *needed):
            target = "bin/flock" if path == flock else path.lstrip("/")
            archive.add(Path(path).resolve(), target)
        name = f"{host}\n".encode()
        entry = tarfile.TarInfo("etc/soak-host")
        entry.size = len(name)
        archive.addfile(entry, io.BytesIO(name))
    return data.getvalue()


def _output(*words: str) -> bytes:
    return subprocess.run(words, check=True, capture_output=True).stdout
