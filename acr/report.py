"""The report: one self-contained HTML page with the answer first, then tables, pictures, curves and provenance."""

import base64
import html
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np
import pandas as pd
from jaxtyping import UInt8
from matplotlib.figure import Figure
from tqdm import tqdm

from acr.datasets.base import Record, Skipped, Split, read_skipped, read_split
from acr.figures import (
    Sources,
    best_curves,
    chosen,
    panels,
    plot_classes,
    plot_curves,
    plot_layers,
    plot_losses,
    sources_of,
    svg,
)
from acr.files import atomic, read_json
from acr.images import palette, read_mask
from acr.measures import confusion
from acr.tables import best_of, refinement_pairs

STAGES = ("classifiers", "seeds", "pseudo_labels", "predictions")
Metrics = Sequence[Mapping[str, Any]]


def results(metrics: Metrics) -> pd.DataFrame:
    """One row a metrics file, in the pipeline's order: percent to one decimal and thresholds as text, "-" where unmeasured.

    Columns in which nothing is measured are left out.
    """
    rows = [
        {
            "stage": content["stage"].replace("_", " "),
            "recipe": content["recipe"],
            "split": content["split"],
            "mAP": _number(content.get("mean_average_precision")),
            "mIoU": _number(content["miou"]),
            "at threshold": _number(content["threshold"], 2),
            "mIoU, fixed": _number(content["miou_fixed"]),
            "fixed threshold": _number(content["threshold_fixed"], 2),
            "FP": _number(content["false_positive"]),
            "FN": _number(content["false_negative"]),
            "images": str(content["images"] or "-"),
        }
        for content in sorted(metrics, key=lambda content: STAGES.index(content["stage"]))
    ]
    frame = pd.DataFrame(rows)
    return frame.loc[:, (frame != "-").any()]


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def findings(metrics: Metrics) -> list[str]:
    """What the numbers say in plain sentences: tags, refinement, pseudo labels against seeds, masks against pseudo labels."""
    classifiers = [each for each in metrics if each.get("mean_average_precision") is not None]
    best = max(classifiers, key=lambda content: content["mean_average_precision"], default=None)
    sentences = []
    if best is not None:
        precision = f"{best['mean_average_precision']:.1f} mAP on {best['split']}"
        sentences.append(f"The classifier {best['recipe']} recognises tags with {precision}.")
    sentences += [_refinement(*pair) for pair in refinement_pairs(metrics) if _measured(*pair)]
    seeds = {(content["recipe"], content["split"]): content for content in metrics if content["stage"] == "seeds"}
    for labels in (content for content in metrics if content["stage"] == "pseudo_labels"):
        source = seeds.get((labels["provenance"]["recipe"]["seeds"], labels["split"]))
        if source is not None and _measured(labels, source):
            sentences.append(_spreading(labels, source))
    predictions, learnt = best_of(metrics, "predictions"), best_of(metrics, "pseudo_labels")
    if predictions is not None and learnt is not None and _measured(predictions, learnt):
        sentences.append(_segmentation(predictions, learnt))
    if not any(_measured(content) for content in metrics):
        sentences.append("No mIoU is known: no image has a true mask.")
    return sentences


def _measured(*contents: Mapping[str, Any]) -> bool:
    return all(content["miou"] is not None for content in contents)


def _refinement(plain: Mapping[str, Any], refined: Mapping[str, Any]) -> str:
    gain = refined["miou"] - plain["miou"]
    verdict = "helped" if gain > 0 else "did not help"
    return (
        f"Affinity refinement {verdict}: the seeds {refined['recipe']} reach {refined['miou']:.1f} mIoU on {refined['split']} "
        f"with it, {plain['recipe']} {plain['miou']:.1f} without ({gain:+.1f}); at the thresholds fixed without masks "
        f"{refined['miou_fixed']:.1f} and {plain['miou_fixed']:.1f}."
    )


def _spreading(labels: Mapping[str, Any], seeds: Mapping[str, Any]) -> str:
    gain = labels["miou"] - seeds["miou"]
    verdict = "are better than" if gain > 0 else "are not better than"
    return (
        f"The pseudo labels {labels['recipe']} {verdict} the seeds {seeds['recipe']} they come from: {labels['miou']:.1f} mIoU "
        f"on {labels['split']} against {seeds['miou']:.1f} at the seeds' best threshold ({gain:+.1f}) and "
        f"{seeds['miou_fixed']:.1f} at the fixed one."
    )


def _segmentation(predictions: Mapping[str, Any], labels: Mapping[str, Any]) -> str:
    gain = predictions["miou"] - labels["miou"]
    verdict = "better than" if gain > 0 else "not better than"
    return (
        f"The segmenter's masks {predictions['recipe']} reach {predictions['miou']:.1f} mIoU on {predictions['split']}, "
        f"{verdict} the {labels['miou']:.1f} of the pseudo labels {labels['recipe']} on {labels['split']} ({gain:+.1f})."
    )


def summarise(metrics: Metrics) -> str:
    """The results as text: a table of every recipe, then the findings."""
    return "\n".join([results(metrics).to_string(index=False), "", *findings(metrics), ""])


def left_out_text(skipped: Sequence[Skipped]) -> str:
    """How many photographs were left out and why, the commonest reason first; empty where none was."""
    if not skipped:
        return ""
    photographs = {item.image: item.reason.partition(" (")[0] for item in skipped}  # one may have been in several splits
    reasons = "; ".join(f"{count}: {reason}" for reason, count in Counter(photographs.values()).most_common())
    count = "1 photograph was" if len(photographs) == 1 else f"{len(photographs)} photographs were"
    return f"{count} left out ({reasons}); see splits/skipped.csv.\n"


def ranked(split: Split, folder: Path) -> list[tuple[float, Record]]:
    """Images of a split with their mIoU in percent, of the masks in `folder`, best first; without truth none."""
    records = [record for record in split.records if record.mask is not None]
    scored = []
    for record in tqdm(records, desc="ranking", unit="image", disable=None):
        assert record.mask is not None
        prediction = read_mask(folder / f"{record.image_id}.png")
        scored.append((confusion(read_mask(record.mask), prediction, len(split.classes) + 1).miou(), record))
    return sorted((pair for pair in scored if not np.isnan(pair[0])), key=lambda pair: -pair[0])


# ---- HTML ----------------------------------------------------------------------------------------------------------------


def frame_html(frame: pd.DataFrame) -> str:
    """A table that scrolls sideways where the screen is narrow."""
    return f'<div class="wide">{frame.to_html(index=False, border=0)}</div>'


def markdown_html(text: str) -> str:
    """HTML of the Markdown that `acr.tables` writes: paragraphs, one pipe table, bold and backslashes."""
    lines = text.splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    paragraphs = "".join(f"<p>{_inline(line)}</p>" for line in lines if line and not line.startswith("|"))
    if not rows:
        return paragraphs
    head = "".join(f"<th>{_inline(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>" for row in rows[2:])
    return f'{paragraphs}<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _inline(text: str) -> str:
    bold = re.sub(r"(?<!\\)\*\*(.+?)(?<!\\)\*\*", r"<b>\1</b>", html.escape(text.strip(), quote=False))
    return re.sub(r"\\([*|])", r"\1", bold)


def picture_html(title: str, picture: UInt8[np.ndarray, "_ _ 3"]) -> str:
    """One picture under its title, embedded as JPEG."""
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert done
    source = f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
    return f'<figure><img alt="{html.escape(title)}" src="{source}"><figcaption>{html.escape(title)}</figcaption></figure>'


def figure_html(figure: Figure) -> str:
    """A plot, embedded as SVG."""
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg(figure)).decode()}"
    return f'<div class="wide"><img class="plot" alt="plot" src="{source}"></div>'


def image_html(record: Record, sources: Sources, score: float | None = None) -> str:
    """All pictures of one image, with its tags and, where given, the mIoU of its prediction."""
    known = ", ".join(record.labels) or "no tags"
    title = f"{record.image_id}: {known}" + ("" if score is None else f"; prediction {score:.1f} mIoU")
    pictures = "".join(picture_html(name, picture) for name, picture in panels(record, sources).items())
    return f'<h3>{html.escape(title)}</h3><div class="row">{pictures}</div>'


def legend_html(classes: Sequence[str]) -> str:
    """The colours of the classes, and white for void."""
    colours = ["#" + bytes(colour).hex() for colour in palette()[1 : len(classes) + 1]]
    named = [*zip(classes, colours, strict=True), ("void", "#ffffff")]
    chips = (f'<span><i style="background:{colour}"></i>{html.escape(name)}</span>' for name, colour in named)
    return f'<p class="legend">{" ".join(chips)}</p>'


def details_html(title: str, content: Any) -> str:
    """Nested values behind a title that opens on a click."""
    return f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(json.dumps(content, indent=1))}</pre></details>"


def left_out_html(skipped: Sequence[Skipped]) -> str:
    """`left_out_text`, and behind it split, name and reason of each."""
    if not skipped:
        return ""
    rows = "\n".join(f"{item.split}: {item.image} ({item.reason})" for item in skipped)
    return f"<details><summary>{html.escape(left_out_text(skipped))}</summary><pre>{html.escape(rows)}</pre></details>"


def section(title: str, parts: Iterable[str]) -> str:
    """A section with a heading; empty where it has no parts."""
    body = "\n".join(parts)
    return f"<section><h2>{html.escape(title)}</h2>\n{body}\n</section>" if body else ""


def _pictures(train: Split, val: Split, sources: Sources, ranking: Sequence[tuple[float, Record]]) -> list[str]:
    """Sections of pictures: some images of both splits, always the same ones, then the best and the worst of val."""
    best, worst = ranking[:3], ranking[3:][:-4:-1]
    scores = {record.image_id: score for score, record in ranking}
    return [
        section(f"Images of {train.name}", [legend_html(train.classes), *(image_html(r, sources) for r in chosen(train, 6))]),
        section(f"Images of {val.name}", [image_html(r, sources, scores.get(r.image_id)) for r in chosen(val, 6)]),
        section(f"The best predictions of {val.name}", [image_html(record, sources, score) for score, record in best]),
        section(f"The worst predictions of {val.name}", [image_html(record, sources, score) for score, record in worst]),
    ]


def _plots(metrics: Metrics, sweeps: Metrics, histories: Mapping[str, pd.DataFrame]) -> list[str]:
    curves = best_curves(metrics)
    layers = [sweep for sweep in sweeps if sweep["images"]]
    compared = [best_of(metrics, stage) for stage in STAGES[1:]]
    classes = [content for content in compared if content is not None and content["iou"] is not None]
    losses = [figure_html(plot_losses(name, history)) for name, history in histories.items() if len(history)]
    return [
        section("Seeds against the background threshold", [CURVES, figure_html(plot_curves(curves))] if curves else []),
        section("Seeds against the first layer used", [figure_html(plot_layers(sweep)) for sweep in layers]),
        section("Classes", [figure_html(plot_classes(classes))] if classes else []),
        section("Training", losses),
    ]


# ---- disk ----------------------------------------------------------------------------------------------------------------


def write_report(
    *,
    dataset: str,
    train: str | Path,
    val: str | Path,
    skipped: str | Path,
    metrics: Sequence[str | Path],
    seeds: Sequence[str | Path],
    pseudo_labels: Sequence[str | Path],
    predictions: Sequence[str | Path],
    histories: Sequence[str | Path],
    sweeps: Sequence[str | Path],
    tables: Sequence[str | Path],
    report: str | Path,
    summary: str | Path,
) -> None:
    """Writes the page, and the results as text.

    Args:
        dataset: its name in the configuration.
        train: csv of the training split.
        val: csv of the split that predictions are made for.
        skipped: csv of the photographs that were left out.
        metrics: every metrics file.
        seeds: paths .../{recipe}/maps.npz.
        pseudo_labels: folders .../{recipe}.
        predictions: folders .../{recipe}/{split}.
        histories: paths .../{stage}/{recipe}/history.csv; provenance.json beside them is shown.
        sweeps: the metrics files of sweeps over layers.
        tables: Markdown files of `acr.tables`.
        report: the HTML page.
        summary: the text.
    """
    contents = [read_json(path) for path in metrics]
    splits = read_split(train), read_split(val)
    sources = sources_of(contents, seeds, pseudo_labels, predictions)
    folder = next((folder for title, folder in sources.masks.items() if title.startswith("prediction")), None)
    runs = {"/".join(Path(path).parts[-3:-1]): Path(path) for path in histories}
    sentences = "".join(f"<p>{html.escape(sentence, quote=False)}</p>" for sentence in findings(contents))
    left_out = read_skipped(skipped)
    shown = tables if any(_measured(content) for content in contents) else ()
    sections = [
        section("Tables", [markdown_html(Path(path).read_text(encoding="utf-8")) for path in shown]),
        *_pictures(*splits, sources, ranked(splits[1], folder) if folder else []),
        *_plots(contents, [read_json(path) for path in sweeps], {name: pd.read_csv(path) for name, path in runs.items()}),
        section("Provenance", _provenance(contents, runs)),
    ]
    page = PAGE.substitute(
        title=html.escape(f"From image tags to masks: {dataset}"),
        answer=left_out_html(left_out) + sentences + frame_html(results(contents)),
        sections="\n".join(sections),
    )
    with atomic(report) as temporary:
        temporary.write_text(page, encoding="utf-8")
    with atomic(summary) as temporary:
        temporary.write_text(summarise(contents) + left_out_text(left_out), encoding="utf-8")


def _provenance(metrics: Metrics, runs: Mapping[str, Path]) -> list[str]:
    """What made each trained network and each measured artefact."""
    made = {name: path.with_name("provenance.json") for name, path in runs.items()}
    networks = [details_html(name, read_json(path)) for name, path in made.items() if path.is_file()]
    return networks + [details_html(f"metrics of {each['stage']}/{each['recipe']}", each["provenance"]) for each in metrics]


CURVES = "<p>Star: the best threshold, which needs the true masks. Ring: the one fixed without them (Otsu's).</p>"
PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { --text: #1c1c1e; --page: #fdfdfc; --line: #d8d8d4; --soft: #f0f0ec; --dim: #6a6a66; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e6e3; --page: #17181a; --line: #3a3b3e; --soft: #222326; --dim: #a0a09b; }
}
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; font-weight: 500; margin: 1.2rem 0 .4rem; }
p { max-width: 46rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { background: var(--soft); font-weight: 600; }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .5rem; max-width: 66rem; }
figure { margin: 0; } figure img { width: 100%; display: block; border-radius: 3px; }
figcaption, .legend { font-size: .8rem; color: var(--dim); }
.legend span { white-space: nowrap; margin-right: .8em; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .3em; border: 1px solid var(--line); }
.plot { width: 100%; min-width: 20rem; max-width: 42rem; }
details { margin: .3rem 0; } summary { cursor: pointer; }
pre { background: var(--soft); padding: .6rem; overflow-x: auto; font-size: .75rem; }
</style>
</head>
<body>
<h1>$title</h1>
$answer
$sections
</body>
</html>
""")
