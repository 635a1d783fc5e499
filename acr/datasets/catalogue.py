"""Every kind of data set by its name: fetched, and read into splits of records."""

import csv
import logging
from pathlib import Path
from typing import Any

from acr import config
from acr.config import Textures
from acr.datasets import coco14, textures, voc12
from acr.datasets.base import Record, Split, check_files, check_split, write_classes, write_split
from acr.files import write_json

logger = logging.getLogger(__name__)


def fetch_dataset(*, recipe: str, manifest: str | Path) -> None:
    """Makes the data of the recipe be there, generated, downloaded or found, and writes to `manifest` which it was.

    The manifest holds kind and root, and what the kind adds: the parameters of generated data, or under `archives` the
    checksums of what was downloaded, which is empty where the root existed: such a root is used as it is.

    Raises:
        ValueError: the root exists without a folder that it must hold, or an archive cannot be downloaded.
    """
    data = config.load_dataset(recipe)
    fetch, _ = _KINDS[data.kind]
    write_json(manifest, {"kind": data.kind, "root": data.root, **fetch(data)})


def write_splits(*, recipe: str, folder: str | Path) -> None:
    """Writes {train}.csv and {val}.csv of the recipe's two splits, and classes.txt, into `folder`.

    Paths in the tables are relative to the working directory where the recipe's root is.

    Raises:
        ValueError: a list is missing or empty, an image or mask is missing or damaged, their sizes differ, or a label is
            no class; nothing is written then.
    """
    data = config.load_dataset(recipe)
    _, read = _KINDS[data.kind]
    splits = [read(data, name) for name in dict.fromkeys((data.train, data.val))]
    for split in splits:
        check_split(split)
        check_files(split)
    write_classes(Path(folder) / "classes.txt", splits[0].classes)
    for split in splits:
        write_split(Path(folder) / f"{split.name}.csv", split)
        masks = sum(record.mask is not None for record in split.records)
        logger.info("%s: %d images, %d of them with a mask", split.name, len(split.records), masks)


def _fetch_textures(data: Textures) -> dict[str, Any]:
    settings = {"train": data.train_images, "val": data.val_images, "size": data.size, "random_state": data.random_state}
    textures.generate(Path(data.root), **settings)
    return {"generated": settings}


def _read_textures(data: Textures, name: str) -> Split:
    """The generated split behind the recipe's name for it."""
    root, generated = Path(data.root), {data.train: "train", data.val: "val"}[name]
    path = root / "labels.csv"
    if not path.is_file():
        raise ValueError(f"{path} does not exist, but is written last by the generator; fetch the data set first")
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == generated]
    records = tuple(_texture(root, row["image_id"], row["labels"]) for row in rows)
    return Split(name, textures.CLASSES, records)


def _texture(root: Path, image_id: str, labels: str) -> Record:
    return Record(image_id, root / "images" / f"{image_id}.png", root / "masks" / f"{image_id}.png", tuple(labels.split()))


_KINDS = {
    "textures": (_fetch_textures, _read_textures),
    "voc12": (voc12.fetch, voc12.read),
    "coco14": (coco14.fetch, coco14.read),
}
