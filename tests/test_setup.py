"""`make install` on machines that lack something: one sentence each; and on one that has it all: once, then never again."""

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ("sh", "make", "cat", "mkdir", "cp", "rm", "touch")
ANOTHER = "name another with make install PYTHON=/path/to/python."
COMPILERS = (
    "install one (Debian and Ubuntu: apt install g++ python3-dev; macOS: xcode-select --install) or name it with CC and CXX."
)

# a Python that is asked everything and installs nothing: it notes what it was told
WILLING = """
case "$*" in
    *version_info*) echo 3.12 ;;
    *'"CC"'*) echo "cc -pthread" ;;
    *'"CXX"'*) echo c++ ;;
    *'"include"'*) echo . ;;
    *"-m venv"*) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo "$*" >> calls ;;
    *"pip install"*) echo "$*" >> calls ;;
esac
"""


@pytest.fixture
def machine(tmp_path):
    """A checkout beside a folder that is the whole PATH; `programs` puts scripts into it."""
    if not all(shutil.which(tool) for tool in TOOLS):
        pytest.skip("no make on this machine")
    checkout, path = tmp_path / "checkout", tmp_path / "path"
    (checkout / ".ci").mkdir(parents=True)
    path.mkdir()
    for name in ("Makefile", ".ci/preflight", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, checkout / name)
    for tool in TOOLS:
        (path / tool).symlink_to(shutil.which(tool))
    return Machine(checkout, path)


class Machine:
    def __init__(self, checkout: Path, path: Path) -> None:
        self.checkout, self.path = checkout, path

    def program(self, name: str, script: str) -> None:
        file = self.path / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    def install(self, **environment: str) -> subprocess.CompletedProcess:
        # nothing of the make that may have started these tests is passed on
        variables = {"PATH": str(self.path), "HOME": os.environ.get("HOME", "/"), **environment}
        return subprocess.run(
            ["make", "install"], cwd=self.checkout, env=variables, capture_output=True, text=True, check=False
        )

    def calls(self) -> list[str]:
        file = self.checkout / "calls"
        return file.read_text().splitlines() if file.exists() else []


def refusal(run: subprocess.CompletedProcess) -> str:
    """The sentence; all that make adds is that the target failed."""
    assert run.returncode == 2
    sentence, *rest = run.stderr.splitlines()
    assert len(rest) == 1
    assert rest[0].startswith("make: ***")
    assert run.stdout == ""
    return sentence


def test_no_python(machine):
    assert refusal(machine.install()) == (f"setup: no working python3 was found; install Python 3.11 or newer or {ANOTHER}")


def test_a_python_that_does_not_start(machine):
    machine.program("python3", "echo 'pyenv: python3: command not found' >&2; exit 127")
    assert "no working python3 was found" in refusal(machine.install())


@pytest.mark.parametrize(
    ("version", "accepted"), [("2.7", False), ("3.9", False), ("3.10", False), ("3.11", True), ("4.0", False)]
)
def test_an_old_python(machine, version, accepted):
    machine.program("python3", WILLING.replace("3.12", version))
    machine.program("cc", "exit 0")
    machine.program("c++", "exit 0")
    run = machine.install()
    if accepted:
        assert run.returncode == 0
    else:
        expected = f"setup: python3 is Python {version}, but 3.11 or newer is needed; install it or {ANOTHER}"
        assert refusal(run) == expected


def test_no_ensurepip(machine):
    machine.program("python3", f'case "$*" in *ensurepip*) exit 1 ;; *) exec {sys.executable} "$@" ;; esac')
    assert refusal(machine.install()) == (
        "setup: python3 has no venv module with ensurepip; install it (Debian and Ubuntu: apt install python3-venv) "
        f"or {ANOTHER}"
    )


@pytest.mark.parametrize(("variables", "named"), [({}, "cc"), ({"CC": "mycc -m64"}, "mycc")])
def test_no_compiler(machine, variables, named):
    machine.program("python3", WILLING)
    assert refusal(machine.install(**variables)) == (
        f"setup: no C compiler {named} was found, which pydensecrf2 is built with; {COMPILERS}"
    )


def test_a_compiler_without_headers(machine):
    machine.program("python3", WILLING)
    machine.program("cc", "exit 0")
    machine.program("c++", "exit 1")
    assert refusal(machine.install()) == (
        f"setup: c++ cannot compile C++ with the headers of python3, which pydensecrf2 needs; {COMPILERS}"
    )


@pytest.fixture
def whole(machine):
    machine.program("python3", WILLING)
    machine.program("cc", "exit 0")
    machine.program("c++", "exit 0")
    return machine


def test_install_happens_once(whole):
    assert whole.install().returncode == 0
    venv, tools, package = whole.calls()
    assert venv == "-m venv --clear .venv"
    assert tools == "-m pip install -c constraints.txt cython setuptools"
    assert package == "-m pip install -c constraints.txt --no-build-isolation -e .[test]"
    start = time.monotonic()
    assert whole.install().returncode == 0
    assert time.monotonic() - start < 1
    assert len(whole.calls()) == 3


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt"])
def test_a_changed_requirement_installs_again_into_the_same_place(whole, changed):
    whole.install()
    later = time.time() + 10
    os.utime(whole.checkout / changed, (later, later))
    assert whole.install().returncode == 0
    assert [call.split()[1] for call in whole.calls()] == ["venv", "pip", "pip", "pip", "pip"]


def test_a_moved_checkout_starts_over(whole):
    whole.install()
    moved = Machine(whole.checkout.rename(whole.checkout.with_name("moved")), whole.path)
    (moved.checkout / "calls").unlink()
    assert moved.install().returncode == 0
    assert moved.install().returncode == 0
    assert [call.split()[1] for call in moved.calls()] == ["venv", "pip", "pip"]


def test_an_interrupted_installation_goes_on(whole):
    whole.program("python3", WILLING.replace('*"pip install"*)', '*"pip install"*--no-build*) exit 1 ;;\n    *"pip install"*)'))
    assert whole.install().returncode == 2
    assert not (whole.checkout / ".venv" / "installed").exists()
    (whole.checkout / ".venv" / "bin" / "python").unlink()
    whole.program("python3", WILLING)
    shutil.copy(whole.path / "python3", whole.checkout / ".venv" / "bin" / "python")
    assert whole.install().returncode == 0
    assert [call.split()[1] for call in whole.calls()] == ["venv", "pip", "pip", "pip"]
