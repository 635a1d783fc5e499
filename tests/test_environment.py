"""The three descriptions of the environment say the same: pyproject.toml, constraints.txt, environment.yml."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = [Requirement(line) for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
CONDA_NAMES = {"opencv-python-headless": "py-opencv", "snakemake": "snakemake-minimal", "torch": "pytorch"}
NOT_ON_CONDA = {"pydensecrf2"}  # conda's own is of 2018 and for Python 3.6; the README has pip build it
BUILD_TOOLS = {"pip", "cxx-compiler", "cython", "setuptools"}
OF_TORCH = re.compile(r"(nvidia|cuda|triton)\b")  # pinned by torch itself, and by platform


def pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def conda() -> dict[str, SpecifierSet]:
    entries = [entry.split(" ", 1) for entry in ENVIRONMENT["dependencies"]]
    return {name: SpecifierSet(rest[0] if rest else "") for name, *rest in entries}


def closure() -> set[str]:
    """Everything that installing the package with its tests installs on this platform."""
    seen, waiting = set(), list(REQUIRED)
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        for line in importlib.metadata.requires(requirement.name) or []:
            further = Requirement(line)
            extras = requirement.extras or {""}
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(further)
    return {name for name, _ in seen}


def test_every_pin_is_exact_and_named_once():
    names = [canonicalize_name(pin.name) for pin in pins()]
    assert len(names) == len(set(names))
    for pin in pins():
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), f"{pin} is not one version, or one of this machine only"
        assert not OF_TORCH.match(pin.name)


@pytest.mark.parametrize("requirement", REQUIRED, ids=lambda requirement: requirement.name)
def test_the_pinned_version_is_in_range(requirement):
    pin = next(pin for pin in pins() if canonicalize_name(pin.name) == canonicalize_name(requirement.name))
    assert requirement.specifier.contains(str(pin.specifier).removeprefix("=="))


def test_what_the_requirements_require_is_pinned_too():
    pinned = {canonicalize_name(pin.name) for pin in pins()}
    assert not {name for name in closure() if not OF_TORCH.match(name)} - pinned


def test_the_tests_have_what_an_export_to_onnx_needs():
    needed = {line for line in PROJECT["optional-dependencies"]["onnx"] if Requirement(line).name != "torch"}
    assert needed
    assert needed <= set(PROJECT["optional-dependencies"]["test"])


def test_conda_has_the_same_ranges():
    expected = {CONDA_NAMES.get(each.name, each.name): each.specifier for each in REQUIRED if each.name not in NOT_ON_CONDA}
    listed = conda()
    assert listed.pop("python") == SpecifierSet(PROJECT["requires-python"])
    assert {name: range_ for name, range_ in listed.items() if name not in BUILD_TOOLS} == expected
    assert set(listed) >= BUILD_TOOLS


@pytest.mark.parametrize("file", ["README.md", "environment.yml"])
def test_conda_users_build_the_version_that_is_required(file):
    (required,) = [requirement for requirement in REQUIRED if requirement.name in NOT_ON_CONDA]
    assert f"pip install --no-build-isolation --no-deps {required} -e ." in (ROOT / file).read_text()


def test_the_oldest_python_is_the_same_everywhere():
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert f"Python {oldest} or newer" in (ROOT / "README.md").read_text()
    assert f"{oldest} or newer is needed" in (ROOT / ".ci" / "preflight").read_text()
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert oldest in workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert tools["ruff"]["target-version"] == "py" + oldest.replace(".", "")
    assert tools["mypy"]["python_version"] == oldest


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest.group(1) == PROJECT["version"]
