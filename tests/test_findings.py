"""What is said of a run's numbers is what they say."""

import pandas as pd

from acr.config import canonical
from acr.datasets.base import Split
from acr.findings import answer, costs, findings, headline, results, summarise
from acr.measures import identity
from acr.paper import HEADLINE, PAPER
from acr.recipes import Predictions, PseudoLabels, Seeds

SPLIT = Split("train", ("cat", "dog"), ())


def content(stage, name, recipe, **known):
    return {**identity(SPLIT, stage, canonical(recipe) if recipe else "{}", "toy", name, 3), **known}


def seeds(name, miou, fixed, **recipe):
    return content("seeds", name, Seeds(classifier="acr", **recipe), miou=miou, miou_fixed=fixed)


CLASSIFIER = content("classifiers", "acr", None, mean_average_precision=91.26)
REFINED, PLAIN = seeds("acr", 60.0, 55.0, affinity_power=2.0), seeds("star", 50.0, 48.0, refine=False)
LABELS = content("pseudo_labels", "walked", PseudoLabels(seeds="acr"), miou=58.5)
MASKS = content("predictions", "deeplab", Predictions(segmenter="deeplab"), miou=61.0, split="val")


def test_findings_say_what_helped_and_what_did_not():
    tags, refinement, spreading, segmentation = findings([MASKS, LABELS, REFINED, PLAIN, CLASSIFIER])
    assert "91.3 mAP" in tags
    assert refinement.startswith("Affinity refinement helped")
    assert "60.0" in refinement
    assert "50.0 without (+10.0)" in refinement
    assert "55.0 and 48.0" in refinement
    assert "walked are not better than the seeds acr" in spreading
    assert "58.5 mIoU on train against 60.0" in spreading
    assert "(-1.5)" in spreading
    assert "61.0 mIoU on val, better than the 58.5" in segmentation


def test_refinement_that_hurts_is_said_in_plain_words():
    worse = seeds("acr", 40.0, 39.0)
    (sentence,) = findings([worse, PLAIN])
    assert sentence.startswith("Affinity refinement did not help")
    assert "(-10.0)" in sentence


def test_only_seeds_that_differ_in_nothing_else_are_compared():
    assert findings([seeds("acr", 60.0, 55.0, layers=3), PLAIN]) == []


def test_without_truth_nothing_is_claimed():
    unknown = content("seeds", "acr", Seeds(classifier="acr"), threshold_fixed=0.4)
    assert findings([unknown]) == ["No mIoU is known: no image has a true mask."]
    table = results([{**unknown, "images": 0}, {**unknown, "images": 0, "threshold_fixed": None}])
    assert list(table) == ["stage", "recipe", "split", "fixed threshold"]  # nothing else is known
    assert table["fixed threshold"].tolist() == ["0.40", "-"]


def test_the_summary_lists_every_recipe_in_the_order_of_the_pipeline():
    text = summarise([MASKS, LABELS, PLAIN, REFINED, CLASSIFIER])
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[1:6]] == ["classifiers", "seeds", "seeds", "pseudo", "predictions"]
    assert lines[2].split()[:5] == ["seeds", "star", "train", "-", "50.0"]
    assert "Affinity refinement helped" in text


def test_the_answer_is_one_sentence_of_the_best_of_each_stage():
    everything = [MASKS, LABELS, PLAIN, REFINED, CLASSIFIER, {**MASKS, "recipe": "worse", "miou": 3.0}]
    said = (
        "Learnt from tags alone: masks of 61.0 mIoU on val, pseudo labels of 58.5 mIoU on train, seeds of 60.0 mIoU on train."
    )
    assert answer(everything) == said
    assert answer([content("seeds", "acr", Seeds(classifier="acr"))]) == ""


def test_the_headline_has_the_papers_numbers_beside_ours():
    table = headline([MASKS, LABELS, PLAIN, REFINED, CLASSIFIER], "voc12")
    assert table[""].tolist() == ["unrefined seeds", "refined seeds", "pseudo labels", "masks"]
    assert table["mIoU"].tolist() == ["50.0", "60.0", "58.5", "61.0"]
    assert table["threshold fixed"].tolist() == ["48.0", "55.0", "-", "-"]
    assert table["the paper"].tolist() == ["59.4", "67.3", "70.8", "71.2"]
    assert table["measured on"].tolist() == ["train, 3 images"] * 3 + ["val, 3 images"]


def test_numbers_of_another_data_set_say_so():
    assert headline([MASKS], "mine")["the paper, on VOC 2012"].tolist() == ["71.2"]
    coco = headline([MASKS, LABELS], "coco14")
    assert coco["the paper"].tolist() == ["-", "45.0"]
    assert headline([content("seeds", "acr", Seeds(classifier="acr"))], "voc12").empty


def test_costs_are_added_up():
    records = [
        {"outputs": {"results/x/splits/train.csv": "", "results/x/splits/val.csv": ""}, "seconds": 1.5, "peak_memory_mb": 100},
        {"outputs": {"results/x/seeds/acr/provenance.json": ""}, "seconds": 10, "peak_memory_mb": 300},
        {"outputs": {"data/weights/deit.safetensors": ""}, "seconds": 0.25, "peak_memory_mb": 50},
    ]
    table = costs([{**record, "device": device} for record, device in zip(records, ("cpu", "H100, cpu", "cpu"), strict=True)])
    expected = pd.DataFrame(
        [
            ["results/x/splits", "1.5", 100, "cpu"],
            ["x/seeds/acr", "10.0", 300, "H100, cpu"],
            ["data/weights/deit.safetensors", "0.2", 50, "cpu"],
            ["all, one after the other", "11.8", 300, "H100, cpu"],
        ],
        columns=["made", "seconds", "MiB", "device"],
    )
    pd.testing.assert_frame_equal(table, expected)


def printed(table: str, method: str, column: str) -> float:
    return next(row[column] for row in PAPER[table].rows() if row["method"] == method)


def test_the_headline_is_what_the_papers_tables_print():
    assert HEADLINE["voc12"] == {
        "unrefined seeds": printed("table_2", "ACR*", "seed"),
        "refined seeds": printed("table_2", "ACR", "seed"),
        "pseudo labels": printed("table_2", "ACR", "pseudo"),
        "masks": printed("table_3", "ACR", "val"),
    }
    assert HEADLINE["coco14"] == {"masks": printed("table_1", "ACR", "val")}
