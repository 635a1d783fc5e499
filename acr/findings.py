"""What a run found: its numbers as tables beside the paper's, in sentences and as text, and what they cost."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from acr.datasets.base import Skipped
from acr.files import PROVENANCE
from acr.paper import HEADLINE
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


def headline(metrics: Metrics, dataset: str) -> pd.DataFrame:
    """What a run is for, one row a stage: the best recipe, its mIoU, that at a threshold fixed without masks, the paper's.

    Where the paper has no numbers of this data set, those of PASCAL VOC 2012 stand beside and say so.
    """
    printed = HEADLINE.get(dataset, HEADLINE["voc12"])
    column = "the paper" if dataset in HEADLINE else "the paper, on VOC 2012"
    seeds = [content for content in metrics if content["stage"] == "seeds"]
    kinds = {refine: [each for each in seeds if each["provenance"]["recipe"]["refine"] == refine] for refine in (False, True)}
    found = {
        "unrefined seeds": best_of(kinds[False], "seeds"),
        "refined seeds": best_of(kinds[True], "seeds"),
        "pseudo labels": best_of(metrics, "pseudo_labels"),
        "masks": best_of(metrics, "predictions"),
    }
    rows = [
        {
            "": name,
            "recipe": content["recipe"],
            "measured on": f"{content['split']}, {content['images']} images",
            "mIoU": _number(content["miou"]),
            "threshold fixed": _number(content["miou_fixed"]),
            column: _number(printed.get(name)),
        }
        for name, content in found.items()
        if content is not None and measured(content)
    ]
    return pd.DataFrame(rows)


def answer(metrics: Metrics) -> str:
    """The result in a sentence; empty where no mask is known to compare with."""
    stages = (("predictions", "masks"), ("pseudo_labels", "pseudo labels"), ("seeds", "seeds"))
    best = [(name, best_of(metrics, stage)) for stage, name in stages]
    said = [f"{name} of {each['miou']:.1f} mIoU on {each['split']}" for name, each in best if each and measured(each)]
    return f"Learnt from tags alone: {', '.join(said)}." if said else ""


def costs(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """What each artefact cost, in the order of the records, and all together: seconds, peak memory in MiB, devices."""
    rows = [
        {"made": _artefact(record), "seconds": record["seconds"], "MiB": record["peak_memory_mb"], "device": record["device"]}
        for record in records
    ]
    frame = pd.DataFrame(rows, columns=["made", "seconds", "MiB", "device"])
    devices = ", ".join(sorted({device for row in rows for device in row["device"].split(", ")}))
    frame.loc[len(frame)] = ["all, one after the other", frame["seconds"].sum(), frame["MiB"].max(), devices]
    return frame.assign(seconds=frame["seconds"].map("{:.1f}".format))


def _artefact(record: Mapping[str, Any]) -> str:
    """What provenance stands for: one file, or the folder of several."""
    first, *others = [Path(path) for path in record["outputs"]]
    folder = first.parent if others or first.name == PROVENANCE else first
    return "/".join(folder.parts[-3:]) if folder.parts[0] == "results" else str(folder)


def findings(metrics: Metrics) -> list[str]:
    """What the numbers say in plain sentences: tags, refinement, pseudo labels against seeds, masks against pseudo labels."""
    classifiers = [each for each in metrics if each.get("mean_average_precision") is not None]
    best = max(classifiers, key=lambda content: content["mean_average_precision"], default=None)
    sentences = []
    if best is not None:
        precision = f"{best['mean_average_precision']:.1f} mAP on {best['split']}"
        sentences.append(f"The classifier {best['recipe']} recognises tags with {precision}.")
    sentences += [_refinement(*pair) for pair in refinement_pairs(metrics) if measured(*pair)]
    seeds = {(content["recipe"], content["split"]): content for content in metrics if content["stage"] == "seeds"}
    for labels in (content for content in metrics if content["stage"] == "pseudo_labels"):
        source = seeds.get((labels["provenance"]["recipe"]["seeds"], labels["split"]))
        if source is not None and measured(labels, source):
            sentences.append(_spreading(labels, source))
    masks, learnt = best_of(metrics, "predictions"), best_of(metrics, "pseudo_labels")
    if masks is not None and learnt is not None and measured(masks, learnt):
        sentences.append(_segmentation(masks, learnt))
    if not any(measured(content) for content in metrics):
        sentences.append("No mIoU is known: no image has a true mask.")
    return sentences


def measured(*contents: Mapping[str, Any]) -> bool:
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
