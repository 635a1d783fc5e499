"""What the paper prints, what the official code does and what is done here, from the recipes themselves."""

import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any, NamedTuple

from acr.recipes import Classifier, ConfidentLabels, Seeds

STAGES = {"classifiers": Classifier, "seeds": Seeds, "affinities.labels": ConfidentLabels}
SILENT = object()  # the paper says nothing


class Difference(NamedTuple):
    """One key of a recipe whose value is published somewhere; a value may be SILENT."""

    stage: str
    key: str
    paper: Any
    official: Any
    ours: Any
    source: str


def differences() -> list[Difference]:
    """Every key with a published value, in the order of the recipes, those of nested recipes with a dot."""
    return [each for stage, kind in STAGES.items() for each in _of(stage, kind)]


def _of(stage: str, kind: type) -> Iterator[Difference]:
    for item in fields(kind):
        if "official" in item.metadata:
            paper, official, source = item.metadata.get("paper", SILENT), item.metadata["official"], item.metadata["source"]
            ours: Any = item.default
            if isinstance(source, str):
                yield Difference(stage, item.name, paper, official, ours, source)
                continue
            for key, value in asdict(ours).items():
                if key in official or key in paper:
                    printed, released = (each.get(key, SILENT) for each in (paper, official))
                    yield Difference(stage, f"{item.name}.{key}", printed, released, value, source[key])


def preset(column: str) -> dict[str, dict[str, Any]]:
    """What a preset of the method must say, a stage's keys with dots: `column` is paper or official."""
    values: dict[str, dict[str, Any]] = {}
    for each in differences():
        if (value := getattr(each, column)) is not SILENT:
            values.setdefault(each.stage, {})[each.key] = value
    return values


def table() -> str:
    """The differences as a Markdown table."""
    lines = ["| key | paper | official code | ours | where |", "|" + " --- |" * 5]
    for each in differences():
        cells = (f"`{each.stage}.*.{each.key}`", *map(_cell, (each.paper, each.official, each.ours)), each.source)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _cell(value: Any) -> str:
    if value is SILENT:
        return "-"
    if isinstance(value, tuple):
        value = [round(each, 4) if isinstance(each, float) else each for each in value]
    return value if isinstance(value, str) else json.dumps(value)


PAGE = """# Paper, official code, ours

What decides a result and is said differently, or only in one place. Each line is a key of a recipe
([`acr/recipes.py`](../acr/recipes.py)); this page is written from there by `python -m acr reproducing`, and a test holds them
together. A dash: nothing is said.

Two presets of the method are laid over one of a data set:

    snakemake --cores all --configfile config/voc12.yaml config/paper.yaml
    snakemake --cores all --configfile config/voc12.yaml config/official.yaml

[`config/paper.yaml`](../config/paper.yaml) sets what the paper prints (Eq. 1 to 8, App. A), and
[`config/official.yaml`](../config/official.yaml) what the released code does; what neither says stays as it is. Their results
take the place of those of the same names: run each in a folder of its own.

$table
Taken literally, Eq. 1 and 2 are sums over all entries of an attention: of a grid of 24 x 24 patches the affinity term is
331,776 times the mean, and alpha = beta = 100 then leave nothing of the classification. The official code takes means, and
so does every preset but `paper`.

In print, and of no consequence: P_h and P_w of Eq. 4 have the sizes of the turned grid, not of the image's; C^T = C holds
on square grids only; the appendix's coordinates of quarter turns are those of other symmetries. Eq. 5 itself is right, on
any grid.

The released script for localisation makes GETAM's maps by default; ACR's need `--start_layer 10 --getam_func grad --aff True`.

Differences without a key of their own:

| | official code | ours |
| --- | --- | --- |
| gradients of several processes | not synchronised, as `forward` of DDP is passed by | synchronised |
| inverse of a view on attention | a horizontal flip, on square grids | any view, on any grid (`acr/views.py`) |
| an absent class in the mean IoU | counts as 0 | is left out; the same on a whole data set, where none is absent |
| counts of pixels | 32 bits, which COCO overflows | 64 bits |
| the threshold of seeds | the best of 0.00 to 0.99 with the masks | the same, and beside it one fixed without masks |
| position embedding at another grid than it was trained with | bilinear, of squashed squares | timm's bicubic |
| masks that seeds are counted with | SegmentationClassAug's of train | VOC's own of train |
| maps from 0 to 1 | (x - min) / (max - min + 1e-6) of gradients | (x - min) / (max - min) |
| PSA, DeepLab, CRF | not released | PSA's and DeepLabV2's own recipes, each key in `acr/recipes.py` |
"""


def page() -> str:
    """docs/reproducing.md."""
    return PAGE.replace("$table", table())
