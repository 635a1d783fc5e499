"""The wheel: all of the package and nothing else, and free to import."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"cv2", "jaxtyping", "matplotlib", "numpy", "pandas", "scipy", "timm", "torch"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that neither an older build gets in nor this one stays."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("acr", "benchmarks", "tests", "workflow"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", source, "--no-deps", "--no-build-isolation", "--wheel-dir", built]
    subprocess.run(command, check=True, capture_output=True)
    (found,) = built.iterdir()
    return found


def test_the_wheel_holds_the_package_its_data_and_its_types(wheel):
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "acr").rglob("*") if path.is_file()}
    expected = {name for name in files if not name.endswith(".pyc")}
    assert {"acr/py.typed", "acr/datasets/published.json", "acr/models/vit.py"} <= expected
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected


def test_importing_the_package_loads_nothing_else(wheel):
    code = f"import sys; sys.path.insert(0, {str(wheel)!r}); import acr; print(acr.__file__, *{HEAVY!r} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout == f"{wheel}/acr/__init__.py\n"
