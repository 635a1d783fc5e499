"""The paper's tables with our rows in them: metrics files become rows, each with the paper's number beside ours.

The paper's numbers are typed from its Tables 1 to 3, venues as printed there. The plain text at hand has lost the check
marks of the column "w/ saliency": the flags follow the order of each list, which names methods with saliency first, and are
left open where two tables disagree (ReCAM).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from acr import config
from acr.files import atomic, read_json
from acr.recipes import Row, Table

Metrics = Mapping[tuple[str, str], Mapping[str, Any]]  # the content of metrics files by (stage, recipe)
# number of a row -> the stage it comes from
STAGES = {"seed": "seeds", "pseudo": "pseudo_labels", "val": "predictions"}
COLUMNS = {
    "method": "method",
    "source": "source",
    "seed": "seed",
    "seed_paper": "paper's seed",
    "pseudo": "pseudo label",
    "pseudo_paper": "paper's pseudo label",
    "val": "val",
    "val_paper": "paper's val",
    "test": "test",
    "threshold": "threshold",
    "seed_fixed": "seed, fixed threshold",
    "threshold_fixed": "fixed threshold",
    "split": "split",
    "images": "ground truth images",
    "crf": "CRF",
    "scales": "scales",
    "venue": "venue",
    "saliency": "saliency",
    "recipe": "recipe",
}


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper: mIoU in percent of the methods it lists, on one data set."""

    title: str
    dataset: str
    numbers: tuple[str, ...]  # what the numbers of a method are, keys of COLUMNS
    methods: tuple[tuple[Any, ...], ...]  # method, venue, saliency (None: not known), then one number or None each
    note: str = ""


PAPER = {
    "table_1": PaperTable(
        title="Table 1: segmentation on MS COCO 2014 (mIoU, %)",
        dataset="coco14",
        numbers=("val",),
        methods=(
            ("AuxSegNet", "ICCV2021", True, 33.9),
            ("EPS", "CVPR2022", True, 35.7),
            ("L2G", "CVPR2022", True, 44.2),
            ("Wang et al.", "IJCV2020", False, 27.7),
            ("Ru et al.", "CVPR2022", False, 38.9),
            ("SEAM", "CVPR2020", False, 31.9),
            ("CONTA", "NeurIPS2020", False, 32.8),
            ("CDA", "ICCV2021", False, 33.2),
            ("Ru et al.", "IJCV2022", False, 36.2),
            ("URN", "AAAI2022", False, 41.5),
            ("MCTformer", "CVPR2022", False, 42.0),
            ("ESOL", "NeurIPS2022", False, 42.6),
            ("SIPE", "CVPR2022", False, 43.6),
            ("RIB", "NeurIPS2020", False, 43.8),
            ("ACR", "", False, 45.0),
        ),
    ),
    "table_2": PaperTable(
        title="Table 2: seeds and pseudo labels on PASCAL VOC 2012 train (mIoU, %)",
        dataset="voc12",
        numbers=("seed", "pseudo"),
        methods=(
            ("EDAM", "CVPR2021", True, 52.8, 68.1),
            ("ReCAM", "CVPR2022", None, 54.8, 70.9),
            ("L2G", "CVPR2022", True, 56.2, 71.9),
            ("EPS", "ECCV2020", True, 69.4, 71.6),
            ("Du et al., with saliency", "CVPR2022", True, 70.5, 73.3),
            ("PSA", "CVPR2018", False, 48.0, 61.0),
            ("SEAM", "CVPR2020", False, 55.4, 63.6),
            ("CDA", "ICCV2021", False, 55.4, 67.7),
            ("AdvCAM", "CVPR2021", False, 55.6, 68.0),
            ("CPN", "ICCV2021", False, 57.4, 67.8),
            ("Ru et al.", "CVPR2022", False, None, 68.7),
            ("SIPE", "CVPR2022", False, 58.6, None),
            ("Du et al.", "CVPR2022", False, 61.5, 69.2),
            ("MCTformer", "CVPR2022", False, 61.7, 69.1),
            ("ACR*", "", False, 59.4, None),
            ("ACR", "", False, 67.3, 70.8),
        ),
        note="ACR* is without affinity refinement. The paper counts the 1464 images of VOC's own train.",
    ),
    "table_3": PaperTable(
        title="Table 3: segmentation on PASCAL VOC 2012 val and test (mIoU, %)",
        dataset="voc12",
        numbers=("val", "test"),
        methods=(
            ("NSRM", "CVPR2021", True, 70.4, 70.2),
            ("EDAM", "CVPR2021", True, 70.9, 70.6),
            ("EPS", "CVPR2021", True, 71.0, 71.8),
            ("DRS", "AAAI2021", True, 71.2, 71.4),
            ("L2G", "CVPR2022", True, 72.1, 71.7),
            ("Du et al., with saliency", "CVPR2022", True, 72.6, 73.6),
            ("PSA", "CVPR2018", False, 61.7, 63.7),
            ("SEAM", "CVPR2020", False, 64.5, 65.7),
            ("CDA", "ICCV2021", False, 66.1, 66.8),
            ("ECS-Net", "ICCV2021", False, 66.6, 67.6),
            ("Du et al.", "CVPR2022", False, 67.7, 67.4),
            ("CPN", "ICCV2021", False, 67.8, 68.5),
            ("AdvCAM", "CVPR2021", False, 68.1, 68.0),
            ("Kweon et al.", "ICCV2021", False, 68.4, 68.2),
            ("ReCAM", "CVPR2022", None, 68.5, 68.4),
            ("SIPE", "CVPR2022", False, 68.8, 69.7),
            ("URN", "AAAI2022", False, 69.5, 69.7),
            ("ESOL", "NeurIPS2022", False, 69.9, 69.3),
            ("PMM", "ICCV2021", False, 70.0, 70.5),
            ("MCTformer", "CVPR2022", False, 70.6, 70.3),
            ("VWL-L", "IJCV2022", False, 70.6, 70.7),
            ("Lee et al.", "CVPR2022", False, 70.7, 70.1),
            ("ACR", "", False, 71.2, 70.9),
        ),
        note="MCTformer's row is the ACR authors' reproduction; it reports 71.9 on val and 71.7 on test. The paper counts "
        "the 1449 images of VOC's val.",
    ),
}


def build_table(name: str, rows: Sequence[Row], metrics: Metrics) -> pd.DataFrame:
    """The paper's rows of a table, then ours; columns are those of COLUMNS that some row fills.

    Args:
        name: `table_1` to `table_3`; another name has no rows of the paper.
        rows: which recipes make each of our rows; `name` is the method's name in the paper.
        metrics: the metrics files of these recipes.

    Raises:
        ValueError: a row names a recipe whose metrics are not given.
    """
    paper = _paper_rows(name)
    numbers = {row["method"]: row for row in paper}
    table = pd.DataFrame([*paper, *(_our_row(row, metrics, numbers.get(row.name, {})) for row in rows)])
    filled = [column for column in COLUMNS if column in table and table[column].notna().any()]
    return table[filled]


def _paper_rows(name: str) -> list[dict[str, Any]]:
    if name not in PAPER:
        return []
    head = ("method", "venue", "saliency", *PAPER[name].numbers)
    rows = [dict(zip(head, method, strict=True)) for method in PAPER[name].methods]
    return [{**row, "source": "paper", "saliency": _yes_no(row["saliency"])} for row in rows]


def _our_row(row: Row, metrics: Metrics, paper: Mapping[str, Any]) -> dict[str, Any]:
    """One row of ours; where its stages were measured on different splits, both are named."""
    recipes = {stage: getattr(row, stage) for stage in STAGES.values() if getattr(row, stage) is not None}
    found = {stage: _found(metrics, stage, recipe, row) for stage, recipe in recipes.items()}
    seeds, predictions = found.get("seeds", {}), found.get("predictions")
    return {
        "method": row.name,
        "source": "ours",
        "saliency": "no",
        **{number: found[stage]["miou"] for number, stage in STAGES.items() if stage in found},
        **{f"{number}_paper": paper.get(number) for number, stage in STAGES.items() if stage in found},
        "threshold": seeds.get("threshold"),
        "seed_fixed": seeds.get("miou_fixed"),
        "threshold_fixed": seeds.get("threshold_fixed"),
        "split": _distinct(content["split"] for content in found.values()),
        "images": _distinct(str(content["images"]) for content in found.values()),
        "crf": _yes_no(predictions["crf"] is not None) if predictions else None,
        "scales": " ".join(f"{scale:g}" for scale in predictions["scales"]) if predictions else None,
        "recipe": ", ".join(f"{stage}/{recipe}" for stage, recipe in recipes.items()),
    }


def _found(metrics: Metrics, stage: str, recipe: str, row: Row) -> Mapping[str, Any]:
    if (stage, recipe) not in metrics:
        raise ValueError(f"row {row.name!r} needs the metrics of {stage}/{recipe}, which are not among the files given")
    return metrics[stage, recipe]


def _distinct(values: Any) -> str:
    return ", ".join(dict.fromkeys(values))


def _yes_no(value: bool | None) -> str | None:
    return None if value is None else ("yes" if value else "no")


def to_markdown(name: str, table: pd.DataFrame, dataset: str) -> str:
    """A table as Markdown with its caption; ours are set in bold. IoU to one decimal, thresholds to two."""
    lines = ["| " + " | ".join(COLUMNS[column] for column in table) + " |", "|" + " --- |" * len(table.columns)]
    for row in table.to_dict("records"):
        cells = [_cell(column, value) for column, value in row.items()]
        cells[0] = f"**{cells[0]}**" if row["source"] == "ours" else cells[0]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([f"**{_title(name)}**", "", caption(name, table, dataset), "", *lines, ""])


def caption(name: str, table: pd.DataFrame, dataset: str) -> str:
    """What a reader must know to compare the rows of a table measured on `dataset`."""
    sentences = []
    if "seed" in table:
        sentences.append(
            "Seeds are counted at the background threshold that is best with the masks, as in the paper, and at one fixed "
            "without masks (Otsu's)."
        )
    if name in PAPER:
        sentences += [PAPER[name].note] if PAPER[name].note else []
        if dataset != PAPER[name].dataset:
            sentences.append(
                f"Our rows are measured on {dataset}, the paper's on {PAPER[name].dataset}: the paper's numbers stand here for "
                "reference only and cannot be compared."
            )
        else:
            sentences.append("Compare rows only where split and number of ground truth images agree.")
    return " ".join(sentences)


def _title(name: str) -> str:
    return PAPER[name].title if name in PAPER else name.replace("_", " ")


def _cell(column: str, value: Any) -> str:
    if pd.isna(value):
        return ""
    if column.startswith("threshold"):
        return f"{value:.2f}"
    # a star in a method's name is no emphasis, a pipe no new cell
    return f"{value:.1f}" if isinstance(value, float) else str(value).replace("*", r"\*").replace("|", r"\|")


def best_of(metrics: Sequence[Mapping[str, Any]], stage: str) -> Mapping[str, Any] | None:
    """The metrics of a stage with the highest mIoU; where none is measured the first, and None where there is no recipe."""
    return max((content for content in metrics if content["stage"] == stage), key=_order, default=None)


def refinement_pairs(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Metrics of seeds without and with affinity refinement that differ in nothing else, best refined ones first."""
    seeds = [content for content in metrics if content["stage"] == "seeds"]
    refined = sorted((content for content in seeds if content["provenance"]["recipe"]["refine"]), key=_order, reverse=True)
    plain = [content for content in seeds if not content["provenance"]["recipe"]["refine"]]
    return [(without, content) for content in refined for without in plain if _unrefined(without) == _unrefined(content)]


def _order(content: Mapping[str, Any]) -> float:
    return -1.0 if content["miou"] is None else content["miou"]


def _unrefined(content: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a seeds recipe that count without refinement, and what the maps were measured on."""
    only_refining = {"refine", "affinity_layers", "affinity_power", "product"}
    recipe = {key: value for key, value in content["provenance"]["recipe"].items() if key not in only_refining}
    return {**recipe, "measured on": content["split"]}


# ---- disk ----------------------------------------------------------------------------------------------------------------


def read_metrics(paths: Sequence[str | Path]) -> dict[tuple[str, str], dict[str, Any]]:
    """Metrics files by the stage and recipe that each names."""
    contents = [read_json(path) for path in paths]
    return {(content["stage"], content["recipe"]): content for content in contents}


def write_table(*, name: str, recipe: str, metrics: Sequence[str | Path], csv: str | Path, markdown: str | Path) -> None:
    """Writes a table as CSV (full precision, percent) and as Markdown with its caption.

    Args:
        name: name of the table in the configuration.
        recipe: canonical JSON of the table's recipe.
        metrics: the metrics files of every recipe that its rows name.
        csv: where the CSV goes.
        markdown: where the Markdown goes.

    Raises:
        ValueError: no metrics are given, or not those of some row.
    """
    found = read_metrics(metrics)
    if not found:
        raise ValueError(f"table {name!r} has no metrics to show; give it at least one row with a recipe")
    table = build_table(name, config.load(Table, recipe).rows, found)
    dataset = next(iter(found.values()))["dataset"]
    with atomic(csv) as temporary:
        table.to_csv(temporary, index=False)
    with atomic(markdown) as temporary:
        temporary.write_text(to_markdown(name, table, dataset))
