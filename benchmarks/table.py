"""All pairs, and the table that they make."""

import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks import curves, loading, masks, seeds, training, walks
from benchmarks.pairs import Measured, Pair, Sizes

PAIRS: dict[str, Callable[[torch.device], Pair]] = {
    **seeds.PAIRS,
    **training.PAIRS,
    **walks.PAIRS,
    **curves.PAIRS,
    **masks.PAIRS,
    **loading.PAIRS,
}
SIZES = curves.SIZES
PAGE = Path(__file__).parent.parent / "docs" / "speed.md"
BEGIN, END = "<!-- bench -->\n", "<!-- /bench -->"
HEAD = ("what", "input", "reference", "ours", "ratio", "goal", "wall", "memory", "equal within")


def markdown(rows: Sequence[Measured | Sizes], device: torch.device) -> str:
    """The table, and under it the machine and the versions that it was measured with."""
    lines = [HEAD, ["---"] * len(HEAD), *(_sizes(row) if isinstance(row, Sizes) else _cells(row) for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{_machine(device)}\n"


def _cells(row: Measured) -> list[str]:
    memory = f"{row.our_peak:.0f} of {row.reference_peak:.0f} MiB"
    return [
        row.pair.name,
        row.pair.inputs,
        f"{row.reference_seconds:.3g} s",
        f"{row.our_seconds:.3g} s",
        f"{row.ratio:.3g}",
        row.pair.goal,
        f"{row.wall_ratio:.3g}",
        memory,
        f"{row.difference:.1g}",
    ]


def _sizes(row: Sizes) -> list[str]:
    sizes = [f"{size / 2**10:.4g} KiB" for size in (row.reference, row.ours)]
    return [row.name, row.inputs, *sizes, f"{row.reference / row.ours:.3g}", row.goal, "", "", f"{row.difference:.1g}"]


def _machine(device: torch.device) -> str:
    names = ("torch", "timm", "numpy", "scipy", "opencv-python-headless", "pydensecrf2")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{_device(device)}; Python {platform.python_version()}, {versions}; `python -m benchmarks {' '.join(sys.argv[1:])}`."
    )


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    models = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    )
    return f"{models[0] if models else platform.processor()}, {torch.get_num_threads()} thread(s)"


def write(table: str) -> None:
    """Puts the table in its place in docs/speed.md."""
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    PAGE.write_text(before + BEGIN + table + END + rest.split(END)[1])
