"""Small archives of each published data set in its true form, and a checkout that takes them for the real ones."""

import hashlib
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as outlines
from scipy.io import savemat

from acr.images import palette
from tests.odd import LABELS, scene
from tests.packing import tar, tgz, zipped
from tests.running import ROOT

VOC = "VOCdevkit/VOC2012"
SBD = "benchmark_RELEASE/dataset"


def checkout(folder: Path, published: Mapping[str, dict]) -> Path:
    """A copy of package and workflow in which `published` stands for what is published: the code is the same."""
    for name in ("acr", "workflow"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "environment.yml", folder)
    table = folder / "acr" / "datasets" / "published.json"
    real = json.loads(table.read_text())
    for kind, content in published.items():
        real[kind]["images"] = content["images"]
        for name, values in content["archives"].items():
            real[kind]["archives"][name] |= values
    table.write_text(json.dumps(real))
    return folder


def described(content: bytes, *urls: str) -> dict:
    """What the table of archives says of one."""
    return {"size": len(content), "checksum": f"sha256:{hashlib.sha256(content).hexdigest()}", "urls": urls}


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return buffer.getvalue()


def _palette_png(mask: np.ndarray) -> bytes:
    """As VOC's: its colours, and a contour of void."""
    picture, buffer = Image.fromarray(mask), io.BytesIO()
    picture.putpalette(palette().tobytes())
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _with_contour(mask: np.ndarray) -> np.ndarray:
    edge = np.zeros(mask.shape, bool)
    edge[:, 1:] = mask[:, 1:] != mask[:, :-1]
    return np.where(edge, 255, mask).astype(np.uint8)


def _xml(label: str) -> bytes:
    return f"<annotation><object><name>{label}</name><difficult>0</difficult></object></annotation>".encode()


def voc() -> bytes:
    """VOC's tar: train a and b, val c and d, and e, which only SBD has a mask of."""
    lists = {"train": "ab", "val": "cd", "trainval": "abcd"}
    files = {f"{VOC}/ImageSets/Segmentation/{name}.txt": "\n".join([*ids, ""]).encode() for name, ids in lists.items()}
    for image_id, label in zip("abcde", ("cat", "dog", "cat", "dog", "dog"), strict=True):
        picture, mask = scene(label)
        files[f"{VOC}/JPEGImages/{image_id}.jpg"] = _jpeg(picture)
        files[f"{VOC}/Annotations/{image_id}.xml"] = _xml(label)
        if image_id != "e":
            files[f"{VOC}/SegmentationClass/{image_id}.png"] = _palette_png(_with_contour(mask))
    return tar(files)


def sbd() -> bytes:
    """SBD's tgz: masks of a (another than VOC's), c (of VOC's val) and e as .mat files in its own form."""
    files = {f"{SBD}/train.txt": b"a\nc\n", f"{SBD}/val.txt": b"e\n", "benchmark_RELEASE/README": b"SBD\n"}
    for image_id, label in {"a": "dog", "c": "cat", "e": "dog"}.items():
        content, buffer = scene(label)[1], io.BytesIO()
        boundaries = np.empty((20, 1), object)
        boundaries[:] = [[np.zeros(content.shape, bool)]] * 20
        fields = {"Boundaries": boundaries, "Segmentation": content, "CategoriesPresent": np.uint8(LABELS[label])}
        savemat(buffer, {"GTcls": fields}, do_compression=True)
        files[f"{SBD}/cls/{image_id}.mat"] = buffer.getvalue()
        files[f"{SBD}/img/{image_id}.jpg"] = _jpeg(scene(label)[0])
    return tgz(files)


def voc_test() -> bytes:
    """VOC's tar of the test images, which unpacks into the same folder as the others."""
    files = {f"{VOC}/ImageSets/Segmentation/test.txt": b"t1\nt2\nt3\n"}
    for number, image_id in enumerate(("t1", "t2", "t3")):
        files[f"{VOC}/JPEGImages/{image_id}.jpg"] = _jpeg(scene("cat", 50 + 10 * number, 80)[0])
    return tar(files)


CATEGORIES = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}, {"id": 13, "name": "stop sign"}]


def coco() -> dict[str, bytes]:
    """COCO's three zips: four images of train and two of val, one image of each without annotation, one crowd."""
    files: dict[str, dict[str, bytes]] = {"annotations": {}, "train": {}, "val": {}}
    for split, labels in {"train": ["cat", "dog", "cat", ""], "val": ["dog", ""]}.items():
        images, annotations = [], []
        for number, label in enumerate(labels, start=1):
            name = f"COCO_{split}2014_{number:012d}.jpg"
            images.append({"id": number, "file_name": name, "height": 60, "width": 80})
            picture, mask = scene(label or "cat")
            files[split][f"{split}2014/{name}"] = _jpeg(picture)
            if label:
                annotations.append({"image_id": number, "iscrowd": 0, **_outline(mask, label, polygon=number == 1)})
        annotations.append(
            {"image_id": 1, "iscrowd": 1, **_outline(np.eye(60, 80, dtype=np.uint8), "stop sign", polygon=False)}
        )
        content = {"info": {}, "images": images, "annotations": annotations, "categories": CATEGORIES}
        files["annotations"][f"annotations/instances_{split}2014.json"] = json.dumps(content).encode()
    return {name: zipped(content) for name, content in files.items()}


def _outline(mask: np.ndarray, label: str, polygon: bool) -> dict:
    category = next(item["id"] for item in CATEGORIES if item["name"] == label)
    if polygon:
        return {"category_id": category, "segmentation": [[27, 12, 63, 12, 63, 48, 27, 48]]}
    runs = outlines.encode(np.asfortranarray((mask > 0).astype(np.uint8)))
    return {"category_id": category, "segmentation": {"size": runs["size"], "counts": runs["counts"].decode()}}
