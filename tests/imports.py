"""Which modules of acr a script really loads: imports what each script imports, in a fork, and asks Python.

Modules that are given by name are not loaded: something empty stands for them.
"""

import ast
import importlib
import json
import os
import sys
from pathlib import Path
from unittest.mock import MagicMock

ROOT = Path(__file__).parent.parent
SLOW = ("matplotlib.figure", "pandas", "scipy.io", "scipy.sparse", "timm", "torch.distributed.nn")  # to load, and none of ours


def loaded(script: Path) -> list[str]:
    """The modules of acr that are there once the imports of a script have run."""
    imports = [node for node in ast.parse(script.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    readable, writable = os.pipe()
    if not (pid := os.fork()):
        exec(compile(ast.Module(imports, []), str(script), "exec"), {})
        os.write(writable, json.dumps(sorted(name for name, module in sys.modules.items() if _ours(name, module))).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    return json.loads(os.read(readable, 1 << 16))


def _ours(name: str, module: object) -> bool:
    return name.split(".")[0] == "acr" and not isinstance(module, MagicMock)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.modules |= {name: MagicMock() for name in sys.argv[1:]}
    for name in SLOW:
        importlib.import_module(name)
    scripts = sorted((ROOT / "workflow" / "scripts").glob("*.py"))
    json.dump({script.name: loaded(script) for script in scripts}, sys.stdout)
