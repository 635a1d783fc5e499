from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from acr.config import canonical
from acr.datasets.base import Record, Split, write_classes, write_split
from acr.figures import (
    chosen,
    panels,
    plot_classes,
    plot_confusion,
    plot_curves,
    plot_errors,
    plot_losses,
    sources_of,
    svg,
    write_figures,
)
from acr.files import write_arrays, write_json
from acr.images import read_image, write_image, write_mask
from acr.measures import identity
from acr.overlays import sheet
from acr.recipes import Seeds

SPLIT = Split("train", ("cat",), ())
GREY_IMAGE = np.full((8, 16, 3), 100, np.uint8)


def content(stage, recipe, miou, **more):
    split = Split("train", ("cat",), ())
    return {**identity(split, stage, canonical(Seeds(classifier="acr", **more)), "toy", recipe, 3), "miou": miou}


def seeds(recipe, miou, **more):
    curve = {"threshold": 0.4, "miou_fixed": miou and miou - 1, "threshold_fixed": 0.5, "curve": [miou] * 100}
    return {**content("seeds", recipe, miou, **more), **curve, "iou": {"background": 90.0, "cat": None}}


def test_some_images_are_chosen_and_always_the_same():
    records = tuple(Record(str(number), Path("image.png"), None, ()) for number in range(30))
    ids = [record.image_id for record in chosen(Split("val", (), records), 6)]
    assert len(set(ids)) == 6
    assert ids == sorted(ids, key=int)
    assert ids == [record.image_id for record in chosen(Split("val", (), records), 6)]
    assert len(chosen(Split("val", (), records[:2]), 6)) == 2


@pytest.fixture
def artefacts(tmp_path):
    write_image(tmp_path / "a.png", GREY_IMAGE)
    write_mask(tmp_path / "truth.png", np.ones((8, 16), np.uint8))
    for name in ("plain", "refined", "other"):
        write_arrays(tmp_path / f"seeds/{name}/maps.npz", [("a", np.full((1, 2, 4), 0.5, np.float16))])
    for folder in ("pseudo_labels/good", "pseudo_labels/bad", "predictions/net/val", "predictions/sharp/val"):
        write_mask(tmp_path / folder / "a.png", np.ones((8, 16), np.uint8))
    return tmp_path


def sources(folder, metrics):
    return sources_of(
        metrics,
        sorted(folder.glob("seeds/*/maps.npz")),
        sorted(folder.glob("pseudo_labels/*")),
        sorted(folder.glob("predictions/*/*")),
    )


def test_an_image_is_shown_with_the_best_of_each_stage(artefacts):
    metrics = [
        seeds("plain", 50.0, refine=False),
        seeds("refined", 40.0),
        seeds("other", 60.0, refine=False, layers=3),
        content("pseudo_labels", "bad", 40.0),
        content("pseudo_labels", "good", 60.0),
        {**content("pseudo_labels", "net", None), "stage": "predictions"},
        {**content("pseudo_labels", "sharp", 1.0), "stage": "predictions", "crf": {"iterations": 10}},
    ]
    record = Record("a", artefacts / "a.png", artefacts / "truth.png", ("cat",))
    found = panels(SPLIT, record, sources(artefacts, metrics))
    titles = ["photograph", "truth", "cat, unrefined, plain", "cat, refined, refined"]
    titles += ["pseudo label, good", "prediction, net", "with CRF, sharp"]
    assert list(found) == titles
    assert {picture.shape for picture in found.values()} == {(128, 256, 3)}


def test_an_image_is_shown_with_what_there_is(artefacts):
    found = panels(SPLIT, Record("b", artefacts / "a.png", None, ()), sources(artefacts, [seeds("other", None, refine=False)]))
    assert list(found) == ["photograph"]
    assert sources(artefacts, []) == ({}, {})


def test_curves_mark_the_best_and_the_fixed_threshold():
    axes = plot_curves([seeds("acr", 60.0), seeds("acr_star", 50.0)]).axes[0]
    lines, best, fixed = axes.lines[::3], axes.lines[1::3], axes.lines[2::3]
    assert [line.get_label() for line in lines] == ["acr: best 60.0, fixed 59.0", "acr_star: best 50.0, fixed 49.0"]
    assert [line.get_xydata().tolist() for line in best] == [[[0.4, 60.0]], [[0.4, 50.0]]]
    assert [line.get_xydata().tolist() for line in fixed] == [[[0.5, 59.0]], [[0.5, 49.0]]]
    assert {line.get_color() for line in best} == {line.get_color() for line in lines}


def test_losses_are_every_column_but_the_step_and_the_rate():
    history = pd.DataFrame({"step": [50, 100], "learning_rate": [1.0, 1.0], "loss": [2.0, 1.0], "affinity": [0.2, 0.1]})
    axes, rate = plot_losses("classifiers/acr", history).axes
    assert [line.get_label() for line in axes.lines] == ["loss", "affinity"]
    assert axes.lines[0].get_xydata().tolist() == [[50, 2], [100, 1]]
    assert axes.get_yscale() == "log"
    assert [line.get_xydata().tolist() for line in rate.lines] == [[[50, 1], [100, 1]]]


def test_right_too_much_and_too_little_add_up():
    errors = {"miou": 60.0, "false_positive": 30.0, "false_negative": 10.0}
    (axes,) = plot_errors([{**seeds("acr", 60.0), **errors}]).axes
    assert [(bar.get_x(), bar.get_width()) for bar in axes.patches] == [(0, 60), (60, 30), (90, 10)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["seeds acr (train)"]


def test_a_confusion_is_the_share_of_each_class_of_the_truth():
    counts = [[6, 2, 0], [1, 1, 0], [0, 0, 0]]  # the third class is not in the truth
    known = {**seeds("acr", 60.0), "iou": {"background": 1.0, "cat": 2.0, "dog": None}, "confusion": counts}
    (axes,) = plot_confusion(known).axes
    shares = np.asarray(axes.images[0].get_array().filled(-1))
    assert shares.tolist() == [[75, 25, 0], [50, 50, 0], [-1, -1, -1]]
    assert [text.get_text() for text in axes.texts] == ["75", "25", "50", "50"]


def test_without_truth_the_curve_says_so():
    (axes,) = plot_curves([]).axes
    assert axes.get_title() == "no image has a true mask"
    assert not axes.lines


def test_classes_are_bars_and_an_absent_class_is_none():
    axes = plot_classes([seeds("acr", 60.0), seeds("acr_star", 50.0)]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["background", "cat"]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths[0] == widths[2] == 90.0
    assert np.isnan([widths[1], widths[3]]).all()


def test_plots_are_written_alike_each_time(tmp_path):
    first, second = (svg(plot_curves([seeds("acr", 60.0)])) for _ in range(2))
    assert first == second
    assert first.startswith(b"<?xml")


def test_figures_are_written_for_the_chosen_images(artefacts):
    write_classes(artefacts / "classes.txt", ("cat",))
    record = Record("a", artefacts / "a.png", artefacts / "truth.png", ("cat",))
    for name in ("train", "val"):
        write_split(artefacts / f"{name}.csv", Split(name, ("cat",), (record,)))
    metrics = [seeds("plain", 50.0, refine=False), seeds("refined", 40.0)]
    tags = {**metrics[0], "stage": "classifiers", "recipe": "tags", "miou": None, "miou_fixed": None, "curve": None}
    for content in [*metrics, tags]:
        write_json(artefacts / f"{content['recipe']}.json", content)
    found = sources(artefacts, metrics)
    write_figures(
        train=artefacts / "train.csv",
        val=artefacts / "val.csv",
        metrics=[artefacts / f"{name}.json" for name in ("tags", "plain", "refined")],
        seeds=[artefacts / f"seeds/{name}/maps.npz" for name in ("plain", "refined")],
        pseudo_labels=[],
        predictions=[],
        train_sheets=artefacts / "figures/train",
        val_sheets=artefacts / "figures/val",
        curves=artefacts / "figures/threshold_curves.png",
    )
    assert (read_image(artefacts / "figures/train/a.png") == sheet(panels(SPLIT, record, found))).all()
    with Image.open(artefacts / "figures/threshold_curves.png") as picture:
        assert picture.size == (840, 540)
