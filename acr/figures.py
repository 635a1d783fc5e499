"""Figures: all that is known of one image side by side, threshold and loss curves, bars of classes.

Plots have no background and grey text, so that they can be read on a light page and on a dark one.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from jaxtyping import UInt8
from matplotlib.figure import Figure

from acr.datasets.base import Record, Split, read_split
from acr.files import Arrays, atomic, read_json
from acr.images import read_image, read_mask, write_image
from acr.measures import THRESHOLDS
from acr.overlays import heat_map, overlay, sheet, thumbnail
from acr.progress import Progress
from acr.tables import best_of, refinement_pairs

GREY = "#808080"
STYLE: dict[Any, Any] = {
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelcolor": GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": GREY,
    "axes.titlesize": "medium",
    "font.size": 9,
    "grid.alpha": 0.35,
    "grid.color": GREY,
    "legend.frameon": False,
    "legend.labelcolor": GREY,
    "savefig.transparent": True,
    "svg.hashsalt": "acr",  # the same figure is the same file
    "xtick.color": GREY,
    "ytick.color": GREY,
}


SHEETS = 12  # images of each split that get a sheet


class Sources(NamedTuple):
    """Where the pictures of an image come from, by the titles they get: archives of maps and folders of masks."""

    maps: Mapping[str, Arrays]
    masks: Mapping[str, Path]


def sources_of(
    metrics: Sequence[Mapping[str, Any]],
    seeds: Sequence[str | Path],
    pseudo_labels: Sequence[str | Path],
    predictions: Sequence[str | Path],
) -> Sources:
    """The sources worth a picture: the best seeds with refinement and the same without, the best pseudo labels and predictions.

    Args:
        metrics: contents of metrics files, which say what is best.
        seeds: paths .../{recipe}/maps.npz.
        pseudo_labels: folders .../{recipe}.
        predictions: folders .../{recipe}/{split}.
    """
    archives = {Path(path).parent.name: Path(path) for path in seeds}
    labels = {Path(path).name: Path(path) for path in pseudo_labels}
    masks = {Path(path).parent.name: Path(path) for path in predictions}
    pair = [*refinement_pairs(metrics), (best_of(metrics, "seeds"),)][0]
    shown = {_map_title(each): archives[each["recipe"]] for each in pair if each is not None}
    plain, sharpened = (_best_prediction(metrics, with_crf=with_crf) for with_crf in (False, True))
    best = [
        ("pseudo label", labels, best_of(metrics, "pseudo_labels")),
        ("prediction", masks, plain),
        ("with CRF", masks, sharpened),
    ]
    return Sources(
        maps={title: Arrays(path) for title, path in shown.items()},
        masks={f"{title}, {each['recipe']}": folders[each["recipe"]] for title, folders, each in best if each is not None},
    )


def _map_title(seeds: Mapping[str, Any]) -> str:
    return f"{'refined' if seeds['provenance']['recipe']['refine'] else 'unrefined'}, {seeds['recipe']}"


def _best_prediction(metrics: Sequence[Mapping[str, Any]], *, with_crf: bool) -> Mapping[str, Any] | None:
    return best_of([content for content in metrics if (content["crf"] is not None) == with_crf], "predictions")


def panels(split: Split, record: Record, sources: Sources) -> dict[str, UInt8[np.ndarray, "_ _ 3"]]:
    """What there is of one image, by title: photograph, truth, each class's map of each archive, masks of each folder."""
    image = read_image(record.image)
    pictures = {"photograph": thumbnail(image)}
    if record.mask is not None:
        pictures["truth"] = overlay(image, read_mask(record.mask))
    for title, archive in sources.maps.items():
        if record.image_id in set(archive):
            maps = zip(split.class_indices(record), archive[record.image_id], strict=False)
            pictures |= {f"{split.classes[index]}, {title}": heat_map(image, plane) for index, plane in maps}
    for title, folder in sources.masks.items():
        path = folder / f"{record.image_id}.png"
        if path.is_file():
            pictures[title] = overlay(image, read_mask(path))
    return pictures


def chosen(split: Split, count: int) -> list[Record]:
    """At most `count` records of a split, always the same ones, in the split's order."""
    order = np.random.default_rng(0).permutation(len(split.records))[:count]
    return [split.records[index] for index in sorted(order)]


NOTED = 5  # per cent of a class from which a confusion is written out
CURVES = 8  # that can be told apart in one plot


def best_curves(metrics: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The metrics of seeds that have a curve, in their order; of many those of the highest mIoU."""
    curves = [content for content in metrics if content["curve"] is not None]
    best = sorted(range(len(curves)), key=lambda place: -curves[place]["miou"])[:CURVES]
    return [curves[place] for place in sorted(best)]


def plot_curves(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """The mIoU of seeds against the background threshold, one line a metrics file; a star at the best, a ring at the fixed.

    Without curves, as where no image has a true mask, the plot says so.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.6), layout="constrained")
        axes = figure.add_subplot(xlabel="background threshold", ylabel="mIoU (%)", xlim=(0, 1))
        for seeds in metrics:
            label = f"{seeds['recipe']}: best {seeds['miou']:.1f}, fixed {seeds['miou_fixed']:.1f}"
            (line,) = axes.plot(THRESHOLDS, seeds["curve"], label=label)
            axes.plot(seeds["threshold"], seeds["miou"], "*", color=line.get_color(), markersize=11)
            axes.plot(
                seeds["threshold_fixed"], seeds["miou_fixed"], "o", color=line.get_color(), fillstyle="none", markersize=8
            )
        if metrics:
            figure.legend(loc="outside lower center", ncols=2 if len(metrics) > 1 else 1)
        else:
            axes.set_title("no image has a true mask")
    return figure


def plot_losses(title: str, history: pd.DataFrame) -> Figure:
    """The loss terms of a training run against its steps, on a logarithmic axis, and the learning rate, dotted, on its own.

    A history without rows is an empty plot.
    """
    terms = [column for column in history if column not in ("step", "learning_rate")]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 2.8), layout="constrained")
        axes = figure.add_subplot(xlabel="step", ylabel="loss", title=title)
        rate = axes.twinx()
        rate.set(ylabel="learning rate")
        rate.grid(visible=False)
        for term in terms:
            axes.plot(history["step"], history[term], label=term, linewidth=2 if term == "loss" else 1)
        if terms:
            rate.plot(history["step"], history["learning_rate"], ":", color=GREY, linewidth=1.5, label="learning rate")
            axes.set_yscale("log")
            figure.legend(loc="outside lower center", ncols=3)
    return figure


def plot_errors(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """What becomes of the union of truth and mask, one bar a metrics file: mIoU, FP and FN, which add up to 100 %."""
    parts = {"miou": "mIoU", "false_positive": "FP: over-activation", "false_negative": "FN: under-activation"}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 1.2 + 0.3 * len(metrics)), layout="constrained")
        axes = figure.add_subplot(xlabel="%", xlim=(0, 100))
        left = np.zeros(len(metrics))
        for key, label in parts.items():
            widths = np.array([content[key] for content in metrics], float)
            bars = axes.barh(np.arange(len(metrics)), widths, 0.7, left, label=label)
            axes.bar_label(bars, fmt="%.1f", label_type="center", color="white", fontsize=7)
            left = left + widths
        axes.set_yticks(np.arange(len(metrics)), [_recipe_of(content) for content in metrics])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def _recipe_of(content: Mapping[str, Any]) -> str:
    return f"{content['stage'].replace('_', ' ')} {content['recipe']} ({content['split']})"


def plot_confusion(content: Mapping[str, Any]) -> Figure:
    """The confusion matrix of a metrics file: of the pixels of each class of the truth, the percentage that each class got."""
    classes = list(content["iou"])
    counts = np.array(content["confusion"], float)
    with np.errstate(invalid="ignore"):
        shares = 100 * counts / counts.sum(axis=1, keepdims=True)  # a class that is not in the truth has no row
    side = 1.6 + 0.24 * len(classes)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.add_subplot(title=_recipe_of(content), xlabel="mask", ylabel="truth")
        axes.imshow(shares, cmap="plasma", vmin=0, vmax=100)
        places = np.arange(len(classes))
        axes.set_xticks(places, classes, rotation=90)
        axes.set_yticks(places, classes)
        for row, column in zip(*np.nonzero(shares >= NOTED), strict=True):
            colour = "black" if shares[row, column] > 60 else "white"
            axes.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", fontsize=6, color=colour)
    return figure


def plot_classes(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """The IoU of each class, one bar a metrics file; an absent class has none."""
    classes = list(metrics[0]["iou"])
    height, places = 0.8 / len(metrics), np.arange(len(classes))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 0.9 + 0.13 * len(classes) * (len(metrics) + 0.5)), layout="constrained")
        axes = figure.add_subplot(xlabel="IoU (%)", xlim=(0, 100))
        for number, content in enumerate(metrics):
            values = [content["iou"][name] for name in classes]
            # a missing value is drawn as nothing
            axes.barh(places + number * height, np.array(values, float), height, label=_recipe_of(content))
        axes.set_yticks(places + 0.4 - height / 2, classes)
        axes.margins(y=0.02)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        figure.legend(loc="outside lower center")
    return figure


def layer_frame(sweep: Mapping[str, Any]) -> pd.DataFrame:
    """One row for each first layer used, from 1 to L, of the metrics of a sweep: mIoU, FP and FN in percent, thresholds.

    `miou`, `false_positive` and `false_negative` are those at the threshold that is best with the masks, as in the paper.
    """
    columns = (
        "first_layer",
        "layers",
        "miou",
        "false_positive",
        "false_negative",
        "threshold",
        "miou_fixed",
        "threshold_fixed",
    )
    rows = [{column: each.get(column) for column in columns} for each in sweep["layers"]]
    return pd.DataFrame(rows).sort_values("first_layer", ignore_index=True)


def plot_layers(sweep: Mapping[str, Any]) -> Figure:
    """Figure 8: mIoU, FP and FN of seeds against the first layer whose gradients are used."""
    frame = layer_frame(sweep)
    lines = {
        "miou": "mIoU, best threshold",
        "miou_fixed": "mIoU, fixed threshold",
        "false_positive": "FP: over-activation",
        "false_negative": "FN: under-activation",
    }
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.6), layout="constrained")
        axes = figure.add_subplot(xlabel="first layer used", ylabel="%", xticks=frame["first_layer"])
        for column, label in lines.items():
            dashes = "--" if column == "miou_fixed" else "-"
            axes.plot(frame["first_layer"], frame[column].astype(float), dashes, marker="o", markersize=4, label=label)
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def svg(figure: Figure) -> bytes:
    """A figure as an SVG file, the same bytes each time."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


# ---- disk ----------------------------------------------------------------------------------------------------------------


def write_figures(
    *,
    train: str | Path,
    val: str | Path,
    metrics: Sequence[str | Path],
    seeds: Sequence[str | Path],
    pseudo_labels: Sequence[str | Path],
    predictions: Sequence[str | Path],
    train_sheets: str | Path,
    val_sheets: str | Path,
    curves: str | Path,
) -> None:
    """Writes {image_id}.png, a few sheets of each split, into its folder of sheets, and the threshold curves.

    The other arguments are those of `acr.report.write_report`.
    """
    contents = [read_json(path) for path in metrics]
    sources = sources_of(contents, seeds, pseudo_labels, predictions)
    for split, folder in ((read_split(train), train_sheets), (read_split(val), val_sheets)):
        for record in Progress(chosen(split, SHEETS), f"sheets of {split.name}"):
            write_image(Path(folder) / f"{record.image_id}.png", sheet(panels(split, record, sources)))
    _write_plot(plot_curves(best_curves(contents)), curves)


def write_layer_figure(*, metrics: str | Path, csv: str | Path, picture: str | Path) -> None:
    """Writes a sweep over layers as a table and as a picture; `metrics` is its metrics file."""
    sweep = read_json(metrics)
    with atomic(csv) as temporary:
        layer_frame(sweep).to_csv(temporary, index=False)
    _write_plot(plot_layers(sweep), picture)


def _write_plot(figure: Figure, path: str | Path) -> None:
    with atomic(path) as temporary, mpl.rc_context(STYLE):
        figure.savefig(temporary, dpi=150)
