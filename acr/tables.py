"""The paper's tables with our rows in them: metrics files become rows, each with the paper's number beside ours.

A figure of ours that several random states share is their mean; its standard deviation (n - 1) has a column of its own.
"""

import json
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from acr import config
from acr.explain import DIGITS, Record, lineage
from acr.files import atomic, read_json
from acr.paper import CLASS, PAPER
from acr.recipes import MEASURED, Row, Table

Recipe = tuple[str, str]  # stage and name of a recipe
Metrics = Mapping[Recipe, Mapping[str, Any]]  # the content of metrics files
Lineages = Mapping[Recipe, Sequence[Record]]  # what they were made from, see acr.explain.lineage
SPREAD, THEIRS = "_sd", "_paper"  # after a column of FIGURES: its standard deviation, the paper's number
# column of a figure -> the key of a row and the key of the metrics it comes from
FIGURES = {
    "seed": ("seeds", "miou"),
    "refined": ("refined", "miou"),
    "pseudo": ("pseudo_labels", "miou"),
    "val": ("predictions", "miou"),
    "memory": ("cost", "training_memory_mb"),
    "speed": ("cost", "images_per_second"),
    "threshold": ("seeds", "threshold"),
    "seed_fixed": ("seeds", "miou_fixed"),
    "threshold_fixed": ("seeds", "threshold_fixed"),
    "refined_threshold": ("refined", "threshold"),
    "refined_fixed": ("refined", "miou_fixed"),
    "refined_threshold_fixed": ("refined", "threshold_fixed"),
}
COLUMNS = {
    "method": "method",
    "miou": "mIoU",
    "source": "source",
    "seed": "seed",
    "refined": "refined seed",
    "pseudo": "pseudo label",
    "val": "val",
    "test": "test",
    "memory": "training memory (MB)",
    "speed": "images a second",
    "states": "random states",
    "threshold": "threshold",
    "seed_fixed": "seed, fixed threshold",
    "threshold_fixed": "fixed threshold",
    "refined_threshold": "refined, threshold",
    "refined_fixed": "refined seed, fixed threshold",
    "refined_threshold_fixed": "refined, fixed threshold",
    "split": "split",
    "images": "ground truth images",
    "truth": "ground truth",
    "crf": "CRF",
    "scales": "scales",
    "backbone": "backbone",
    "resolution": "resolution",
    "weights": "initial weights",
    "device": "device",
    "venue": "venue",
    "saliency": "saliency",
    "recipe": "recipe",
    "commit": "commit",
}
DECIMALS = {"memory": 0, "speed": 2, "threshold": 2}  # of columns with this in their name; of others 1


def build_table(
    name: str, rows: Sequence[Row], metrics: Metrics, lineages: Lineages | None = None, columns: str = "means"
) -> pd.DataFrame:
    """The paper's rows of a table, then ours; of the columns those that some row fills.

    Args:
        name: one of `acr.paper.PAPER`; another name has no rows of the paper.
        rows: which recipes make each of our rows; `name` is the method's name in the paper.
        metrics: the metrics files of these recipes.
        lineages: what each was made from; those that are missing leave the columns that say so empty.
        columns: `means`, or `classes` for the IoU in percent of each class (CLASS and its name), the background first.

    Raises:
        ValueError: a row names a recipe whose metrics are not given, or has no classes where these are asked for.
    """
    paper = PAPER[name].rows() if name in PAPER else []
    if columns == "classes" and paper and PAPER[name].dataset not in {content["dataset"] for content in metrics.values()}:
        paper = []  # classes of another data set, some of which have the same names
    ours = [_our_row(row, metrics, lineages or {}, columns == "classes") for row in rows]
    numbers = {row["method"]: row for row in paper}
    for row in ours:
        row |= {f"{column}{THEIRS}": numbers.get(row["method"], {}).get(column) for column in FIGURES if column in row}
        row["saliency"] = "no" if name in PAPER and "saliency" in PAPER[name].columns else None
    table = pd.DataFrame([*paper, *ours])
    # those of the data set at hand come first, the background before all
    classes = dict.fromkeys(column for row in [*ours, *paper] for column in row if column.startswith(CLASS))
    figures = ["method", *(classes if columns == "classes" else ()), *list(COLUMNS)[1:]]
    order = dict.fromkeys(f"{column}{suffix}" for column in figures for suffix in ("", SPREAD, THEIRS))
    return table[[column for column in order if column in table and table[column].notna().any()]]


def _our_row(row: Row, metrics: Metrics, lineages: Lineages, classes: bool) -> dict[str, Any]:
    """One row of ours; where its stages differ in their split or in another fact, each is named."""
    recipes = {key: [(stage, name) for name in row.recipes(key)] for key, stage in MEASURED.items() if row.recipes(key)}
    if classes:
        recipes = _last_with_classes(row, recipes)
    found = {key: [_found(metrics, recipe, row) for recipe in named] for key, named in recipes.items()}
    records = [record for named in recipes.values() for recipe in named for record in lineages.get(recipe, ())]
    return {
        "method": row.name,
        "source": "ours",
        **(_class_figures(found) if classes else _figures(found)),
        "states": _distinct(str(len(contents)) for contents in found.values()),
        **_origin(records),
        **_measurement(found),
        "recipe": _distinct("/".join(recipe) for named in recipes.values() for recipe in named),
    }


def _last_with_classes(row: Row, recipes: Mapping[str, list[Recipe]]) -> dict[str, list[Recipe]]:
    """What a row shows of classes: the last of its stages."""
    keys = [key for key in recipes if key != "cost"]
    if not keys:
        raise ValueError(f"row {row.name!r} has nothing with classes; give it predictions, pseudo_labels, refined or seeds")
    return {keys[-1]: recipes[keys[-1]]}


def _found(metrics: Metrics, recipe: Recipe, row: Row) -> Mapping[str, Any]:
    if recipe not in metrics:
        raise ValueError(f"row {row.name!r} needs the metrics of {'/'.join(recipe)}, which are not among the files given")
    return metrics[recipe]


def _figures(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float | None]:
    row: dict[str, float | None] = {}
    for column, (key, figure) in FIGURES.items():
        if key in found:
            row |= _figure(column, [content[figure] for content in found[key]])
    return row


def _class_figures(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float | None]:
    (contents,) = found.values()
    row: dict[str, float | None] = {}
    if all(content["iou"] for content in contents):
        for name in contents[0]["iou"]:
            row |= _figure(f"{CLASS}{name}", [content["iou"][name] for content in contents])
    for column in ("miou", "threshold"):
        row |= _figure(column, [content[column] for content in contents])
    return row


def _figure(column: str, values: Sequence[float | None]) -> dict[str, float | None]:
    """The mean over random states and, where there are several, the deviation; empty where a state has no value."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {column: None, f"{column}{SPREAD}": None}
    return {column: fmean(known), f"{column}{SPREAD}": stdev(known) if len(known) > 1 else None}


def _measurement(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, str | None]:
    """How a row was measured, as its metrics say it."""
    measured = [content for key, contents in found.items() if key != "cost" for content in contents]
    costs = found.get("cost", ())
    return {
        "split": _distinct(content["split"] for content in measured),
        "images": _distinct(str(content["images"]) for content in measured),
        "crf": _distinct("no" if content["crf"] is None else "yes" for content in measured),
        "scales": _distinct(" ".join(f"{scale:g}" for scale in content["scales"]) for content in measured if content["scales"]),
        **{key: _distinct(str(content[key]) for content in costs) for key in ("device", "backbone", "resolution") if costs},
    }


def _origin(records: Sequence[Record]) -> dict[str, str | None]:
    """What a row was made from, as the provenance of its metrics says it; each fact once, from the data on."""
    recipes = [(record, record["recipe"] or {}) for record in reversed(records)]
    networks = [(record, recipe) for record, recipe in recipes if "backbone" in recipe]
    data = [config.load_dataset(json.dumps(recipe)) for _, recipe in recipes if "kind" in recipe]
    return {
        "truth": _distinct(each.ground_truth for each in data),
        "backbone": _distinct(recipe["backbone"] for _, recipe in networks),
        "resolution": _distinct(str(recipe["image_size"]) for _, recipe in networks if "image_size" in recipe),
        "weights": _distinct(_weights(record, recipe) for record, recipe in networks),
        "commit": _distinct(record["commit"] or "unknown" for record, _ in recipes),
    }


def _weights(record: Record, recipe: Mapping[str, Any]) -> str:
    """The name of a network's initial weights and the digest of their file."""
    if (name := recipe.get("weights")) is None:
        return "none"
    digests = [digest[:DIGITS] for path, digest in record["inputs"].items() if Path(path).name == f"{name}.safetensors"]
    return " ".join([name, *digests])


def _distinct(values: Iterable[str]) -> str | None:
    return ", ".join(dict.fromkeys(values)) or None


def to_markdown(name: str, table: pd.DataFrame, dataset: str) -> str:
    """A table as Markdown with its caption; ours are set in bold. A table of classes has one line a class.

    IoU to one decimal, thresholds to two; where there are several random states, mean ± standard deviation.
    """
    shown = [column for column in table.columns if not (column.endswith(SPREAD) and column.removesuffix(SPREAD) in table)]
    lines = [[_heading(column) for column in shown]]
    lines += [[_cell(column, row) for column in shown] for row in table.to_dict("records")]
    if any(column.startswith(CLASS) for column in shown):
        lines = [list(line) for line in zip(*lines, strict=True)]
    head, *body = ["| " + " | ".join(cells) + " |" for cells in lines]
    rule = "|" + " --- |" * len(lines[0])
    title = PAPER[name].title if name in PAPER else name.replace("_", " ")
    return "\n".join([f"**{title}**", "", caption(name, table, dataset), "", head, rule, *body, ""])


def _heading(column: str) -> str:
    if column.startswith(CLASS):
        return _escaped(column.removeprefix(CLASS))
    return ("paper's " if column.endswith(THEIRS) else "") + COLUMNS[column.removesuffix(THEIRS)]


def _cell(column: str, row: Mapping[Hashable, Any]) -> str:
    value, spread = row[column], row.get(f"{column}{SPREAD}")
    if pd.isna(value):
        return ""
    if not isinstance(value, int | float):
        return f"**{_escaped(value)}**" if column == "method" and row["source"] == "ours" else _escaped(value)
    decimals = 1 if column.startswith(CLASS) else next((digits for word, digits in DECIMALS.items() if word in column), 1)
    return f"{value:.{decimals}f}" + ("" if pd.isna(spread) else f" ± {spread:.{decimals}f}")


def _escaped(text: str) -> str:
    """Text for a cell: a star in a method's name is no emphasis, a pipe no new cell."""
    return re.sub(r"([*|])", r"\\\1", text)


def caption(name: str, table: pd.DataFrame, dataset: str) -> str:
    """What a reader must know to compare the rows of a table measured on `dataset`."""
    sentences = []
    if {"seed", "refined", "threshold"} & set(table):
        sentences.append(
            "Seeds are counted at the background threshold that is best with the masks, as in the paper, and at one fixed "
            "without masks (Otsu's)."
        )
    counts = sorted({int(each) for states in table["states"].dropna() for each in states.split(", ")})
    costs_only = {"memory", "speed"} & set(table)
    if counts and counts[-1] > 1:
        sentences.append(
            f"Our figures are the mean ± standard deviation (n - 1) over {' or '.join(map(str, counts))} random states."
        )
    elif counts and not costs_only:
        sentences.append("Our figures are each of one random state.")
    if "device" in table:
        devices = _distinct(table["device"].dropna())
        sentences.append(f"Ours were measured on {devices}: memory and speed compare on the same device only.")
    return " ".join([*sentences, *(PAPER[name].remarks(dataset) if name in PAPER else ())])


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


def read_metrics(paths: Iterable[str | Path]) -> tuple[dict[Recipe, dict[str, Any]], dict[Recipe, list[Record]]]:
    """Metrics files by the stage and recipe that each names, and what each was made from; nothing where it is not known."""
    contents = {path: read_json(path) for path in paths}
    recipes = {path: (content["stage"], content["recipe"]) for path, content in contents.items()}
    return {recipes[path]: contents[path] for path in contents}, {recipes[path]: lineage(path) for path in contents}


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
    found, lineages = read_metrics(metrics)
    if not found:
        raise ValueError(f"table {name!r} has no metrics to show; give it at least one row with a recipe")
    wanted = config.load(Table, recipe)
    table = build_table(name, wanted.rows, found, lineages, wanted.columns)
    dataset = next(iter(found.values()))["dataset"]
    with atomic(csv) as temporary:
        table.to_csv(temporary, index=False)
    with atomic(markdown) as temporary:
        temporary.write_text(to_markdown(name, table, dataset), encoding="utf-8")
