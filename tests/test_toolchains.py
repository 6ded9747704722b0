"""Real projects, fetched as source distributions, built and tested by one code path.

The worker knows nothing of Python or C: the payload names an image and a command.
"""

import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.stack import ROOT
from tests.git_server import commit_all, git_daemon
from tests.runs import BUSYBOX, GCC, NODE, PYTHON, Runner, payload

pytestmark = [pytest.mark.docker, pytest.mark.toolchain]
SOURCES = ROOT / ".cache" / "sources"

# What each public image of examples/ is replaced by where no registry answers.
STAND_INS = {
    "busybox:1.36": BUSYBOX,
    "python:3.12-slim": PYTHON,
    "gcc:14": GCC,
    "node:22-slim": NODE,
}


def source(requirement: str, digest: str) -> Path:
    """Fetch a source distribution once, checked against its sha256; return the unpacked folder."""
    name = requirement.replace("==", "-").replace("-", "_", requirement.count("-"))
    folder = SOURCES / requirement
    if not folder.exists():
        SOURCES.mkdir(parents=True, exist_ok=True)
        wanted = SOURCES / f"{name}.txt"
        wanted.write_text(f"{requirement} --hash=sha256:{digest}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", ":all:", "--require-hashes", "--dest", str(SOURCES)]
        subprocess.run([*command, "--requirement", str(wanted)], check=True)
        archive = next(SOURCES.glob(f"{requirement.split('==')[0].replace('-', '_')}*.tar.gz"))
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def origins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The projects as git repositories behind a git daemon; yields its address."""
    base = tmp_path_factory.mktemp("origins")
    projects = {
        "six": source(
            "six==1.17.0", "ff70335d468e7eb6ec65b95b99d3a2836546063f63acc5171de367e834932a81"
        ),
        "python": source(
            "cachetools==5.5.2", "1a661caa9175d26759571b2e19580f9d6393969e5dfca11fdb1f947a23e640d4"
        ),
        "c": source(
            "argon2-cffi-bindings==26.2.0",
            "f21ab89bb9850f32b9ca038d9961424bb0d3669d579cbbbfed068cffa6fc0643",
        )
        / "extras"
        / "libargon2",
    }
    for name, folder in projects.items():
        subprocess.run(["cp", "-a", str(folder), str(base / f"{name}.git")], check=True)
        commit_all(base / f"{name}.git", "Import")
    node = base / "node.git"
    (node / "test").mkdir(parents=True)
    (node / "package.json").write_text('{"name": "x", "scripts": {"test": "node --test"}}')
    (node / "test" / "sum.test.js").write_text(
        "require('node:test')('adds', () => require('node:assert').equal(1 + 1, 2))\n"
    )
    commit_all(node, "Write")
    with git_daemon(base) as address:
        yield address


async def test_a_python_projects_own_tests_pass_in_a_python_image(
    origins: str, runner: Runner
) -> None:
    junit = "python3 -m pytest -q -p no:cacheprovider --junitxml=$ARTIFACT_DIR/junit.xml"
    run = await runner(
        payload("sh", "-c", f"{junit} test_six.py", image=PYTHON)
        | {"repository": f"{origins}/six.git"}
    )
    assert run.state.is_completed(), run.message
    assert re.search(r"\d{3} passed", run.output)
    listed = {item["path"] for item in run.run_json["artifacts"]}
    assert "container/junit.xml" in listed
    assert run.run_json["exitCode"] == 0


@pytest.mark.thorough
async def test_a_c_project_is_built_and_tested_in_a_gcc_image(origins: str, runner: Runner) -> None:
    run = await runner(example("c", origins))
    assert run.state.is_completed(), run.message
    assert "PASS" in run.output
    listed = {item["path"]: item for item in run.run_json["artifacts"]}
    assert listed["container/libargon2.a"]["sizeBytes"] > 10_000
    assert run.run_json["commit"]


@pytest.mark.thorough
async def test_a_build_that_is_made_to_fail_says_so_in_the_state_and_in_the_log(
    origins: str, runner: Runner
) -> None:
    script = "echo 'int main(void) { return nonsense; }' > broken.c; make broken"
    run = await runner(payload("sh", "-c", script, image=GCC) | {"repository": f"{origins}/c.git"})
    assert run.state.name == "Failed"
    assert "exited 2" in run.message
    assert "make: ***" in run.message
    assert "nonsense" in run.output
    assert run.run_json["outcome"] == "failed"


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["hello", "python", "node"])
async def test_an_example_runs_on_the_stand_in_of_its_image(
    origins: str, runner: Runner, name: str
) -> None:
    run = await runner(example(name, origins))
    assert run.state.is_completed(), f"{run.message}\n{run.output[-2000:]}"


def example(name: str, origins: str) -> Any:
    """An example's payload, with what this machine has in place of what the public one names."""
    payload: Any = json.loads((ROOT / "examples" / f"{name}.json").read_text())
    container = payload["task"]["container"]
    container["image"] = STAND_INS[container["image"]]
    # A machine that builds may be smaller than the example's.
    container.pop("resources", None)
    container.pop("cacheVolumes", None)
    if "repository" in payload:
        payload["repository"] = f"{origins}/{name}.git"
        payload["task"].pop("git", None)
    return payload
