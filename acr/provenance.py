"""What made an artefact: its recipe, what it was made from, versions and commit; and what code it depends on."""

import ast
import functools
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from acr.files import PROVENANCE, digest, write_json

PACKAGE = Path(__file__).parent
LIBRARIES = ("acr", "torch", "timm", "numpy", "opencv-python-headless", "pydensecrf2")


def fingerprint(script: str | Path, idle: Collection[str] = (), extensions: Iterable[str | Path] = ()) -> str:
    """The name of a script and a digest of it, of the modules of this package that it imports, and of all that these import.

    The `extensions` that it runs count as the script does.

    Comments, docstrings and layout do not count: an edit of them changes no result. Nor do `idle` modules, which are
    imported and never run, and what only they import; but for those that an extension imports itself.
    """
    first, *others = (Path(file) for file in (script, *extensions))
    code = hashlib.sha256(_source(first)[0].encode())
    for file in others:
        code.update(f"{file.name}\0{_source(file)[0]}\0".encode())
    used = {module for file in others for module in _source(file)[1]}
    for module in sorted(_closure({*_source(first)[1], *used}, set(idle) - used)):
        code.update(f"{module}\0{_source(_file(module))[0]}\0".encode())
    names = " with ".join([first.name, *[", ".join(file.name for file in others)] * bool(others)])
    return f"code of {names}: {code.hexdigest()[:16]}"


def _closure(modules: Iterable[str], idle: Collection[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found and module not in idle and _file(module) is not None:
            found.add(module)
            # importing a module runs the packages it lies in
            waiting += [*_source(_file(module))[1], *filter(None, [module.rpartition(".")[0]])]
    return found


def _file(module: str) -> Path | None:
    path = PACKAGE.parent.joinpath(*module.split("."))
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


@functools.cache
def _source(path: Path) -> tuple[str, tuple[str, ...]]:
    """The code of a file without comments and docstrings, and the names of this package that it imports."""
    tree = ast.parse(path.read_text())
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
        _drop_docstring(node)
    own = (module for module in modules if module.split(".")[0] == PACKAGE.name)
    # unparse, not dump: its text does not change between versions of Python that parse alike
    return ast.unparse(tree), tuple(sorted(own))


def _drop_docstring(node: ast.AST) -> None:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        return
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        node.body[0] = ast.Expr(ast.Constant(None))


def source(recipe: str | None, inputs: Iterable[str | Path], code: str | None) -> dict[str, Any]:
    """What an artefact is a function of: its resolved recipe, the SHA-256 of each file or folder it is made from, its code."""
    return {
        "recipe": json.loads(recipe) if recipe else None,
        "inputs": {str(item): digest(item) for item in inputs},
        "code": code,
    }


def write_provenance(
    path: str | Path, made_from: Mapping[str, Any], outputs: Iterable[str | Path], cost: Mapping[str, Any]
) -> None:
    """Writes what made an artefact: its `source`, its own digests, what it cost, versions, commit and date.

    An artefact that is a folder, of which no file is an output of its own, counts as a whole.
    """
    path = Path(path)
    outputs = list(outputs) or ([path] if path.name == PROVENANCE else [])
    digests = {str(item): digest(item) for item in outputs}
    versions = {"python": platform.python_version(), **_versions()}
    made = datetime.now().astimezone().isoformat(timespec="seconds")
    write_json(path, {**made_from, "outputs": digests, **cost, "versions": versions, "commit": _commit(), "made": made})


def _versions() -> dict[str, str]:
    return {library: importlib.metadata.version(library) for library in LIBRARIES}


def _commit() -> str | None:
    """The commit of the checkout this package lies in, with a + where it has changes; None outside a checkout."""
    try:
        command = ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
