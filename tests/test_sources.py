"""From a download, or from a folder of one's own, to the metrics and the report: snakemake whole, on every kind of data set."""

import csv
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from acr.datasets.base import read_skipped, read_split
from acr.files import read_json
from acr.images import palette, read_mask
from tests import small_archives
from tests.files_page import faults
from tests.odd import LABELS, scene
from tests.running import MICRO, ROOT, snakemake
from tests.server import Server

pytestmark = pytest.mark.slow


def _configuration(path: Path, data: dict, **execution: object) -> list[Path]:
    """The micro recipes but for what only fills tables, on other data."""
    content = yaml.safe_load(MICRO.read_text())
    content["datasets"]["micro"] = data
    content["execution"] |= execution
    for section, names in {"classifiers": ["untrained"], "seeds": ["untrained"], "predictions": ["deeplab"]}.items():
        for name in names:
            del content[section][name]
    content["predictions"]["deeplab"] = {"segmenter": "deeplab", "scales": [1.0], "crf": None}
    del content["predictions"]["deeplab_crf"], content["tables"]
    path.write_text(yaml.safe_dump(content))
    return [path]


def _run(folder: Path, data: dict, *options: str, checkout: Path = ROOT, **execution: object) -> Path:
    """The finished results, of which every file is as docs/files.md says."""
    config = _configuration(folder / "config.yaml", data, **execution)
    finished = snakemake(folder, *options, config=config, checkout=checkout)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert faults(folder) == []
    return folder / "results" / "micro"


def _masks(split) -> dict[str, np.ndarray]:
    return {record.image_id: read_mask(record.mask) for record in split.records if record.mask}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server({})
    yield server
    server.close()


# ---- VOC -----------------------------------------------------------------------------------------------------------------


def test_voc_and_sbd_from_nothing_to_metrics_and_a_submission(tmp_path, monkeypatch, server):
    packed = {"voc.tar": small_archives.voc(), "sbd.tgz": small_archives.sbd(), "test.tar": small_archives.voc_test()}
    server.files = packed
    ways = {"voc.tar": ("missing", "page", "cut"), "sbd.tgz": ("wrong", "busy"), "test.tar": ("short", "forgetful")}
    archives = {
        part: small_archives.described(packed[name], *(server.url(f"{how}/{name}") for how in ways[name]))
        for part, name in (("trainval", "voc.tar"), ("sbd", "sbd.tgz"), ("test", "test.tar"))
    }
    images = {"train": 2, "val": 2, "train_aug": 3, "test": 3}
    checkout = small_archives.checkout(tmp_path / "checkout", {"voc12": {"archives": archives, "images": images}})
    data = {"kind": "voc12", "root": "data/devkit", "train": "train_aug", "masks": "SegmentationClassAug"}
    monkeypatch.chdir(tmp_path)
    results = _run(tmp_path, data, "--", "all", "voc_test_submission", checkout=checkout, shards=2)

    recorded = read_json(results / "splits/source.json")["archives"]
    assert recorded == {
        "VOCtrainval_11-May-2012.tar": archives["trainval"]["checksum"],
        "benchmark.tgz": archives["sbd"]["checksum"],
    }
    train, val = read_split(results / "splits/train_aug.csv"), read_split(results / "splits/val.csv")
    assert [(record.image_id, record.labels) for record in train.records] == [("a", ("cat",)), ("b", ("dog",)), ("e", ("dog",))]
    masks = _masks(train)
    assert (masks["a"] == 255).any()  # VOC's own, though SBD has one too
    assert set(np.unique(masks["a"])) == {0, LABELS["cat"], 255}
    np.testing.assert_array_equal(masks["e"], scene("dog")[1])  # SBD's
    assert "train_aug: 3 images, as published" in (tmp_path / "logs/micro/splits/splits.log").read_text()

    measured = {path.stem: read_json(path) for path in (results / "metrics").glob("p*/*.json") if "provenance" not in path.name}
    assert {name: content["images"] for name, content in measured.items()} == {"acr.train_aug": 3, "deeplab.val": 2}
    assert all(content["miou"] is not None for content in measured.values())
    assert len(val.records) == 2

    with tarfile.open(results / "submissions/deeplab.tgz") as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    folder = "results/VOC2012/Segmentation/comp6_test_cls"
    assert sorted(members) == [f"{folder}/t{number}.png" for number in (1, 2, 3)]
    (tmp_path / "out.png").write_bytes(members[f"{folder}/t3.png"])
    picture = Image.open(tmp_path / "out.png")
    assert (picture.mode, picture.size) == ("P", (80, 70))
    assert bytes(picture.getpalette()) == palette().tobytes()
    assert set((tmp_path / "data/devkit").iterdir()) == {
        tmp_path / "data/devkit" / name for name in ("VOC2012", "benchmark_RELEASE", "VOC2012test", ".archives.json")
    }
    asked = {path for path, _ in server.requests}
    assert asked == {f"{how}/{name}" for name, hows in ways.items() for how in hows}


# ---- COCO ----------------------------------------------------------------------------------------------------------------


def test_coco_from_a_server_and_a_shelf_to_metrics(tmp_path, monkeypatch, server):
    names = {"annotations": "annotations_trainval2014.zip", "train": "train2014.zip", "val": "val2014.zip"}
    shelf, packed = tmp_path / "shelf", small_archives.coco()
    shelf.mkdir()
    (shelf / names["val"]).write_bytes(packed["val"])
    server.files = {names[part]: content for part, content in packed.items() if part != "val"}
    ways = {"annotations": ("chunked", "busy"), "train": ("missing", "cut"), "val": ("missing",)}
    archives = {
        part: small_archives.described(packed[part], *(server.url(f"{how}/{names[part]}") for how in hows))
        for part, hows in ways.items()
    }
    published = {"coco14": {"archives": archives, "images": {"train": 3, "val": 1}}}
    checkout = small_archives.checkout(tmp_path / "checkout", published)
    monkeypatch.chdir(tmp_path)
    data = {"kind": "coco14", "root": "data/coco"}
    results = _run(tmp_path, data, checkout=checkout, shards=3, mirrors=[str(shelf)])

    train = read_split(results / "splits/train.csv")
    assert train.classes == ("stop_sign", "cat", "dog")
    first = "COCO_train2014_000000000001"
    assert [record.labels for record in train.records] == [("stop_sign", "cat"), ("dog",), ("cat",)]
    mask = _masks(train)[first]
    assert mask[30, 40] == 2  # the cat lies over the crowd
    assert (mask[5, 5], mask[5, 6], mask[59, 0]) == (255, 0, 0)
    left_out = [(item.image_id, item.reason) for item in read_skipped(results / "splits/skipped.csv")]
    assert left_out == [
        (f"COCO_{name}_00000000000{n}", "it has no annotation") for name, n in (("train2014", 4), ("val2014", 2))
    ]
    assert "2 photographs were left out (2: it has no annotation)" in (results / "summary.txt").read_text()
    assert read_json(results / "metrics/predictions/deeplab.val.json")["images"] == 1
    assert [path.name for path in shelf.iterdir()] == [names["val"]]
    asked = {path for path, _ in server.requests}
    assert asked == {f"{how}/{names[part]}" for part in ("annotations", "train") for how in ways[part]}
    found = {path.name for path in (tmp_path / "data/coco").iterdir()}
    assert found == {"annotations", "train2014", "val2014", ".archives.json"}


# ---- a folder ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def holiday(tmp_path) -> Path:
    """Photographs of cats and dogs in sub-folders, under names that people give, and a table of what is in them."""
    rows = [("image", "labels")]
    for number in range(8):
        label = ("cat", "dog")[number % 2]
        path = tmp_path / "holiday" / f"day {number // 4}" / f"Käse & {label} ({number}).jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene(label)[0].save(path)
        if number < 6:
            rows.append((path.name, label))
    with (tmp_path / "tags.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([*rows, ("nothing.png", "")])
    Image.new("RGB", (80, 60), "white").save(tmp_path / "holiday" / "nothing.png")
    return tmp_path


def test_photographs_of_ones_own_without_masks_become_masks_of_all(holiday, monkeypatch):
    monkeypatch.chdir(holiday)
    data = {"kind": "folder", "root": "holiday", "labels": "tags.csv"}
    results = _run(holiday, data)
    whole = read_split(results / "splits/all.csv")
    assert len(whole.records) == 9
    made = {path.stem for path in (results / "predictions/deeplab/all").glob("*.png")}
    assert made == {record.image_id for record in whole.records}
    assert all(read_mask(results / f"predictions/deeplab/all/{name}.png").shape == (60, 80) for name in made)
    seeds = read_json(results / "metrics/seeds/acr.train.json")
    assert seeds["miou"] is None
    assert 0 <= seeds["threshold_fixed"] < 1
    page = (results / "report.html").read_text()
    assert "No mIoU is known: no image has a true mask" in page
    assert page.count("<img") >= 8
    assert "mIoU, fixed" not in page  # tables of nothing
    assert "2 photographs were left out (2: nothing says what is in it)" in (results / "summary.txt").read_text()

    # photographs and labels that are added are seen; a touched one is not
    (holiday / "tags.csv").touch()
    config = [holiday / "config.yaml"]
    assert "Nothing to be done" in snakemake(holiday, "--dry-run", config=config).stdout
    shutil.copy(holiday / "holiday/nothing.png", holiday / "holiday/more.png")
    assert "rule splits:" in snakemake(holiday, "--dry-run", config=config).stdout


def test_one_class_with_masks_is_measured(holiday, monkeypatch):
    monkeypatch.chdir(holiday)
    with (holiday / "tags.csv").open("w", newline="") as file:
        rows = [(path.stem, int("dog" in path.stem)) for path in sorted((holiday / "holiday").rglob("*.jpg"))]
        csv.writer(file).writerows([("image", "dog"), *rows])
    for path in (holiday / "holiday").rglob("*.jpg"):
        mask = (scene("dog")[1] > 0).astype(np.uint8) * ("dog" in path.stem)
        (holiday / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(holiday / "masks" / f"{path.stem}.png")
    data = {"kind": "folder", "root": "holiday", "labels": "tags.csv", "masks": "masks", "val_share": 0.3}
    results = _run(holiday, data)
    assert read_split(results / "splits/train.csv").classes == ("dog",)
    scores = read_json(results / "metrics/predictions/deeplab.val.json")
    assert set(scores["iou"]) == {"background", "dog"}
    assert scores["miou"] is not None
