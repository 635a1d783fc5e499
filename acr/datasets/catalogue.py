"""Every kind of data set by its name: fetched, and read into splits of records."""

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from acr import config
from acr.config import Execution, Textures
from acr.datasets import coco14, textures, voc12
from acr.datasets.base import (
    Record,
    Skipped,
    Split,
    check_files,
    check_split,
    write_classes,
    write_skipped,
    write_split,
)
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


def write_splits(*, recipe: str, execution: Mapping[str, Any], folder: str | Path) -> None:
    """Writes {train}.csv and {val}.csv of the recipe's two splits, classes.txt and skipped.csv into `folder`.

    Paths in the tables are relative to the working directory where the recipe's root is. All files are checked once and
    whole, here, in `execution.workers` processes: a photograph that cannot be read is left out and listed in skipped.csv.

    Raises:
        ValueError: a list is missing or empty, a file is missing, a mask is damaged or does not fit its photograph, a
            label is no class, or a photograph cannot be read where the recipe says `on_unreadable: fail`; nothing is
            written then.
    """
    data, how = config.load_dataset(recipe), config.build(Execution, execution, "execution")
    _, read = _KINDS[data.kind]
    listed = [read(data, name) for name in dict.fromkeys((data.train, data.val))]
    for split in listed:
        check_split(split)
    checked = [check_files(split, how.workers) for split in listed]
    skipped = [item for _, items in checked for item in items]
    _report(skipped, data.on_unreadable)
    write_classes(Path(folder) / "classes.txt", listed[0].classes)
    write_skipped(Path(folder) / "skipped.csv", skipped)
    for split, _ in checked:
        write_split(Path(folder) / f"{split.name}.csv", split)
        masks = sum(record.mask is not None for record in split.records)
        logger.info("%s: %d images, %d of them with a mask", split.name, len(split.records), masks)


def _report(skipped: Sequence[Skipped], on_unreadable: str) -> None:
    """Names the photographs that cannot be read in the log, or refuses the first of them."""
    for item in skipped:
        sentence = f"{item.image} cannot be read as an image ({item.reason})"
        if on_unreadable == "fail":
            raise ValueError(f"{sentence}; replace it, or set on_unreadable of the data set to skip")
        logger.warning("%s: %s and is left out", item.split, sentence)
    if skipped:
        logger.warning("photographs that cannot be read and are left out: %d", len(skipped))


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
    with path.open(newline="", encoding="utf-8") as file:
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
