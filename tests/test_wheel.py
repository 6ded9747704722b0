"""The wheel: what is in it, and that it works where nothing else of this checkout is."""

import ast
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.stack import KIND, ROOT, Stack
from tests.runs import shell
from tests.weather import Weather


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


def required(name: str) -> set[str]:
    """What a distribution requires without extras, canonically named."""
    try:
        wanted = list(map(Requirement, distribution(name).requires or []))
    except PackageNotFoundError:
        # For another system or Python.
        return set()
    return {canonicalize_name(each.name) for each in wanted if not _is_extra(each)}


def named_in(extra: str) -> set[str]:
    """What an extra of this project names, canonically."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = project["optional-dependencies"].get(extra, [])
    return {canonicalize_name(Requirement(each).name) for each in named}


def _is_extra(requirement: Requirement) -> bool:
    return requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})


@pytest.mark.parametrize("extra", ["", "testing"])
def test_whatever_is_imported_is_required(extra: str) -> None:
    # What S3 needs is imported where somebody uses S3.
    allowed = required("moonmind-container-runner") | named_in(extra) | named_in("s3")
    # prefect-docker brings docker, whose errors are those of requests and urllib3.
    for _ in range(2):
        allowed = allowed.union(*map(required, allowed))
    imported = {
        name.partition(".")[0]
        for package in ("flows", "blocks")
        for path in (ROOT / package).rglob("*.py")
        if path.is_relative_to(ROOT / "flows" / "testing") is (extra == "testing")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _imports(node)
    }
    owners = packages_distributions()
    foreign = imported - set(sys.stdlib_module_names) - {"flows", "blocks"}
    missing = {
        name for name in foreign if not {canonicalize_name(o) for o in owners[name]} & allowed
    }
    assert missing == set()


def _imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


@pytest.fixture
def python(wheel: Path, tmp_path: Path) -> Path:
    """Of an environment with the wheel, where this checkout is nowhere to be found."""
    home = tmp_path / "venv"
    venv.create(home)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True)
    # The locked packages without their .pth files, one of which leads to the checkout.
    (packages,) = home.glob("lib/*/site-packages")
    (packages / "locked.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.mark.docker
@pytest.mark.server
def test_a_worker_with_the_wheel_alone_runs_the_deployment(
    stack: Stack, python: Path, tmp_path: Path
) -> None:
    load = (
        "import warnings; warnings.simplefilter('error')\n"
        "from importlib.metadata import entry_points\n"
        "points = entry_points(group='prefect.collections')\n"
        "print(points['moonmind_container_runner'].load().__file__)"
    )
    loaded = subprocess.run(
        [str(python), "-c", load], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert loaded.stdout.strip().startswith(str(python.parent.parent))
    assert loaded.stderr == ""
    with Stack(tmp_path / "elsewhere", stack.port, python=python) as elsewhere:
        weather = Weather.over_pool(elsewhere, "wheel", KIND)
        run_id = weather.submit(shell("echo from the wheel"))
        assert weather.end(run_id)["state_type"] == "COMPLETED"
        assert weather.output(run_id) == "from the wheel\n"


@pytest.mark.thorough
def test_a_users_tests_as_the_documentation_has_them_run_with_the_wheel_alone(
    python: Path, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "testing.md").read_text()
    project = tmp_path / "project"
    project.mkdir()
    for name, text in re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", page, re.M | re.S):
        (project / name).write_text(text)
    command = [str(python), "-m", "pytest", "-p", "no:asyncio", "-W", "error::pytest.PytestWarning"]
    ran = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert re.search(r"= 1 failed, \d\d passed", ran.stdout), ran.stdout
    (shown,) = re.findall(r"^```text\n(.*?)^```$", page, re.M | re.S)
    assert [line for line in shown.splitlines() if line not in ran.stdout] == []
