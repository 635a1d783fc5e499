import json
import math
from pathlib import Path
from statistics import fmean

import pandas as pd
import pytest

from acr.config import canonical
from acr.datasets.classes import VOC
from acr.files import write_json
from acr.recipes import (
    Affinity,
    Classifier,
    Coco14,
    Folder,
    PseudoLabels,
    Row,
    Seeds,
    Segmenter,
    Table,
    Textures,
    Voc12,
)
from acr.report import markdown_html
from acr.tables import COLUMNS, build_table, caption, read_metrics, to_markdown, write_table

SEEDS = {
    "stage": "seeds",
    "recipe": "mine",
    "dataset": "voc12",
    "split": "train",
    "images": 528,
    "miou": 35.25,
    "threshold": 0.43,
    "miou_fixed": 33.0,
    "threshold_fixed": 0.5,
    "crf": None,
    "scales": None,
    "iou": {"background": 80.0, "scales": 10.5, "cat|dog": None},
}
PSEUDO = {**SEEDS, "stage": "pseudo_labels", "miou": 40.0, "threshold": None, "miou_fixed": None, "threshold_fixed": None}
VAL = {
    **PSEUDO,
    "stage": "predictions",
    "split": "val",
    "images": 256,
    "miou": 38.0,
    "crf": {"iterations": 10},
    "scales": [0.5, 1],
}
METRICS = {(content["stage"], content["recipe"]): content for content in (SEEDS, PSEUDO, VAL)}


def test_our_row_stands_beside_the_papers():
    table = build_table("table_2", (Row("ACR", seeds="mine", pseudo_labels="mine"), Row("ACR*", seeds="mine")), METRICS)
    assert len(table) == 16 + 2
    ours, star = table.to_dict("records")[-2:]
    assert (ours["seed"], ours["seed_paper"], ours["pseudo"], ours["pseudo_paper"]) == (35.25, 67.3, 40.0, 70.8)
    assert (ours["threshold"], ours["seed_fixed"], ours["threshold_fixed"]) == (0.43, 33.0, 0.5)
    assert (ours["split"], ours["images"], ours["source"]) == ("train", "528", "ours")
    assert ours["recipe"] == "seeds/mine, pseudo_labels/mine"
    assert star["seed_paper"] == 59.4
    assert pd.isna(star["pseudo"])
    assert pd.isna(star["pseudo_paper"])
    assert (table["source"][:16] == "paper").all()
    assert table["saliency"].fillna("open").tolist() == ["yes", "open", *["yes"] * 3, *["no"] * 13]
    assert (ours["crf"], star["crf"]) == ("no", "no")
    cleaned = {**METRICS, ("pseudo_labels", "mine"): {**PSEUDO, "crf": {"iterations": 5}}}
    both = build_table("table_2", (Row("ACR", seeds="mine", pseudo_labels="mine"),), cleaned).to_dict("records")[-1]
    assert both["crf"] == "no, yes"


def test_predictions_know_crf_and_scales():
    ours = build_table("table_3", (Row("ACR", predictions="mine"),), METRICS).to_dict("records")[-1]
    assert (ours["val"], ours["val_paper"], ours["crf"], ours["scales"]) == (38.0, 71.2, "yes", "0.5 1")
    without = {("predictions", "mine"): {**VAL, "crf": None}}
    assert build_table("table_3", (Row("ACR", predictions="mine"),), without).to_dict("records")[-1]["crf"] == "no"


def test_any_table_can_be_built_and_names_every_split():
    table = build_table("all", (Row("small", seeds="mine", pseudo_labels="mine", predictions="mine"),), METRICS)
    (row,) = table.to_dict("records")
    assert (row["split"], row["images"], row["val"]) == ("train, val", "528, 256", 38.0)
    assert not {"venue", "seed_paper", "test"} & set(table)
    assert list(table) == [column for column in COLUMNS if column in table]
    assert "saliency" not in table


def test_unmeasured_numbers_stay_empty():
    table = build_table("mine", (Row("ACR", seeds="mine"),), {("seeds", "mine"): {**SEEDS, "miou": None, "images": 0}})
    assert "seed" not in table
    assert "0" in to_markdown("mine", table, "voc12")


def test_a_row_without_its_metrics_is_refused():
    with pytest.raises(ValueError, match="row 'ACR' needs the metrics of seeds/other"):
        build_table("table_2", (Row("ACR", seeds="other"),), METRICS)


def test_the_caption_says_when_numbers_cannot_be_compared():
    table = build_table("table_2", (Row("ACR", seeds="mine"),), METRICS)
    assert "reference only" in caption("table_2", table, "textures")
    assert "reference only" not in caption("table_2", table, "voc12")
    assert "reference only" not in caption("mine", table, "textures")


def test_markdown_escapes_and_rounds():
    text = to_markdown("table_2", build_table("table_2", (Row("A|B*", seeds="mine"),), METRICS), "voc12")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert r"| **A\|B\*** | ours |" in lines[-1]
    assert "| 35.2 |" in lines[-1]
    assert "| 0.43 |" in lines[-1]
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1
    assert len(lines) == 2 + 16 + 1


def test_tables_are_written_from_metrics_files(tmp_path):
    for content in METRICS.values():
        write_json(tmp_path / f"{content['stage']}.json", content)
    arguments = {
        "recipe": canonical(Table((Row("ACR", seeds="mine"),))),
        "csv": tmp_path / "t.csv",
        "markdown": tmp_path / "t.md",
    }
    write_table(name="table_2", metrics=[tmp_path / f"{stage}.json" for stage, _ in METRICS], **arguments)
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["seed"].tolist()[-1] == 35.25
    assert table["seed_paper"].tolist()[-1] == 67.3
    assert (tmp_path / "t.md").read_text().startswith("**Table 2")
    with pytest.raises(ValueError, match="has no metrics"):
        write_table(name="table_2", metrics=[], **arguments)


# ---- several random states ---------------------------------------------------------------------------------------------------

STATES = {
    ("seeds", f"{kind}{state}"): {**SEEDS, "recipe": f"{kind}{state}", "miou": miou, "miou_fixed": fixed, "threshold": best}
    for kind, state, miou, fixed, best in (
        ("plain", 0, 50.0, 40.0, 0.40),
        ("plain", 1, 52.0, 46.0, 0.43),
        ("plain", 2, 57.0, 49.0, 0.46),
        ("refined", 0, 60.0, 58.0, 0.5),
        ("refined", 1, 64.0, 59.0, 0.5),
        ("refined", 2, 62.0, 57.0, 0.5),
    )
}
BOTH = Row("both", seeds=("plain0", "plain1", "plain2"), refined=("refined0", "refined1", "refined2"))


def test_random_states_are_a_mean_and_a_deviation():
    ours = build_table("table_4", (BOTH,), STATES).to_dict("records")[-1]
    # deviations by hand: (9 + 1 + 16) / 2, (25 + 1 + 16) / 2 and (4 + 4 + 0) / 2
    assert (ours["seed"], ours["seed_sd"]) == (53, pytest.approx(math.sqrt(13)))
    assert (ours["seed_fixed"], ours["seed_fixed_sd"]) == (45, pytest.approx(math.sqrt(21)))
    assert (ours["refined"], ours["refined_sd"], ours["refined_fixed"]) == (62, 2, 58)
    assert (ours["threshold"], ours["threshold_sd"]) == (pytest.approx(0.43), pytest.approx(0.03))
    assert (ours["refined_threshold"], ours["refined_threshold_fixed"]) == (0.5, 0.5)
    assert (ours["seed_paper"], ours["refined_paper"], ours["states"]) == (59.4, 67.3, "3")
    assert ours["recipe"] == ", ".join(f"seeds/{kind}{state}" for kind in ("plain", "refined") for state in range(3))


def test_markdown_shows_the_deviation_in_the_cell():
    single = Row("none", seeds="plain0", refined="refined0")
    table = build_table("table_4", (single, BOTH), STATES)
    lines = [line for line in to_markdown("table_4", table, "voc12").splitlines() if line.startswith("|")]
    assert "| 53.0 ± 3.6 | 59.4 | 62.0 ± 2.0 | 67.3 | 3 | 0.43 ± 0.03 | 45.0 ± 4.6 |" in lines[-1]
    assert "| 50.0 | 51.1 | 60.0 | 57.7 | 1 | 0.40 | 40.0 |" in lines[-2]
    assert not [column for column in lines[0].split("|") if "sd" in column]
    assert "over 1 or 3 random states" in caption("table_4", table, "voc12")
    assert "over 3 random states" in caption("table_4", build_table("table_4", (BOTH,), STATES), "voc12")
    assert "one random state" in caption("table_4", build_table("table_4", (single,), STATES), "voc12")
    assert not {"venue", "saliency", "seed_sd"} & set(build_table("table_4", (single,), STATES))


def test_a_state_without_a_figure_leaves_the_mean_empty():
    unknown = {**STATES, ("seeds", "plain2"): {**SEEDS, "miou": None}}
    ours = build_table("table_4", (BOTH,), unknown).to_dict("records")[-1]
    assert pd.isna(ours["seed"])
    assert ours["refined"] == 62


# ---- costs -------------------------------------------------------------------------------------------------------------------

COST = {"stage": "costs", "recipe": "small", "dataset": "voc12", "training_memory_mb": 1499.6, "images_per_second": 7.126}


def test_costs_say_on_which_device():
    metrics = {("costs", "small"): {**COST, "device": "NVIDIA H100", "backbone": "deit_small", "resolution": 224}}
    table = build_table("table_9", (Row("ACR, DeiT-S", cost="small"),), metrics)
    ours = table.to_dict("records")[-1]
    assert (ours["memory"], ours["memory_paper"], ours["speed"], ours["speed_paper"]) == (1499.6, 1580, 7.126, 3.61)
    text = to_markdown("table_9", table, "textures")
    assert "measured on NVIDIA H100" in text
    assert "RTX 2080 Ti" in text
    assert "cannot be compared" not in text  # the paper names no data set
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[2].startswith("| PSA | paper | 3082 |  | 0.98 |  |")
    assert lines[-1].startswith("| **ACR, DeiT-S** | ours | 1500 | 1580 | 7.13 | 3.61 | 1 |")
    assert not {"split", "images", "threshold", "crf"} & set(table)
    assert (ours["backbone"], ours["resolution"], ours["device"]) == ("deit_small", "224", "NVIDIA H100")
    assert "random state" not in caption("table_9", table, "textures")


# ---- classes -----------------------------------------------------------------------------------------------------------------

OTHER = {**SEEDS, "recipe": "other", "iou": {"background": 90.0, "scales": 20.5, "cat|dog": None}, "miou": 55.25}
BY_CLASS = {("seeds", "mine"): SEEDS, ("seeds", "other"): OTHER, ("predictions", "mine"): {**VAL, "iou": SEEDS["iou"]}}


def test_a_table_of_classes_has_a_column_for_each():
    rows = (Row("ACR", seeds="mine", predictions="mine"), Row("both", seeds=("mine", "other")))
    table = build_table("table_10", rows, BY_CLASS, columns="classes")
    assert list(table)[:4] == ["method", "iou_background", "iou_background_sd", "iou_scales"]
    assert list(table)[5:27] == [*(f"iou_{name}" for name in VOC), "miou", "miou_sd"]
    ours, both = table.to_dict("records")[3:]
    assert (ours["iou_background"], ours["miou"], ours["split"], ours["scales"]) == (80, 38, "val", "0.5 1")  # its last stage
    assert (both["iou_background"], both["iou_scales"], both["miou"]) == (85, 15.5, fmean([35.25, 55.25]))
    assert both["iou_background_sd"] == pytest.approx(math.sqrt(50))
    assert (both["threshold"], both["states"], both["split"]) == (0.43, "2", "train")
    assert table["iou_aeroplane"].tolist()[:3] == [75.1, 82.9, 85.2]


def test_markdown_of_classes_has_a_line_for_each():
    named = {**SEEDS, "iou": {"background": 80.0, "cat|dog": 10.5}}
    table = build_table("table_10", (Row("A*", seeds="mine"),), {("seeds", "mine"): named}, columns="classes")
    text = to_markdown("table_10", table, "textures")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == r"| method | CPN | Kweon et al. | ACR | **A\*** |"
    assert lines[1] == "| --- | --- | --- | --- | --- |"
    assert lines[2:4] == ["| background | 89.9 | 90.2 | 91.5 | 80.0 |", r"| cat\|dog |  |  |  | 10.5 |"]
    assert lines[4] == "| aeroplane | 75.1 | 82.9 | 85.2 |  |"
    assert lines[24:26] == ["| mIoU | 67.8 | 68.4 | 71.2 | 35.2 |", "| source | paper | paper | paper | ours |"]
    assert lines[-1] == "| recipe |  |  |  | seeds/mine |"
    page = markdown_html(text)
    assert "<th>ACR</th><th><b>A*</b></th>" in page
    assert "<tr><td>cat|dog</td><td></td><td></td><td></td><td>10.5</td></tr>" in page


def test_a_row_without_classes_is_refused():
    with pytest.raises(ValueError, match="row 'small' has nothing with classes"):
        build_table("table_10", (Row("small", cost="small"),), {("costs", "small"): COST}, columns="classes")


def test_without_truth_a_table_of_classes_shows_the_papers():
    unknown = {("seeds", "mine"): {**SEEDS, "dataset": "coco14", "iou": None, "miou": None}}
    table = build_table("table_11", (Row("ACR", seeds="mine"),), unknown, columns="classes")
    assert table["miou"].tolist()[:3] == [42.0, 43.8, 45.0]
    assert pd.isna(table["miou"].tolist()[3])


def test_classes_of_another_data_set_are_not_mixed_with_ours():
    table = build_table("table_11", (Row("ACR", seeds="other"),), BY_CLASS, columns="classes")
    assert table["source"].tolist() == ["ours"]
    assert not {"iou_person", "iou_train"} & set(table)


# ---- where a row comes from --------------------------------------------------------------------------------------------------


DIGEST = "0123456789abcdef"


def made(output, recipe, inputs=(), commit="f00d"):
    """Writes the provenance of an output as its job does; every file has the same digest."""
    path = Path(output)
    name = "provenance.json" if path.suffix in (".csv", ".npz", ".safetensors") else f"{path.stem}.provenance.json"
    record = {"recipe": json.loads(canonical(recipe)), "inputs": dict.fromkeys(inputs, DIGEST), "outputs": {output: DIGEST}}
    write_json(path.with_name(name), {**record, "commit": commit})


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Metrics files of seeds and of predictions with all that they were made from, as far as provenance tells it."""
    monkeypatch.chdir(tmp_path)
    data, results = "data/weights/vit.safetensors", "results/voc12"
    split, net, maps = (
        f"{results}/splits/train.csv",
        f"{results}/classifiers/net/model.safetensors",
        f"{results}/seeds/mine/maps.npz",
    )
    psa, deeplab = f"{results}/affinities/psa/model.safetensors", f"{results}/segmenters/net/model.safetensors"
    made(split, Voc12(), commit="a1")
    made(net, Classifier(weights="vit", image_size=224), [split, data], commit="b2")
    made(maps, Seeds(classifier="net"), [split, net], commit="b2")
    made(psa, Affinity(seeds="mine", weights="resnet"), [split, maps, "data/weights/resnet.safetensors"], commit=None)
    made(deeplab, Segmenter(labels="mine"), [split, psa, maps], commit="c3+")
    for content, source in ((SEEDS, maps), (VAL, deeplab)):
        path = f"{results}/metrics/{content['stage']}/mine.{content['split']}.json"
        write_json(path, content)
        made(path, PseudoLabels(seeds="mine"), [split, source], commit="c3+")
    return [f"{results}/metrics/seeds/mine.train.json", f"{results}/metrics/predictions/mine.val.json"]


def test_a_row_knows_what_it_was_made_from(run):
    rows = (Row("ACR*", seeds="mine"), Row("ACR", predictions="mine"))
    star, ours = build_table("mine", rows, *read_metrics(run)).to_dict("records")
    assert (star["truth"], star["backbone"], star["resolution"]) == ("SegmentationClass", "vit_base_r50_s16_384", "224")
    assert (star["weights"], star["commit"]) == ("vit 01234567", "a1, b2, c3+")
    assert ours["backbone"] == "vit_base_r50_s16_384, resnet50, resnet101"
    assert ours["weights"] == "vit 01234567, resnet 01234567, none"
    assert ours["commit"] == "a1, b2, unknown, c3+"


def test_results_without_provenance_leave_the_columns_out(tmp_path):
    write_json(tmp_path / "seeds.json", SEEDS)
    table = build_table("table_2", (Row("ACR", seeds="mine"),), *read_metrics([tmp_path / "seeds.json"]))
    assert table.to_dict("records")[-1]["seed"] == 35.25
    assert not {"truth", "backbone", "resolution", "weights", "commit"} & set(table)


@pytest.mark.parametrize(
    ("recipe", "truth"),
    [
        (Textures(), "generated"),
        (Voc12(masks="SegmentationClassAug"), "SegmentationClassAug"),
        (Coco14(), "instances, crowd as void"),
        (Folder(masks="photos/masks"), "photos/masks"),
        (Folder(), "none"),
    ],
)
def test_the_ground_truth_is_that_of_the_data_set(run, recipe, truth):
    made("results/voc12/splits/train.csv", recipe)
    (ours,) = build_table("mine", (Row("ACR", seeds="mine"),), *read_metrics(run)).to_dict("records")
    assert ours["truth"] == truth


def test_the_written_table_has_classes_and_provenance(run):
    recipe = canonical(Table((Row("ACR", predictions="mine"),), columns="classes"))
    write_table(name="table_10", recipe=recipe, metrics=run[1:], csv="t.csv", markdown="t.md")
    table = pd.read_csv("t.csv")
    assert table["method"].tolist() == ["CPN", "Kweon et al.", "ACR", "ACR"]
    assert table["iou_scales"].tolist()[-1] == 10.5
    assert table["truth"].tolist()[-1] == "SegmentationClass"
    assert "| initial weights |  |  |  | vit 01234567, resnet 01234567, none |" in Path("t.md").read_text(encoding="utf-8")
