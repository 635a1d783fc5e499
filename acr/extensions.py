"""Extensions: files of one's own that add views, methods, kinds of data sets and backbones to the tables of this package.

What a file adds is read from its text, so that planning needs not run it, nor load the torch that it imports. A process
runs the files that add to a table which it has loaded: those of data sets run everywhere, since planning reads their
recipes; those of views, methods and backbones where networks do.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

# the module of each table; backbones are added to timm's by its decorator
TABLES = {
    "VIEWS": "acr.views",
    "METHODS": "acr.localisation",
    "DATASETS": "acr.recipes",
    "register_model": "acr.models.features",
}
PREFIX = "acr_extension_"  # of the names of their modules, so that none hides another module


def additions(file: str) -> list[tuple[str, str]]:
    """The table and the name of each entry that a file adds, read from its text.

    Raises:
        ValueError: the file is missing or no Python, or it adds nothing, or a name that cannot be told from others.
    """
    try:
        tree = ast.parse(Path(file).read_bytes())
    except OSError as error:
        raise ValueError(
            f"extensions names {file!r}, which cannot be read ({error.strerror}); give its path from the working directory"
        ) from None
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"extensions names {file!r}, which is no Python ({error}); mend it") from None
    found = [entry for node in tree.body for entry in _entries(node)]
    if not found:
        ways = "TABLE['name'] = ... with VIEWS, METHODS or DATASETS, or a function under @register_model"
        raise ValueError(f"extensions names {file!r}, which adds nothing; write out {ways} at its top level")
    for table, name in found:
        if not re.fullmatch(r"[\w-]+", name, re.ASCII):
            raise ValueError(f"extension {file} adds {table}[{name!r}]; use letters, digits, _ and -")
    return found


def _entries(node: ast.stmt) -> Iterator[tuple[str, str]]:
    """What a statement adds: `TABLE["name"] = value`, or a decorated function."""
    if isinstance(node, ast.FunctionDef):
        yield from ((_last_name(each), node.name) for each in node.decorator_list if _last_name(each) == "register_model")
    for target in node.targets if isinstance(node, ast.Assign) else ():
        match target:
            case ast.Subscript(value=table, slice=ast.Constant(value=str(name))) if _last_name(table) in TABLES:
                yield _last_name(table), name


def _last_name(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]


def needed(files: Iterable[str]) -> list[str]:
    """The files that add to a table which this process has loaded."""
    return [file for file in files if any(TABLES[table] in sys.modules for table, _ in additions(file))]


def load(files: Iterable[str]) -> None:
    """Runs each file as a module, once in this process.

    Raises:
        ValueError: what one of them raised, in a sentence.
    """
    for file in files:
        loader = SourceFileLoader(PREFIX + re.sub(r"\W", "_", str(Path(file).absolute())), str(file))
        if loader.name in sys.modules:
            continue
        # it has to be found by its name: dataclasses look up annotations there, and processes what they are sent
        specification = spec_from_loader(loader.name, loader)
        assert specification is not None
        module = sys.modules[loader.name] = module_from_spec(specification)
        try:
            loader.exec_module(module)
        except Exception as error:
            del sys.modules[loader.name]
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(f"extension {file} cannot be run ({reason}); mend it") from error


def loaded() -> list[str]:
    """The files that this process has run, for processes that are to do the same work."""
    return [str(module.__file__) for name, module in sys.modules.items() if name.startswith(PREFIX)]


def defining(function: Callable[..., Any]) -> list[str]:
    """The file that a function is from, for processes that call it and nothing else; none of one that is no extension's."""
    name = getattr(function, "__module__", None) or ""
    return [str(sys.modules[name].__file__)] if name.startswith(PREFIX) else []
