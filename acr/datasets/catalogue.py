"""Every kind of data set by its name: fetched, its masks drawn, and read into splits of records."""

import csv
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from acr import config
from acr.datasets import coco14, folder, textures, voc12
from acr.datasets.base import (
    Record,
    Skipped,
    Split,
    check_classes,
    check_files,
    check_split,
    places_of,
    write_classes,
    write_skipped,
    write_split,
)
from acr.datasets.published import published
from acr.files import read_json, write_json, write_resumably
from acr.recipes import Dataset, Execution, Textures

logger = logging.getLogger(__name__)


def check_count(split: Split, expected: int | None, whole: bool) -> None:
    """Says in the log whether a split has as many images as are published of it.

    Raises:
        ValueError: it has not, though it was read from the `whole` data set as it is published.
    """
    count = len(split.records)
    if expected is None or count == expected:
        logger.info("%s: %d images%s", split.name, count, "" if expected is None else ", as published")
    elif whole:
        counts = f"{count} images, but {expected} are published"
        raise ValueError(f"split {split.name!r} has {counts}; unpack the data set again into an empty root")
    else:
        logger.warning("%s: %d images, but %d are published: figures do not compare", split.name, count, expected)


def count_classes(split: Split) -> str:
    """The number of images of each class of a split, and of those without any, in words."""
    counts = Counter(label for record in split.records for label in record.labels)
    counts["no class"] = sum(not record.labels for record in split.records)
    return ", ".join(f"{name} {counts[name]}" for name in (*split.classes, "no class"))


def check_apart(learnt: Split, reported: Split) -> None:
    """Refuses to learn from photographs of the split that is reported, with a ValueError that names one."""
    shared = {record.image_id for record in learnt.records} & {record.image_id for record in reported.records}
    if shared:
        both = f"{learnt.name!r} and {reported.name!r} share {len(shared)} photographs, such as {min(shared)!r}"
        raise ValueError(f"the splits {both}; take them out of one, for what is learnt from must not be reported")


def warn_of_habits(split: Split) -> None:
    """Says in the log which class every photograph of a split has: a network does not learn what it never misses."""
    for name in split.classes:
        if all(name in record.labels for record in split.records):
            logger.warning(
                "%s: every photograph has the class %s, which cannot be learnt without some that lack it", split.name, name
            )


# ---- disk ----------------------------------------------------------------------------------------------------------------


def fetch_dataset(*, recipe: str, execution: Mapping[str, Any], manifest: str | Path) -> None:
    """Makes the data of the recipe be there, generated, downloaded or found, and writes to `manifest` which it was.

    The manifest holds kind and root, and what the kind adds: the parameters of generated data, or under `archives` the
    checksums of what the root was unpacked from, which is empty where somebody else filled it.

    Raises:
        ValueError: the root exists without a folder that it must hold, or an archive cannot be had.
    """
    data, how = config.load_dataset(recipe), config.build(Execution, execution, "execution")
    write_json(manifest, {"kind": data.kind, "root": data.root, **_kind(data).fetch(data, how.mirrors)})


def draw_shard(*, recipe: str, shard: str, output: str | Path, made_from: Mapping[str, Any]) -> None:
    """Writes the true masks of one shard of a data set whose masks have to be drawn, as an npz archive.

    What an interrupted call `made_from` the same drew is not drawn again.
    """
    data = config.load_dataset(recipe)
    places = places_of(shard)
    drawers = list(islice(_kind(data).to_draw(data), places.start, None, places.step))
    write_resumably(output, made_from, [name for name, _ in drawers], lambda first: (draw() for _, draw in drawers[first:]))


def write_splits(
    *, recipe: str, execution: Mapping[str, Any], manifest: str | Path, drawn: str | Path | None, folder: str | Path
) -> None:
    """Writes a table {split}.csv of each of the recipe's splits, classes.txt and skipped.csv into `folder`.

    Paths in the tables are relative to the working directory where the recipe's root is. All files are checked once and
    whole, here, in `execution.workers` processes: a photograph that cannot be read is left out and listed in skipped.csv.

    Args:
        recipe: of the data set.
        execution: how to run.
        manifest: what `fetch_dataset` wrote.
        drawn: the folder of masks where they had to be drawn, else nothing.
        folder: of the tables.

    Raises:
        ValueError: a list is missing or empty, a file is missing, a mask is damaged or does not fit its photograph, a
            label is no class, or a photograph cannot be read where the recipe says `on_unreadable: fail`; nothing is
            written then.
    """
    data, how = config.load_dataset(recipe), config.build(Execution, execution, "execution")
    kind, unpacked = _kind(data), read_json(manifest).get("archives", {})
    listed, skipped = kind.read(data, Path(drawn) if drawn else None)
    check_classes(listed[0].classes, f"data set {data.root}")
    if data.train != data.val:
        check_apart(*listed[:2])
    for split in listed:
        check_split(split)
        check_count(split, kind.images.get(split.name), whole=kind.main in unpacked)
    checked, unreadable = check_files(listed, how.workers)
    _report(unreadable, data.on_unreadable == "fail", "replace it, or set on_unreadable of the data set to skip")
    warn_of_habits(checked[0])
    skipped += unreadable
    write_classes(Path(folder) / "classes.txt", listed[0].classes)
    write_skipped(Path(folder) / "skipped.csv", skipped)
    for split in checked:
        write_split(Path(folder) / f"{split.name}.csv", split)
        masked = sum(record.mask is not None for record in split.records)
        logger.info("%s: %d images, %d of them with a mask", split.name, len(split.records), masked)
        logger.info("%s: %s", split.name, count_classes(split))
    logger.info("photographs that are left out: %d", len(skipped))


def write_test_split(*, recipe: str, execution: Mapping[str, Any], output: str | Path) -> None:
    """Makes the images of VOC's `test` be there and writes their table, which has neither labels nor masks.

    Raises:
        ValueError: the recipe is of another kind, the images cannot be had, or one of them cannot be read.
    """
    data, how = config.load_dataset(recipe), config.build(Execution, execution, "execution")
    if data.kind != "voc12":
        raise ValueError(f"the data set is of kind {data.kind!r}, but only voc12 has an evaluation server's test split")
    whole = voc12.fetch_test(data, how.mirrors)
    split = voc12.read_test(data)
    check_split(split)
    check_count(split, KINDS["voc12"].images["test"], whole)
    _report(check_files([split], how.workers)[1], fatal=True, way_out="replace it, for the server wants a mask of each")
    write_split(output, split)


def _report(skipped: Sequence[Skipped], fatal: bool, way_out: str) -> None:
    """Names the photographs that cannot be read in the log, or refuses the first of them."""
    for item in skipped:
        sentence = item.reason.replace("it", item.image, 1)
        if fatal:
            raise ValueError(f"{sentence}; {way_out}")
        logger.warning("%s: %s and is left out", item.split, sentence)


def _fetch_textures(data: Textures, mirrors: Sequence[str]) -> dict[str, Any]:
    settings = {"train": data.train_images, "val": data.val_images, "size": data.size, "random_state": data.random_state}
    textures.generate(Path(data.root), **settings)
    return {"generated": settings}


def _read_textures(data: Textures, drawn: Path | None) -> tuple[list[Split], list[Skipped]]:
    """The generated splits behind the recipe's names for them."""
    root, generated = Path(data.root), {data.train: "train", data.val: "val"}
    path = root / "labels.csv"
    if not path.is_file():
        raise ValueError(f"{path} does not exist, but is written last by the generator; fetch the data set first")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    records = {
        name: tuple(_texture(root, row["image_id"], row["labels"]) for row in rows if row["split"] == source)
        for name, source in generated.items()
    }
    return [Split(name, textures.CLASSES, records[name]) for name in data.splits_made], []


def _texture(root: Path, image_id: str, labels: str) -> Record:
    return Record(image_id, root / "images" / f"{image_id}.png", root / "masks" / f"{image_id}.png", tuple(labels.split()))


class Kind(NamedTuple):
    """What each kind of data set has to offer; the recipe says whether its masks have to be drawn.

    Args:
        fetch: makes the data of a recipe be there, from mirrors if need be; what it returns is kept in the manifest.
        read: the splits of a recipe, and photographs that were left out; it is given the folder of masks that were drawn.
        to_draw: the name of every mask to be drawn, and what draws it.
        images: the published number of them in each split.
        main: the archive without which nothing is whole.
    """

    fetch: Callable[[Any, Sequence[str]], dict[str, Any]]
    read: Callable[[Any, Path | None], tuple[list[Split], list[Skipped]]]
    to_draw: Callable[[Any], Iterable[tuple[str, Callable[[], np.ndarray]]]] = lambda data: ()
    images: Mapping[str, int] = {}
    main: str = ""


def _published(kind: str, main: str) -> dict[str, Any]:
    content = published(kind)
    return {"images": content.images, "main": content.archives[main].name}


KINDS = {
    "textures": Kind(_fetch_textures, _read_textures),
    "voc12": Kind(voc12.fetch, voc12.read, voc12.to_draw, **_published("voc12", "trainval")),
    "coco14": Kind(coco14.fetch, coco14.read, coco14.to_draw, **_published("coco14", "annotations")),
    "folder": Kind(folder.fetch, folder.read),
}


def _kind(data: Dataset) -> Kind:
    if data.kind not in KINDS:
        raise ValueError(f"the kind of data set {data.kind!r} has a recipe and no reader; assign KINDS[{data.kind!r}] as well")
    return KINDS[data.kind]
