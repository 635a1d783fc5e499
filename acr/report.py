"""The report: one self-contained HTML page with the answer first, then tables, pictures, curves, costs and provenance."""

import html
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from acr.datasets.base import Record, Skipped, Split, read_skipped, read_split
from acr.explain import lineage
from acr.figures import (
    Sources,
    best_curves,
    chosen,
    panels,
    plot_classes,
    plot_confusion,
    plot_curves,
    plot_errors,
    plot_layers,
    plot_losses,
    sources_of,
    svg,
)
from acr.files import atomic, read_json
from acr.findings import STAGES, Metrics, answer, costs, findings, headline, left_out_text, measured, results, summarise
from acr.hypertext import (
    PAGE,
    contents_html,
    details_html,
    frame_html,
    legend_html,
    markdown_html,
    plot_html,
    row_html,
    section,
)
from acr.images import read_image, read_mask
from acr.measures import confusion
from acr.progress import Progress
from acr.tables import best_of


def ranked(split: Split, folder: Path) -> list[tuple[float, Record]]:
    """Images of a split with their mIoU in percent, of the masks in `folder`, best first; without truth none."""
    known = [(record, record.mask) for record in split.records if record.mask is not None]
    scored = []
    for record, mask in Progress(known, "ranking"):
        prediction = read_mask(folder / f"{record.image_id}.png")
        scored.append((confusion(read_mask(mask), prediction, len(split.classes) + 1).miou(), record))
    return sorted((pair for pair in scored if not np.isnan(pair[0])), key=lambda pair: -pair[0])


def figure_html(alt: str, figure: Figure) -> str:
    """A plot as HTML; see `acr.hypertext.plot_html`."""
    return plot_html(alt, svg(figure))


def image_html(split: Split, record: Record, sources: Sources, score: float | None = None) -> str:
    """All pictures of one image, with its tags and, where given, the mIoU of its prediction."""
    known = ", ".join(record.labels) or "no tags"
    title = f"{record.image_id}: {known}" + ("" if score is None else f"; prediction {score:.1f} mIoU")
    return row_html(title, record.image_id, panels(split, record, sources))


def attention_html(table: Path) -> list[str]:
    """The pictures of a table of `acr.attention_figures`, a row an image and kind."""
    titles = {"activation": "attention of the class token", "affinity": "attention of three patches"}
    folder, parts = table.with_suffix(""), []
    rows = pd.read_csv(table, dtype=str).to_dict("records")
    for (image_id, kind), shown in itertools.groupby(rows, key=lambda row: (row["image_id"], row["kind"])):
        pictures = {row["title"]: read_image(folder / row["file"]) for row in shown}
        parts.append(row_html(f"{image_id}: {titles[kind]}", image_id, pictures))
    return parts


def left_out_html(skipped: Sequence[Skipped]) -> str:
    """`left_out_text`, and behind it split, name and reason of each."""
    if not skipped:
        return ""
    rows = "\n".join(f"{item.split}: {item.image} ({item.reason})" for item in skipped)
    return f"<details><summary>{html.escape(left_out_text(skipped))}</summary><pre>{html.escape(rows)}</pre></details>"


def _pictures(train: Split, val: Split, sources: Sources, ranking: Sequence[tuple[float, Record]]) -> list[str]:
    """Sections of pictures: some images of both splits, always the same ones, then the best and the worst of val."""
    scores = {record.image_id: score for score, record in ranking}
    best, worst = ([record for _, record in part] for part in (ranking[:3], ranking[3:][:-4:-1]))
    shown = [
        (f"Images of {train.name}", train, chosen(train, 6)),
        (f"Images of {val.name}", val, chosen(val, 6)),
        (f"The best predictions of {val.name}", val, best),
        (f"The worst predictions of {val.name}", val, worst),
    ]
    sections = []
    for title, split, records in shown:
        rows = [image_html(split, each, sources, scores.get(each.image_id) if split is val else None) for each in records]
        sections.append(section(title, [legend_html(split.classes), *rows] if rows else []))
    return sections


def _plots(metrics: Metrics, sweeps: Metrics, histories: Mapping[str, pd.DataFrame]) -> list[str]:
    curves = best_curves(metrics)
    compared = [best_of(metrics, stage) for stage in STAGES[1:]]
    known = [content for content in compared if content is not None and measured(content)]
    confusions = [content for content in known if content["confusion"] is not None]
    layers = [
        figure_html(f"mIoU by first layer used, {each['recipe']}", plot_layers(each)) for each in sweeps if each["images"]
    ]
    losses = [figure_html(f"losses of {name}", plot_losses(name, each)) for name, each in histories.items() if len(each)]
    confused = [
        figure_html(f"confusion matrix of {each['stage']} {each['recipe']}", plot_confusion(each)) for each in confusions
    ]
    curve = [CURVES, figure_html("mIoU of seeds by background threshold", plot_curves(curves))] if curves else []
    errors = [ERRORS, figure_html("mIoU, false positives and false negatives", plot_errors(known))] if known else []
    return [
        section("Seeds against the background threshold", curve),
        section("Seeds against the first layer used", layers),
        section("Too much and too little", errors),
        section("Classes", [figure_html("IoU of each class", plot_classes(known))] if known else []),
        section("What is taken for what", [CONFUSION, *confused] if confused else []),
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
    attention: Sequence[str | Path],
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
        attention: tables of `acr.attention_figures`, whose pictures lie in the folder of their name.
        report: the HTML page.
        summary: the text.
    """
    contents = [read_json(path) for path in metrics]
    splits = read_split(train), read_split(val)
    sources = sources_of(contents, seeds, pseudo_labels, predictions)
    folders = {Path(path).parent.name: Path(path) for path in predictions}
    best = best_of(contents, "predictions")
    runs = {"/".join(Path(path).parts[-3:-1]): Path(path) for path in histories}
    left_out = read_skipped(skipped)
    shown = tables if any(measured(content) for content in contents) else ()
    seen = [part for path in attention for part in attention_html(Path(path))]
    made = [*[Path(path).parent for path in (*histories, *seeds)], *map(Path, (*pseudo_labels, *predictions))]
    sections = [
        *_pictures(*splits, sources, ranked(splits[1], folders[best["recipe"]]) if best else []),
        section("Attention, and what a view makes of it", [ATTENTION, *seen] if seen else []),
        *_plots(contents, [read_json(path) for path in sweeps], {name: pd.read_csv(path) for name, path in runs.items()}),
        section("Tables", [markdown_html(Path(path).read_text(encoding="utf-8")) for path in shown]),
        section("Costs", _costs(made)),
        section("Provenance", _provenance(contents, runs)),
    ]
    page = PAGE.substitute(
        title=html.escape(f"From image tags to masks: {dataset}"),
        contents=contents_html(sections),
        answer=_answer(contents, dataset) + left_out_html(left_out),
        sections="\n".join(sections),
    )
    with atomic(report) as temporary:
        temporary.write_text(page, encoding="utf-8")
    with atomic(summary) as temporary:
        temporary.write_text(summarise(contents) + left_out_text(left_out), encoding="utf-8")


def _answer(metrics: Metrics, dataset: str) -> str:
    """The answer first: a sentence, the numbers beside the paper's, then what they say, then all of them."""
    first, sentences = html.escape(answer(metrics)), [html.escape(each, quote=False) for each in findings(metrics)]
    beside = headline(metrics, dataset)
    return "\n".join(
        [
            f'<p class="answer">{first}</p>' if first else "",
            frame_html(beside) if len(beside) else "",
            *[f"<p>{sentence}</p>" for sentence in sentences],
            frame_html(results(metrics)),
        ]
    )


def _costs(made: Iterable[Path]) -> list[str]:
    """What each artefact cost that those made are made from, themselves included, from the data on."""
    records: dict[str, Mapping[str, Any]] = {}
    for path in made:
        records |= {min(record["outputs"]): record for record in reversed(lineage(path)) if record["outputs"]}
    return [COSTS, frame_html(costs(records.values()))] if records else []


def _provenance(metrics: Metrics, runs: Mapping[str, Path]) -> list[str]:
    """What made each trained network and each measured artefact."""
    made = {name: path.with_name("provenance.json") for name, path in runs.items()}
    networks = [details_html(name, read_json(path)) for name, path in made.items() if path.is_file()]
    return networks + [details_html(f"metrics of {each['stage']}/{each['recipe']}", each["provenance"]) for each in metrics]


CURVES = "<p>Star: the best threshold, which needs the true masks. Ring: the one fixed without them (Otsu's).</p>"
ERRORS = "<p>Shares of the union of truth and mask, averaged over classes: right, too much, too little.</p>"
CONFUSION = (
    "<p>Of the pixels of each class of the truth, the percentage that each class got; below 5 it is not written out.</p>"
)
ATTENTION = (
    "<p>Mean over heads and layers. What training compares is the attention of the photograph and that of its view, restored: "
    "brought back to the token order of the photograph. A ring marks a patch, and the colours how much it attends to each.</p>"
)
COSTS = "<p>Seconds of wall time and largest memory of each job; those of shards are added up.</p>"
