"""Every recipe of docs/cookbook.md is a payload that compiles; those that can run here, do."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.system import Secret
from pydantic import SecretStr
from ruamel.yaml import YAML

from blocks.repositories import RepositoryCredentials
from flows.errors import PolicyRefused
from flows.payload.parse import parse, require_runnable
from flows.payload.policy import Policy
from scripts.stack import ROOT, Stack
from tests.git_server import PASSWORD, USER, commit_all, git_daemon, git_http
from tests.runs import GCC, NODE, PYTHON, Finished, Runner
from tests.specs import compiled

PAGE = (ROOT / "docs" / "cookbook.md").read_text()
NIGHTLY = ROOT / "examples" / "nightly.yaml"


def recipes() -> dict[str, Any]:
    """The payload of each recipe by its heading."""
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    found = {}
    for each in sections:
        (text,) = re.findall(r"^```json\n(.*?)^```", each, re.MULTILINE | re.DOTALL)
        found[each.partition("\n")[0]] = json.loads(text)
    return found


RECIPES = recipes()
OF_EXAMPLES = {
    ".NET tests": "dotnet",
    "Unity in batch mode": "unity",
    "An Unreal build": "unreal",
    "Node with a cache volume": "node",
}


def test_there_are_ten() -> None:
    assert len(RECIPES) == 10


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_compiles_and_has_limits(name: str) -> None:
    payload = parse(RECIPES[name])
    require_runnable(payload)
    # GPUs are an operator's to grant, as the page says.
    spec = compiled(RECIPES[name], policy=Policy(max_gpus=1))
    assert payload.task.instructions
    assert payload.task.container.timeout_seconds
    assert spec.memory_bytes


def test_the_gpu_is_refused_until_somebody_grants_it() -> None:
    with pytest.raises(PolicyRefused, match="max_gpus"):
        compiled(RECIPES["A GPU"])
    assert "gpu" in parse(RECIPES["A GPU"]).required_capabilities


@pytest.mark.parametrize("name", OF_EXAMPLES)
def test_a_recipe_is_the_example_that_it_names(name: str) -> None:
    path = f"examples/{OF_EXAMPLES[name]}.json"
    assert RECIPES[name] == json.loads((ROOT / path).read_text())
    assert f"`{path}`" in PAGE


@pytest.mark.parametrize(
    "name", [name for name in RECIPES if name in {".NET tests", "CMake and CTest", "pytest"}]
)
def test_a_recipe_for_tests_leaves_its_report_where_reports_belong(name: str) -> None:
    (script,) = RECIPES[name]["task"]["container"]["command"][2:]
    assert "$ARTIFACT_DIR/test-results/" in script


def here(recipe: Any, image: str, repository: str) -> Any:
    """A recipe with what this machine has in place of what it names."""
    copy = json.loads(json.dumps(recipe))
    copy["repository"] = repository
    container = copy["task"]["container"]
    container["image"] = image
    # The machine may be smaller than the recipe's.
    del container["resources"]
    container.pop("cacheVolumes", None)
    return copy


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Projects of the kinds that recipes are for, as git repositories."""
    base = tmp_path_factory.mktemp("projects")
    test = "import unittest\n\nclass TestIt(unittest.TestCase):\n    def test_it(self): ...\n"
    files = {
        "python.git/tests/test_it.py": test,
        "python.git/tests/__init__.py": "",
        "python.git/requirements.txt": "",
        "cmake.git/CMakeLists.txt": (
            "cmake_minimum_required(VERSION 3.21)\nproject(x C)\nenable_testing()\n"
            "add_executable(sum sum.c)\nadd_test(NAME sum COMMAND sum)\n"
        ),
        "cmake.git/sum.c": "int main(void) { return 1 + 1 - 2; }\n",
        "node.git/package.json": json.dumps(
            {"name": "x", "version": "1.0.0", "scripts": {"test": "node --test"}}
        ),
        "node.git/package-lock.json": json.dumps(
            {"name": "x", "version": "1.0.0", "lockfileVersion": 3, "packages": {"": {}}}
        ),
        "node.git/test/token.test.js": (
            "require('node:test')('the token is there', () => "
            "require('node:assert').equal(process.env.NPM_TOKEN.length, 20))\n"
            "console.log('token:', process.env.NPM_TOKEN)\n"
        ),
    }
    for path, text in files.items():
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_text(text)
    for each in base.glob("*.git"):
        commit_all(each, "Write")
    return base


@pytest.fixture(scope="module")
def cmake_image() -> Iterator[str]:
    """The stand-in for gcc, and CMake from Debian."""
    name = "moonmind-local/test-cmake:1"
    recipe = (
        f"FROM {GCC}\nRUN apt-get update -qq && "
        "apt-get install -qq --yes --no-install-recommends cmake ninja-build"
    )
    build = ["docker", "build", "--quiet", "--tag", name, "-"]
    subprocess.run(build, input=recipe, text=True, check=True, capture_output=True)
    yield name
    subprocess.run(["docker", "image", "rm", name], check=True, capture_output=True)


@pytest.fixture(scope="module")
def address(projects: Path) -> Iterator[str]:
    with git_daemon(projects) as address:
        yield address


async def save(name: str, value: Any) -> None:
    await Secret(value=value).asave(name, overwrite=True)


def assert_succeeded(run: Finished) -> None:
    assert run.state.is_completed(), f"{run.message}\n{run.output[-2000:]}"


@pytest.mark.docker
@pytest.mark.toolchain
async def test_the_recipe_for_pytest_writes_its_report(runner: Runner, address: str) -> None:
    recipe = here(RECIPES["pytest"], PYTHON, f"{address}/python.git")
    container = recipe["task"]["container"]
    (script,) = container["command"][2:]
    first, rest = script.split("\n", 1)
    # The stand-in has what pip would fetch.
    assert first.startswith("python -m pip install")
    container["command"][2] = rest
    run = await runner(recipe)
    assert_succeeded(run)
    assert 'tests="1"' in run.file("container/test-results/pytest.xml").read_text()


@pytest.mark.docker
@pytest.mark.toolchain
@pytest.mark.thorough
async def test_the_recipe_for_cmake_builds_and_writes_the_report(
    runner: Runner, address: str, cmake_image: str
) -> None:
    run = await runner(here(RECIPES["CMake and CTest"], cmake_image, f"{address}/cmake.git"))
    assert_succeeded(run)
    assert "100% tests passed" in run.output
    assert 'tests="1"' in run.file("container/test-results/ctest.xml").read_text()


@pytest.mark.docker
@pytest.mark.toolchain
async def test_the_recipe_for_secrets_opens_the_repository_and_hides_the_token(
    runner: Runner, projects: Path
) -> None:
    token = "npm_0123456789abcdef"
    recipe = RECIPES["Secrets"]
    name = recipe["task"]["container"]["secrets"]["NPM_TOKEN"]
    await save(name, token)
    with git_http(projects) as server:
        login = RepositoryCredentials(
            url=f"http://{server}", username=USER, password=SecretStr(PASSWORD)
        )
        await login.asave(recipe["auth"]["repoAuthRef"], overwrite=True)
        run = await runner(here(recipe, NODE, f"http://{server}/node.git"))
    assert_succeeded(run)
    assert "token: ***" in run.output
    assert token not in run.output


@pytest.mark.docker
@pytest.mark.toolchain
async def test_the_recipe_for_every_night_runs(runner: Runner, address: str) -> None:
    run = await runner(here(RECIPES["Every night"], PYTHON, f"{address}/python.git"))
    assert_succeeded(run)
    assert "Ran 1 test" in run.output


@pytest.mark.server
def test_the_nightly_deployment_has_the_recipe_and_its_hour(stack: Stack) -> None:
    wanted = YAML(typ="safe").load(NIGHTLY.read_text())["deployments"][0]
    assert wanted["parameters"]["payload"] == RECIPES["Every night"]
    (command,) = re.findall(r"^\$ prefect (.*nightly\.yaml)$", PAGE, re.MULTILINE)
    words = command.replace("examples/nightly.yaml", str(NIGHTLY)).split()
    stack.prefect("--no-prompt", *words)
    found = stack.api("GET", "/deployments/name/container-task/nightly").json()
    try:
        assert found["parameters"] == {"payload": RECIPES["Every night"]}
        (schedule,) = found["schedules"]
        assert schedule["active"]
        assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == (
            "0 2 * * 1-5",
            "Europe/Berlin",
        )
        assert found["work_queue_name"] == "docker"
    finally:
        stack.api("DELETE", f"/deployments/{found['id']}").raise_for_status()
