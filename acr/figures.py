"""Pictures: masks and maps over photographs, all that is known of one image side by side, threshold and loss curves.

Plots have no background and grey text, so that they can be read on a light page and on a dark one.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import matplotlib as mpl
import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from acr.datasets.base import Record, Split, read_split
from acr.files import Arrays, atomic, read_json
from acr.images import palette, read_image, read_mask, resize_image, resize_mask, upsample, write_image
from acr.measures import THRESHOLDS
from acr.shapes import BACKGROUND, VOID
from acr.tables import best_of, refinement_pairs

SIDE = 256  # pixels of the longer side of a picture in a row
TITLE = 22  # pixels above a picture for its name
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


def display_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at which a picture is shown: its longer side SIDE pixels."""
    scale = SIDE / max(height, width)
    return max(1, round(scale * height)), max(1, round(scale * width))


def faded(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """The photograph in grey, against which colours stand out."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def overlay(
    image: UInt8[np.ndarray, "H W 3"], mask: UInt8[np.ndarray, "H W"], opacity: float = 0.6
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The mask in VOC's colours over the grey photograph, outlined in white; the background is clear, void is white.

    Both are brought to display size, the mask by its nearest pixels.
    """
    size = display_size(*mask.shape)
    image, mask = faded(resize_image(image, *size)), resize_mask(mask, *size)
    colours = palette().astype(np.float32)
    colours[VOID] = 255
    share = np.where(mask == BACKGROUND, 0, opacity)[..., None]
    mixed = (1 - share) * image + share * colours[mask]
    mixed[outline(mask)] = 255
    return np.rint(mixed).astype(np.uint8)


def outline(mask: UInt8[np.ndarray, "H W"]) -> np.ndarray:
    """Boolean "H W": pixels whose right or lower neighbour has another value."""
    edge = np.zeros(mask.shape, bool)
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:-1] |= mask[:-1] != mask[1:]
    return edge


def heat_map(
    image: UInt8[np.ndarray, "H W 3"], scores: Float[np.ndarray, "h w"], opacity: float = 0.7
) -> UInt8[np.ndarray, "_ _ 3"]:
    """A map in [0, 1] over the grey photograph at display size, from dark violet at 0 to yellow at 1."""
    size = display_size(*image.shape[:2])
    scores = upsample(scores[None], *size)[0]
    colours = 255 * mpl.colormaps["plasma"](np.clip(scores, 0, 1))[..., :3]
    return np.rint((1 - opacity) * faded(resize_image(image, *size)) + opacity * colours).astype(np.uint8)


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
    found = (("pseudo label", "pseudo_labels", labels), ("prediction", "predictions", masks))
    best = [(title, folders, best_of(metrics, stage)) for title, stage, folders in found]
    return Sources(
        maps={title: Arrays(path) for title, path in shown.items()},
        masks={f"{title}, {each['recipe']}": folders[each["recipe"]] for title, folders, each in best if each is not None},
    )


def _map_title(seeds: Mapping[str, Any]) -> str:
    return f"{'refined' if seeds['provenance']['recipe']['refine'] else 'unrefined'} map, {seeds['recipe']}"


def panels(record: Record, sources: Sources) -> dict[str, UInt8[np.ndarray, "_ _ 3"]]:
    """What there is of one image, by title: photograph, truth, best score of each archive's maps, masks of each folder."""
    image = read_image(record.image)
    pictures = {"photograph": resize_image(image, *display_size(*image.shape[:2]))}
    if record.mask is not None:
        pictures["truth"] = overlay(image, read_mask(record.mask))
    for title, archive in sources.maps.items():
        if record.image_id in set(archive):
            pictures[title] = heat_map(image, archive[record.image_id].astype(np.float32).max(axis=0, initial=0))
    for title, folder in sources.masks.items():
        path = folder / f"{record.image_id}.png"
        if path.is_file():
            pictures[title] = overlay(image, read_mask(path))
    return pictures


def sheet(pictures: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]) -> UInt8[np.ndarray, "_ _ 3"]:
    """Pictures of one size side by side on white, each under its title."""
    height, width = next(iter(pictures.values())).shape[:2]
    gap = 6
    page = Image.new("RGB", (len(pictures) * (width + gap) - gap, height + TITLE), "white")
    font = ImageFont.load_default(13)
    draw = ImageDraw.Draw(page)
    for place, (title, picture) in enumerate(pictures.items()):
        left = place * (width + gap)
        draw.text((left + 2, 3), _fitting(title, font, width), fill="black", font=font)
        page.paste(Image.fromarray(picture), (left, TITLE))
    return np.array(page)


def _fitting(title: str, font: Any, width: int) -> str:
    """The title, cut short where it is wider than `width` pixels."""
    while len(title) > 1 and font.getlength(title) > width:
        title = title.removesuffix("…")[:-1] + "…"
    return title


def chosen(split: Split, count: int) -> list[Record]:
    """At most `count` records of a split, always the same ones, in the split's order."""
    order = np.random.default_rng(0).permutation(len(split.records))[:count]
    return [split.records[index] for index in sorted(order)]


CURVES = 8  # that can be told apart in one plot


def best_curves(metrics: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The metrics of seeds that have a curve, in their order; of many those of the highest mIoU."""
    curves = [content for content in metrics if content["curve"] is not None]
    best = sorted(range(len(curves)), key=lambda place: -curves[place]["miou"])[:CURVES]
    return [curves[place] for place in sorted(best)]


def plot_curves(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """The mIoU of seeds against the background threshold, one line a metrics file; a star at the best, a ring at the fixed."""
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
        figure.legend(loc="outside lower center", ncols=2 if len(metrics) > 1 else 1)
    return figure


def plot_losses(title: str, history: pd.DataFrame) -> Figure:
    """The loss terms of a training run against its steps, on a logarithmic axis; a history without rows is an empty plot."""
    terms = [column for column in history if column not in ("step", "learning_rate")]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 2.8), layout="constrained")
        axes = figure.add_subplot(xlabel="step", title=title)
        for term in terms:
            axes.plot(history["step"], history[term], label=term, linewidth=2 if term == "loss" else 1)
        if terms:
            axes.set_yscale("log")
            axes.legend(loc="upper right")
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
            label = f"{content['stage'].replace('_', ' ')} {content['recipe']} ({content['split']})"
            # a missing value is drawn as nothing
            axes.barh(places + number * height, np.array(values, float), height, label=label)
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
    folder: str | Path,
) -> None:
    """Writes `folder`/{split}/{image_id}.png, a few sheets of each split, and `folder`/threshold_curves.png
    where there are masks to draw curves from.

    The other arguments are those of `acr.report.write_report`.
    """
    contents = [read_json(path) for path in metrics]
    sources = sources_of(contents, seeds, pseudo_labels, predictions)
    for split in (read_split(train), read_split(val)):
        for record in tqdm(chosen(split, SHEETS), desc=f"sheets of {split.name}", disable=None):
            write_image(Path(folder) / split.name / f"{record.image_id}.png", sheet(panels(record, sources)))
    curves = best_curves(contents)
    if curves:
        _write_plot(plot_curves(curves), Path(folder) / "threshold_curves.png")


def write_layer_figure(*, metrics: str | Path, csv: str | Path, picture: str | Path) -> None:
    """Writes a sweep over layers as a table and as a picture; `metrics` is its metrics file."""
    sweep = read_json(metrics)
    with atomic(csv) as temporary:
        layer_frame(sweep).to_csv(temporary, index=False)
    _write_plot(plot_layers(sweep), picture)


def _write_plot(figure: Figure, path: str | Path) -> None:
    with atomic(path) as temporary, mpl.rc_context(STYLE):
        figure.savefig(temporary, dpi=150)
