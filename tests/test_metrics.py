import json

import cv2
import numpy as np
import pytest

from acr import classifiers
from acr.classifiers import measure_classifier
from acr.config import canonical
from acr.datasets.base import Record, Split, write_classes, write_split
from acr.files import read_json, write_arrays
from acr.images import write_image, write_mask
from acr.measures import THRESHOLDS, Confusion, confusion, otsu_threshold
from acr.metrics import measure_masks, measure_seeds
from acr.recipes import Predictions, PseudoLabels, Seeds

CLASSES = ("cat", "dog", "eel")
TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [255, 0, 2, 2]], np.uint8)


def brute_force(truth, maps, indices, classes):
    """The confusion at every threshold, by argmax over the background's constant and the maps."""
    values = np.array([0, *(index + 1 for index in indices)], np.uint8)
    planes = [np.concatenate([np.full((1, *truth.shape), t, np.float32), maps]) for t in THRESHOLDS]
    return np.stack([confusion(truth, values[plane.argmax(axis=0)], classes).counts for plane in planes])


@pytest.fixture
def data(tmp_path):
    """Two images with the same mask and one without, as a split csv."""
    for name in ("a", "b"):
        write_mask(tmp_path / f"truth/{name}.png", TRUTH)
    for name in ("a", "b", "c"):
        write_image(tmp_path / f"images/{name}.png", np.zeros((3, 4, 3), np.uint8))
    masks = {"a": tmp_path / "truth/a.png", "b": tmp_path / "truth/b.png", "c": None}
    records = tuple(Record(n, tmp_path / f"images/{n}.png", mask, ("cat", "dog")) for n, mask in masks.items())
    write_classes(tmp_path / "classes.txt", CLASSES)
    write_split(tmp_path / "train.csv", Split("train", CLASSES, records))
    return tmp_path


def seeds_of(folder, maps):
    write_arrays(folder / "maps.npz", maps.items())
    measure_seeds(
        split=folder / "train.csv",
        maps=folder / "maps.npz",
        recipe=canonical(Seeds(classifier="acr")),
        dataset="toy",
        name="acr",
        output=folder / "out.json",
    )
    return read_json(folder / "out.json")


def masks_of(folder, masks, stage="predictions", recipe=None):
    for name, mask in masks.items():
        write_mask(folder / f"masks/{name}.png", mask)
    recipe = recipe or Predictions(segmenter="deeplab")
    arguments = {"recipe": canonical(recipe), "dataset": "toy", "name": "deeplab", "output": folder / "out.json"}
    measure_masks(split=folder / "train.csv", masks=folder / "masks", stage=stage, **arguments)
    return read_json(folder / "out.json")


def test_seeds_are_measured_at_the_size_of_the_mask(data):
    rng = np.random.default_rng(0)
    maps = {name: rng.random((2, 2, 2)).astype(np.float16) for name in "abc"}
    result = seeds_of(data, maps)
    total = np.zeros((100, 4, 4), np.int64)
    for name in "ab":
        planes = np.stack([cv2.resize(plane.astype(np.float32), (4, 3)) for plane in maps[name]])
        total += brute_force(TRUTH, planes, (0, 1), 4)
    expected = [Confusion(counts).miou() for counts in total]
    best = Confusion(total[int(np.argmax(expected))])
    assert result["curve"] == expected
    assert result["miou"] == max(expected)
    assert result["threshold"] == np.argmax(expected) / 100
    assert result["threshold_fixed"] == otsu_threshold(maps.values())
    assert result["miou_fixed"] == expected[round(100 * result["threshold_fixed"])]
    assert result["iou"]["eel"] is None
    assert result["iou"]["cat"] == pytest.approx(100 * best.iou()[1])
    assert list(result["iou"]) == ["background", *CLASSES]
    assert result["false_positive"] == best.false_positive()
    assert result["false_negative"] == best.false_negative()
    keys = ("dataset", "split", "stage", "recipe", "images", "crf", "scales")
    assert [result[key] for key in keys] == ["toy", "train", "seeds", "acr", 2, None, [1.0]]
    assert result["provenance"]["recipe"] == json.loads(canonical(Seeds(classifier="acr")))


def test_without_masks_the_fixed_threshold_is_all_that_is_known(data):
    lines = (data / "train.csv").read_text().splitlines()
    (data / "train.csv").write_text("\n".join([lines[0], lines[3]]) + "\n")
    result = seeds_of(data, {"c": np.array([[[0.1, 0.9]], [[0.2, 0.3]]], np.float16)})
    assert result["images"] == 0
    assert 0.2 <= result["threshold_fixed"] < 0.9
    unknown = ("miou", "iou", "false_positive", "false_negative", "threshold", "miou_fixed", "curve")
    assert all(result[key] is None for key in unknown)


def test_masks_are_measured(data):
    other = TRUTH.copy()
    other[TRUTH == 255] = 1  # void truth: does not count
    other[0, 0] = 2
    result = masks_of(data, {"a": np.where(TRUTH == 255, 0, TRUTH).astype(np.uint8), "b": other})
    # 10 background pixels of which one is called dog, 8 of cat, 4 of dog
    assert result["iou"] == pytest.approx({"background": 90.0, "cat": 100.0, "dog": 80.0, "eel": None})
    assert result["miou"] == pytest.approx(90)
    assert result["images"] == 2
    assert result["scales"] == [0.5, 0.75, 1.0]
    assert result["crf"]["bilateral_xy"] == 67
    assert result["curve"] is None


def test_pseudo_labels_know_no_scales(data):
    whole = np.where(TRUTH == 255, 0, TRUTH).astype(np.uint8)
    result = masks_of(data, {"a": whole, "b": whole}, "pseudo_labels", PseudoLabels(seeds="acr"))
    assert (result["miou"], result["scales"], result["crf"], result["stage"]) == (100.0, None, None, "pseudo_labels")


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"a": np.zeros((3, 4), np.uint8)}, r"b\.png is missing"),
        ({"a": np.zeros((3, 4), np.uint8), "b": np.zeros((4, 3), np.uint8)}, r"b\.png is \(4, 3\) .* its truth is \(3, 4\)"),
        ({"a": np.full((3, 4), 4, np.uint8)}, r"a\.png holds the value 4, but .* from 0 to 3"),
        ({"a": np.full((3, 4), 255, np.uint8)}, r"a\.png holds void"),
    ],
)
def test_masks_that_cannot_be_measured_are_refused(data, masks, message):
    with pytest.raises(ValueError, match=message):
        masks_of(data, masks)
    assert not (data / "out.json").exists()


def test_a_truth_beyond_the_classes_is_refused(data):
    write_mask(data / "truth/a.png", np.full((3, 4), 9, np.uint8))
    with pytest.raises(ValueError, match=r"truth.a\.png holds the value 9"):
        seeds_of(data, {name: np.zeros((2, 1, 1), np.float16) for name in "abc"})


def test_a_classifier_is_measured_on_every_image(data, monkeypatch):
    monkeypatch.setattr(classifiers, "predict_tags", lambda split, model, how: np.array([[1.0, 3, 0], [2, 2, 0], [3, 1, 0]]))
    lines = (data / "train.csv").read_text().splitlines()
    lines[1] = lines[1].replace("cat dog", "cat")  # the image with the highest score for dog is none
    (data / "train.csv").write_text("\n".join(lines) + "\n")
    arguments = {"recipe": "{}", "execution": {}, "dataset": "toy", "name": "acr", "output": str(data / "out.json")}
    measure_classifier(split=str(data / "train.csv"), model="model.safetensors", **arguments)
    result = read_json(data / "out.json")
    assert result["average_precision"] == pytest.approx({"cat": 100, "dog": 100 * (1 / 2 + 2 / 3) / 2, "eel": None})
    assert result["mean_average_precision"] == pytest.approx((100 + 100 * (1 / 2 + 2 / 3) / 2) / 2)
    assert (result["images"], result["stage"], result["miou"]) == (3, "classifiers", None)
