"""Exports read back with the libraries they are for, value for value, of a small run laid out by hand and of a real one."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch.nn.functional import interpolate

from acr.__main__ import main
from acr.datasets.base import Record, Split, read_split, write_classes, write_split
from acr.exports import export
from acr.files import PROVENANCE, Arrays, write_arrays, write_json
from acr.images import palette, read_image, read_mask, write_image, write_mask
from acr.provenance import source, write_provenance
from acr.segmenters import read_segmenter, scores
from acr.shapes import VOID
from tests.pages import blocks, sections
from tests.running import ROOT

CLASSES = ("cat", "dog", "wine.glass", "tv")
SEEDS, LABELS, PREDICTIONS = (f"results/toy/{name}" for name in ("seeds/acr", "pseudo_labels/acr", "predictions/net/train"))
RECORDS = (  # an odd name, no class, and a grid and a photograph of other shapes
    Record("a b.c'é", Path("data/images/first 1.png"), None, ("tv", "dog")),
    Record("2007_000032", Path("data/images/2.png"), None, ()),
    Record("日本%s#", Path("data/images/3.png"), None, ("wine.glass",)),
)
SIZES, GRIDS = ((37, 53), (20, 8), (9, 64)), ((5, 7), (1, 1), (3, 8))
COST = {"device": "cpu", "seconds": 1.0, "peak_memory_mb": 1}
FORMATS = [(SEEDS, "dictionaries"), (SEEDS, "heat-maps"), (LABELS, "coco"), (PREDICTIONS, "mmsegmentation")]


def lay_out(root: Path, split: Split) -> None:
    """A run in `root`, the working directory: a split, its photographs, seeds, and masks with every class and void."""
    random = np.random.default_rng(0)
    write_classes(root / "results/toy/splits/classes.txt", split.classes)
    write_split(root / "results/toy/splits/train.csv", split)
    maps = []
    for record, size, grid in zip(split.records, SIZES, GRIDS, strict=True):
        write_image(root / record.image, random.integers(0, 256, (*size, 3), np.uint8))
        maps.append((record.image_id, random.random((len(record.labels), *grid)).astype(np.float16)))
        for folder in (LABELS, PREDICTIONS):
            values = [0, VOID, *(index + 1 for index in split.class_indices(record))]
            write_mask(root / folder / f"{record.image_id}.png", random.choice(np.array(values, np.uint8), size))
    write_arrays(root / SEEDS / "maps.npz", maps)
    for folder, outputs in ((SEEDS, [f"{SEEDS}/maps.npz"]), (LABELS, []), (PREDICTIONS, [])):
        write_provenance(f"{folder}/{PROVENANCE}", source(None, ["results/toy/splits/train.csv"], None), outputs, COST)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.chdir(folder)
    lay_out(folder, Split("train", CLASSES, RECORDS))
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def by_torch(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An independent upsampling of "K h w" maps."""
    return interpolate(torch.from_numpy(maps.astype(np.float32))[None], size, mode="bilinear", align_corners=False)[0].numpy()


def test_dictionaries_are_read_as_the_field_reads_them(root: Path) -> None:
    export(SEEDS, "dictionaries", "out")
    assert set(files(root / "out")) == {f"{record.image_id}.npy" for record in RECORDS}
    archive = Arrays(f"{SEEDS}/maps.npz")
    for record, size, indices in zip(RECORDS, SIZES, ((1, 3), (), (2,)), strict=True):
        maps = np.load(f"out/{record.image_id}.npy", allow_pickle=True).item()
        assert tuple(maps) == indices
        assert all(type(index) is int for index in maps)
        for row, plane in zip(archive[record.image_id], maps.values(), strict=True):
            assert plane.dtype == np.float32
            assert 0 <= plane.min() <= plane.max() <= 1
            np.testing.assert_allclose(plane, by_torch(row[None], size)[0], atol=1e-5)


def test_heat_maps_hold_the_maps_in_255_steps(root: Path) -> None:
    export(SEEDS, "heat-maps", "out")
    names = {"a b.c'é.dog.png": (0, 0), "a b.c'é.tv.png": (0, 1), "日本%s#.wine.glass.png": (2, 0)}
    assert set(files(root / "out")) == set(names)
    archive = Arrays(f"{SEEDS}/maps.npz")
    for name, (place, row) in names.items():
        picture = Image.open(f"out/{name}")
        assert picture.mode == "L"
        expected = 255 * by_torch(archive[RECORDS[place].image_id][row : row + 1], SIZES[place])[0]
        assert np.abs(np.array(picture) - expected).max() < 0.501


@pytest.mark.parametrize(("folder", "description"), [(LABELS, "pseudo labels"), (PREDICTIONS, "predictions")])
def test_coco_gives_back_every_pixel_of_a_class(root: Path, capsys, folder: str, description: str) -> None:
    export(folder, "coco", "out")
    assert set(files(root / "out")) == {"instances_train.json"}
    coco = COCO("out/instances_train.json")
    assert [(category["id"], category["name"]) for category in coco.loadCats(coco.getCatIds())] == [*enumerate(CLASSES, 1)]
    assert coco.getImgIds() == [1, 2, 3]
    for number, (record, size) in enumerate(zip(RECORDS, SIZES, strict=True), start=1):
        truth = read_mask(f"{folder}/{record.image_id}.png")
        (image,) = coco.loadImgs(number)
        assert (image["file_name"], image["height"], image["width"]) == (record.image.name, *size)
        painted = np.zeros_like(truth)
        for annotation in coco.loadAnns(coco.getAnnIds(number)):
            region = coco.annToMask(annotation).astype(bool)
            rows, columns = region.nonzero()
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert (annotation["area"], annotation["bbox"], annotation["iscrowd"]) == (region.sum(), box, 0)
            assert not painted[region].any()
            painted[region] = annotation["category_id"]
        np.testing.assert_array_equal(painted, np.where(truth == VOID, 0, truth))
    assert [coco.getAnnIds(number) for number in (1, 2, 3)] == [[1, 2], [], [3]]
    coco.info()
    assert capsys.readouterr().out.splitlines()[-1] == f"description: {description} of train"


def test_coco_without_any_class_is_still_json(root: Path) -> None:
    for record, size in zip(RECORDS, SIZES, strict=True):
        write_mask(f"{LABELS}/{record.image_id}.png", np.full(size, VOID, np.uint8))
    export(LABELS, "coco", "out")
    assert json.loads(Path("out/instances_train.json").read_text())["annotations"] == []


def test_mmsegmentation_pairs_photographs_and_masks(root: Path) -> None:
    export(PREDICTIONS, "mmsegmentation", "out")
    pairs = {f"{kind}/train/{record.image_id}.png" for kind in ("img_dir", "ann_dir") for record in RECORDS}
    assert set(files(root / "out")) == {"classes.txt", "config.py", *pairs}
    for record in RECORDS:
        assert Path(f"out/img_dir/train/{record.image_id}.png").read_bytes() == record.image.read_bytes()
        annotation = Image.open(f"out/ann_dir/train/{record.image_id}.png")
        assert annotation.mode == "P"
        np.testing.assert_array_equal(np.array(annotation), np.array(Image.open(f"{PREDICTIONS}/{record.image_id}.png")))
        assert VOID in np.array(annotation)
        np.testing.assert_array_equal(np.reshape(annotation.getpalette(), (-1, 3)), palette())
    assert Path("out/classes.txt").read_text().splitlines() == ["background", *CLASSES]
    values = {}
    exec(Path("out/config.py").read_text(), values)
    assert values["dataset"] == {
        "type": "BaseSegDataset",
        "data_root": "{{ fileDirname }}",
        "data_prefix": {"img_path": "img_dir/train", "seg_map_path": "ann_dir/train"},
        "img_suffix": ".png",
        "seg_map_suffix": ".png",
        "metainfo": {"classes": ("background", *CLASSES), "palette": palette()[:5].tolist()},
        "ignore_index": 255,
        "reduce_zero_label": False,
    }


def test_copied_photographs_are_files_of_their_own(root: Path) -> None:
    original = Path("data/images/2.png").read_bytes()
    export(PREDICTIONS, "mmsegmentation", "out")
    with Path("out/img_dir/train/2007_000032.png").open("wb") as stream:
        stream.write(b"edited in place")
    assert Path("data/images/2.png").read_bytes() == original


@pytest.mark.parametrize(("folder", "form"), FORMATS)
def test_a_run_may_have_moved(root: Path, tmp_path: Path, monkeypatch, folder: str, form: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    export(folder, form, tmp_path / "here")
    root.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "elsewhere")
    export(tmp_path / "moved" / folder, form, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "moved" / folder)
    export(".", form, tmp_path / "inside")
    assert files(tmp_path / "here") == files(tmp_path / "there") == files(tmp_path / "inside")


def test_results_may_be_copied_without_the_data(root: Path, tmp_path: Path) -> None:
    export(SEEDS, "dictionaries", "out")
    shutil.copytree("results/toy", tmp_path / "copy" / "renamed")
    export(tmp_path / "copy/renamed/seeds/acr", "dictionaries", "again")
    assert files(root / "out") == files(root / "again")


@pytest.mark.parametrize(("folder", "form"), FORMATS)
def test_an_empty_folder_may_be_there(root: Path, folder: str, form: str) -> None:
    Path("out").mkdir()
    main(["export", folder, "--as", form, "-o", "out"])
    assert files(root / "out")


def refused(folder: str, form: str, sentence: str) -> None:
    """The command ends with one sentence and leaves nothing behind."""
    before = files(Path())
    with pytest.raises(SystemExit) as ended:
        main(["export", folder, "--as", form, "-o", "out"])
    assert re.fullmatch(f"error: {sentence}", ended.value.code), ended.value.code
    assert files(Path()) == before
    assert not list(Path().glob(".unfinished*"))


@pytest.mark.parametrize(
    ("folder", "form", "sentence"),
    [
        (SEEDS, "coco", f"{SEEDS} holds seeds, which have no format 'coco'; it must be one of dictionaries, heat-maps"),
        (LABELS, "x", f"{LABELS} holds pseudo labels, which have no format 'x'; it must be one of coco, mmsegmentation"),
        (PREDICTIONS, "heat-maps", f"{PREDICTIONS} holds predictions, which have no format .* coco, mmsegmentation"),
        (SEEDS, "onnx", f"{SEEDS} holds seeds, which have no format 'onnx'; it must be one of dictionaries, heat-maps"),
        ("results/toy/split", "coco", "results/toy/split holds splits, for which there is no format; give a folder such as .*"),
        ("segmenter", "coco", "segmenter holds a segmenter, which has no format 'coco'; it must be one of onnx"),
        ("classifier", "onnx", "classifier holds a classifier, which has no format 'onnx'; give a folder such as .*"),
        ("results", "coco", "results has no provenance.json; give a folder such as results/NAME/seeds/RECIPE, .*"),
        ("never", "coco", "never has no provenance.json; give a folder such as results/NAME/seeds/RECIPE, .*"),
    ],
)
def test_what_has_no_such_format_is_one_sentence(root: Path, folder: str, form: str, sentence: str) -> None:
    (root / "results/toy/split").mkdir()
    write_provenance(f"results/toy/split/{PROVENANCE}", source(None, [], None), ["results/toy/splits/train.csv"], COST)
    for kind in ("segmenter", "classifier"):
        write_json(root / kind / "model.json", {"kind": kind})
    refused(folder, form, sentence)


@pytest.mark.parametrize(("folder", "form"), FORMATS)
def test_what_is_there_is_not_overwritten(root: Path, folder: str, form: str) -> None:
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    refused(folder, form, "out exists and is no empty folder; name a new one")
    shutil.rmtree("out")
    Path("out").write_text("mine")
    refused(folder, form, "out exists and is no empty folder; name a new one")


@pytest.mark.parametrize("form", ["coco", "mmsegmentation"])
def test_masks_that_do_not_fit_are_one_sentence(root: Path, form: str) -> None:
    path = Path(LABELS, "2007_000032.png")
    write_mask(path, np.full(SIZES[1], 5, np.uint8))
    refused(LABELS, form, rf"mask .*{path} holds the value 5, but the values of 4 classes are .*")
    path.write_bytes(b"")
    refused(LABELS, form, rf".*{path} cannot be read as an image \(it is empty\).*")
    path.unlink()
    refused(LABELS, form, rf".*{path} does not exist, but an image was expected there; .*")


def test_a_mask_of_another_size_makes_no_pair(root: Path) -> None:
    write_mask(Path(LABELS, "2007_000032.png"), np.zeros((8, 20), np.uint8))
    refused(LABELS, "mmsegmentation", r"mask .*2007_000032.png is 8 x 20 pixels, but its image is 20 x 8; .*")


def test_photographs_of_several_kinds_make_no_data_set(root: Path) -> None:
    split = read_split("results/toy/splits/train.csv")
    first = Record("a b.c'é", Path("data/images/1.jpg"), None, ())
    write_split("results/toy/splits/train.csv", Split("train", CLASSES, (first, *split.records[1:])))
    sentence = "the photographs of 'train' are .jpg, .png, but mmsegmentation takes one kind; convert the others"
    refused(LABELS, "mmsegmentation", sentence)


@pytest.mark.parametrize("form", ["dictionaries", "heat-maps"])
def test_maps_that_do_not_fit_are_one_sentence(root: Path, form: str) -> None:
    Path("data/images/3.png").unlink()
    refused(SEEDS, form, r"data/images/3.png does not exist, but an image was expected there; check the data set's root")
    Path("results/toy/splits/train.csv").write_text("image_id,image,mask,labels\na b.c'é,data/images/2.png,,tv\n")
    refused(SEEDS, form, r'.*maps.npz holds 2 maps of "a b.c\'é", but the split gives it 1 labels; run snakemake again')


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (("b/c", "d"), "split 'train' with the names of its classes lists the image 'a.b/c', which cannot name files; .*"),
        (("b.c", "c"), "two images and classes would both be written to a.b.c.png; rename one of the classes"),
    ],
)
def test_names_of_heat_maps_that_cannot_be_are_one_sentence(root: Path, classes: tuple[str, ...], sentence: str) -> None:
    ids = ("a", "a.b", "c")
    records = [Record(name, Path(f"{name}.png"), None, (label,)) for name, label in zip(ids, (*classes, "d"), strict=True)]
    lay_out(root, Split("train", tuple(dict.fromkeys((*classes, "d"))), tuple(records)))
    refused(SEEDS, "heat-maps", sentence)


def test_a_real_run_is_exported(run: Path, tmp_path: Path) -> None:
    results = run / "results" / "micro"
    for folder, form in (("seeds/acr", "dictionaries"), ("pseudo_labels/acr", "coco"), ("predictions/deeplab/val", "coco")):
        main(["export", str(results / folder), "--as", form, "-o", str(tmp_path / folder)])
    main(["export", str(results / "pseudo_labels/acr"), "--as", "mmsegmentation", "-o", str(tmp_path / "pairs")])
    train = read_split(results / "splits/train.csv")
    archive = Arrays(results / "seeds/acr/maps.npz")
    for record in train.records:
        maps = np.load(tmp_path / "seeds/acr" / f"{record.image_id}.npy", allow_pickle=True).item()
        assert tuple(maps) == train.class_indices(record)
        np.testing.assert_allclose([*maps.values()], by_torch(archive[record.image_id], (64, 64)), atol=1e-5)
        pair = [tmp_path / "pairs" / kind / "train" / f"{record.image_id}.png" for kind in ("img_dir", "ann_dir")]
        originals = [run / record.image, results / "pseudo_labels/acr" / f"{record.image_id}.png"]
        for copied, original in zip(pair, originals, strict=True):
            np.testing.assert_array_equal(np.array(Image.open(copied)), np.array(Image.open(original)))
    for stage, name in (("pseudo_labels/acr", "train"), ("predictions/deeplab/val", "val")):
        coco = COCO(str(tmp_path / stage / f"instances_{name}.json"))
        for number, record in enumerate(read_split(results / f"splits/{name}.csv").records, start=1):
            painted = np.zeros((64, 64), int)
            for annotation in coco.loadAnns(coco.getAnnIds(number)):
                painted += coco.annToMask(annotation) * annotation["category_id"]
            np.testing.assert_array_equal(painted, read_mask(results / stage / f"{record.image_id}.png"))


def test_exporting_loads_no_torch() -> None:
    code = "import sys, acr.exports; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_photographs_of_one_name_in_two_folders_are_told_apart_in_coco(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    moved = ["x/one.png", "y/z/one.png", "y/one.png"]
    records = tuple(replace(record, image=Path("deep", name)) for record, name in zip(RECORDS, moved, strict=True))
    lay_out(tmp_path, Split("train", CLASSES, records))
    export(LABELS, "coco", "out")
    assert [image["file_name"] for image in json.loads(Path("out/instances_train.json").read_text())["images"]] == moved


# ---- networks ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def onnx(varied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with OUT, the export of a segmenter of which there is nothing but the network and its description."""
    folder = tmp_path_factory.mktemp("onnx")
    shutil.copytree(varied, folder / "copied")
    assert set(files(folder / "copied")) == {"model.json", "model.safetensors"}
    (folder / "OUT").mkdir()
    main(["export", str(folder / "copied"), "--as", "onnx", "-o", str(folder / "OUT")])
    return folder


@pytest.mark.slow
def test_a_segmenter_becomes_two_files(onnx: Path) -> None:
    assert set(files(onnx / "OUT")) == {"model.json", "model.onnx"}
    assert (onnx / "OUT/model.json").read_bytes() == (onnx / "copied/model.json").read_bytes()
    with pytest.raises(ValueError, match=r"OUT exists and is no empty folder; name a new one$"):
        export(onnx / "copied", "onnx", onnx / "OUT")


@pytest.mark.slow
def test_what_the_page_does_without_torch_is_what_torch_does(onnx: Path, varied: Path, monkeypatch) -> None:
    monkeypatch.chdir(onnx)
    page = next(text for text in sections(ROOT / "docs/exports.md") if text.startswith("## A segmenter as ONNX"))
    (code,) = (block.code for block in blocks(page) if block.language == "python")
    assert len(code.splitlines()) <= 15
    assert "torch" not in code
    network, random = read_segmenter(varied / "model.safetensors"), np.random.default_rng(0)
    classes = set()
    for height, width in [(64, 64), (65, 33), (17, 120), *random.integers(17, 150, (17, 2)).tolist()]:
        tiles = random.integers(0, 256, (-(-height // 10), -(-width // 10), 3), np.uint8)
        write_image("photo.jpg", np.kron(tiles, np.ones((10, 10, 1), np.uint8))[:height, :width])
        found: dict = {}
        exec(code, found)
        expected = scores(network, read_image("photo.jpg"), (1.0,))
        np.testing.assert_allclose(found["probabilities"], expected, rtol=0, atol=1e-4)
        assert (found["mask"] == expected.argmax(0)).mean() >= 0.999
        classes |= set(np.unique(found["mask"]).tolist())
    assert len(classes) >= 4
