"""Runs docs/tour.md on a finished run: its blocks in their order, the pictures they show and what they print.

    python docs/tour.py results/textures

is called where the run was made, and writes pictures and page anew.
"""

import io
import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from acr.files import atomic
from acr.overlays import sheet

PAGE = Path(__file__).with_suffix(".md")
CODE = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n.*?^```\n)?", re.MULTILINE | re.DOTALL)
COLOURS, SMALL = (128, 96, 64, 48, 32), 60_000  # of a picture: as many as there is room for in so many bytes


class Tour:
    """The blocks of a page run one after the other in one namespace, where `run` is the folder of a run's results.

    A block shows pictures by `show(name, pictures)`; their titles become what the page says in place of `name`.png.
    """

    def __init__(self, run: str, folder: Path) -> None:
        self.folder = folder
        self.titles: dict[str, str] = {}
        self.names: dict[str, Any] = {"run": run, "show": self.show}

    def show(self, name: str, pictures: Mapping[str, np.ndarray]) -> None:
        """Writes RGB pictures of one size, by their titles, as `name`.png: three a row, or two where that leaves no gap."""
        items, across = list(pictures.items()), 2 if len(pictures) % 3 else 3
        whole = np.vstack([sheet(dict(items[start : start + across])) for start in range(0, len(items), across)])
        with atomic(self.folder / f"{name}.png") as temporary:
            for colours in COLOURS:
                Image.fromarray(whole).quantize(colours).save(temporary, optimize=True)
                if temporary.stat().st_size < SMALL:
                    break
        self.titles[name] = "; ".join(pictures)

    def of(self, page: str) -> str:
        """The page with what its blocks print, and the titles of its pictures, as they are in this run."""
        page = CODE.sub(lambda block: self._ran(block[1]), page)
        for name, titles in self.titles.items():
            page = re.sub(rf"!\[[^\]]*\]\((\w+/{name}\.png)\)", lambda link, titles=titles: f"![{titles}]({link[1]})", page)
        return page

    def _ran(self, code: str) -> str:
        with redirect_stdout(io.StringIO()) as printed:
            exec(code, self.names)
        output = f"\n```text\n{printed.getvalue()}```\n" if printed.getvalue() else ""
        return f"```python\n{code}```\n{output}"


if __name__ == "__main__":
    (results,) = sys.argv[1:]
    torch.set_num_threads(1)  # as the jobs of the run: the number of threads decides the order of sums
    PAGE.write_text(Tour(results, PAGE.with_suffix("")).of(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
