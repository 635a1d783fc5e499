"""The house rules, read from the syntax tree: who imports whom, and scripts without logic."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "workflow" / "scripts").glob("*.py"))
RULES = [ROOT / "workflow" / "Snakefile", *sorted((ROOT / "workflow" / "rules").glob("*.smk"))]
LIGHT = ("acr.recipes", "acr.config", "acr.provenance", "acr.files", "acr.paper")  # what planning may import
HEAVY = {"torch", "torchvision", "timm"}


def street_map() -> tuple[list[str], set[str]]:
    """The street in its order and the ground, as the docstring of the package draws them."""
    paragraphs = ast.get_docstring(ast.parse((ROOT / "acr" / "__init__.py").read_text())).split("\n\n")
    street = next(paragraph for paragraph in paragraphs if "->" in paragraph)
    ground = next(paragraph for paragraph in paragraphs if "ground" in paragraph)
    return re.findall(r"\w+", street), set(re.findall(r"\w+", ground.partition(":")[2]))


STREET, GROUND = street_map()


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / "acr").rglob("*.py"))}


def imported(tree: ast.AST, package: str = "") -> set[str]:
    """Every module that `tree` imports anywhere, functions included; names that are no module of acr count for their module."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            members = {f"{source}.{alias.name}" for alias in node.names}
            inside = members & set(MODULES)
            found |= inside or {source}
            if inside != members:
                found.add(source)
    return found


def imports(module: str) -> set[str]:
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return imported(ast.parse(path.read_text()), package)


def part(module: str) -> str:
    """The stage or piece of ground a module belongs to; empty for the package itself and for others' packages."""
    return module.split(".")[1] if module.startswith("acr.") else ""


def reached(module: str) -> set[str]:
    """What importing `module` imports in the end; importing a module runs the packages it lies in."""
    seen, waiting = set(), {module}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        new = imports(name) | {name.rpartition(".")[0]} if name in MODULES else {name.split(".")[0]}
        waiting |= {each for each in new if each} - seen
    return seen


def wrong_way(stage: str, upstream: set[str]) -> set[str]:
    """The parts among `upstream` that `stage` may not import: those not above it, and the street for the ground."""
    order = [*STREET, "__main__"]
    allowed = GROUND | set(order[: order.index(stage)]) if stage in order else GROUND
    return upstream - allowed - {stage, ""}


def test_every_module_has_its_place():
    assert {part(name) for name in MODULES} - {""} <= GROUND | {*STREET, "__main__"}


@pytest.mark.parametrize("module", [name for name in MODULES if part(name)])
def test_a_module_imports_only_from_above(module):
    assert not wrong_way(part(module), {part(name) for name in imports(module)})


def test_the_wrong_way_is_seen():
    assert wrong_way("seeds", {"classifiers", "images", "", "metrics"}) == {"metrics"}
    assert wrong_way("images", {"shapes", "seeds"}) == {"seeds"}


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("from acr import config, files", "acr", {"acr.config", "acr.files"}),
        ("def f():\n    import acr.config", "acr", {"acr.config"}),
        ("from acr.config import check", "acr", {"acr.config"}),
        ("from . import config", "acr", {"acr.config"}),
        ("from ..config import check", "acr.datasets", {"acr.config"}),
        ("import torch.nn\nfrom torch.nn import functional", "acr", {"torch.nn"}),
    ],
)
def test_every_way_to_import_is_seen(source, package, expected):
    assert imported(ast.parse(source), package) == expected


def test_the_ground_has_no_circles():
    graph = {}
    for name in MODULES:
        graph.setdefault(part(name), set()).update({part(other) for other in imports(name)} - {part(name), ""})
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_the_package_is_a_docstring():
    body = ast.parse((ROOT / "acr" / "__init__.py").read_text()).body
    assert len(body) == 1


@pytest.mark.parametrize("module", LIGHT)
def test_planning_modules_do_without_torch(module):
    assert not reached(module) & HEAVY


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_rules_import_only_planning_modules(path):
    used = set(re.findall(r"^\s*(?:from|import)\s+(acr[\w.]*)", path.read_text(), re.MULTILINE))
    assert used <= set(LIGHT)


def test_planning_loads_no_torch():
    code = f"import sys, {', '.join(LIGHT)}; print(sorted(set(sys.modules) & {HEAVY!r}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("stage", [name for name in STREET if f"acr.{name}" in MODULES])
def test_a_stage_has_its_tests(stage):
    assert (ROOT / "tests" / f"test_{stage}.py").exists()


def logic(source: str) -> str:
    """What a script does beyond its one call, in words; empty where there is nothing."""
    body = ast.parse(source).body
    if not ast.get_docstring(ast.Module(body, [])):
        return "no docstring"
    *head, last = body[1:]
    if not all(isinstance(node, ast.Import | ast.ImportFrom) for node in head):
        return "a statement that is no import"
    if isinstance(last, ast.With):
        if len(last.body) > 1 or ", ".join(map(ast.unparse, last.items)) not in (
            "job(snakemake)",
            "job(snakemake) as made_from",
        ):
            return "more than one `with job(snakemake)` around one call"
        last = last.body[0]
    if not (isinstance(last, ast.Expr) and isinstance(last.value, ast.Call)):
        return "no call at the end"
    return _computation(last.value)


def _computation(call: ast.Call) -> str:
    """An argument that is more than a name, a constant, or something that snakemake holds."""
    plain = (ast.Attribute, ast.Name, ast.Constant, ast.Subscript, ast.keyword, ast.expr_context)
    lookup = re.compile(r"snakemake\.\w+\.get\('\w+'\)")  # None where a rule has no such input
    waiting = [*call.args, *call.keywords]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Call) and lookup.fullmatch(ast.unparse(node)):
            continue
        if not isinstance(node, plain):
            return f"{type(node).__name__}: {ast.unparse(node)}"
        waiting += ast.iter_child_nodes(node)
    return ""


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_one_call(path):
    assert logic(path.read_text()) == ""


@pytest.mark.parametrize(
    "tail",
    [
        "x = 1\nf(x)",
        "for i in s: f(i)",
        "if s: f(s)",
        "f(s)\ng(s)",
        "f([i for i in s])",
        "f(lambda: s)",
        "f(g(s))",
        "f(a if s else b)",
        "f(s + 1)",
        "with job(snakemake):\n    f(s)\n    g(s)",
        "with open(s):\n    f(s)",
        "with job(snakemake.log[0]):\n    f(s)",
        "with job(snakemake) as x:\n    f(x)",
        "with job(snakemake), open(s):\n    f(s)",
        "with job(snakemake):\n    x = f(s)",
        "def f(): pass",
    ],
)
def test_logic_in_a_script_is_seen(tail):
    assert logic(f'"""Doc."""\nfrom acr import f\n{tail}\n')


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs_as_a_job_and_hands_on_what_it_is_made_from(path):
    source = path.read_text()
    assert "with job(snakemake)" in source
    assert ("as made_from" in source) == ("made_from=made_from" in source)


def test_rules_and_scripts_belong_together():
    called = {name for path in RULES for name in re.findall(r'"\.\./scripts/(\w+)\.py"', path.read_text())}
    assert called == {path.stem for path in SCRIPTS}
