"""The wheel: what is in it, and that it works where nothing else of this checkout is."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from scripts.stack import ROOT, Stack, free_port
from tests.runs import shell


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_two_packages_and_nothing_else(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        str(path.relative_to(ROOT))
        for package in ("flows", "blocks")
        for path in (ROOT / package).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    assert packed == expected


@pytest.mark.docker
@pytest.mark.server
def test_the_deployment_runs_from_an_empty_environment_with_the_wheel(
    wheel: Path, tmp_path: Path
) -> None:
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile"]
    lock = ["--no-deps", "--require-hashes", "--requirement", str(ROOT / "requirements.lock")]
    subprocess.run([*pip, *lock], check=True)
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
    load = (
        "import warnings; warnings.simplefilter('error')\n"
        "from importlib.metadata import entry_points\n"
        "points = entry_points(group='prefect.collections')\n"
        "print(points['moonmind_container_runner'].load().__file__)"
    )
    loaded = subprocess.run(
        [str(python), "-c", load], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert loaded.stdout.strip().startswith(str(home))
    assert loaded.stderr == ""
    with Stack(tmp_path / "stack", free_port(), python=python) as stack:
        stack.start()
        flow_run = stack.await_final(stack.submit(shell("echo from the wheel")))
    assert flow_run["state_type"] == "COMPLETED"
