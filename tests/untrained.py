"""Photographs of noise with tags and seeds, and a segmenter that has learnt nothing: what two stages are tested with."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from acr.datasets.base import Record, Split, write_classes, write_split
from acr.files import write_arrays
from acr.images import write_image
from acr.models.deeplab import build_deeplab
from acr.models.weights import save_model

CLASSES = ("bird", "cat", "dog")
DESCRIPTION = {
    "backbone": "resnet10t",
    "options": {"channels": [8, 12, 16, 16], "stem_width": 8, "avg_down": False},
    "stride": 8,
    "dilations": [1, 2],
    "normalisation": "half",
    "classes": CLASSES,
}


def write_tagged(folder: Path, name: str, tags: Sequence[tuple[str, ...]], height: int, width: int) -> None:
    """The table {name}.csv of a photograph for each of `tags`, and maps.npz with seeds of these tags."""
    rng, records, seeds = np.random.default_rng(0), [], {}
    for index, labels in enumerate(tags):
        path = folder / f"{index}.png"
        write_image(path, rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        records.append(Record(str(index), path, None, labels))
        seeds[str(index)] = rng.random((len(labels), 5, 6)).astype(np.float16)
    write_arrays(folder / "maps.npz", seeds.items())
    write_split(folder / f"{name}.csv", Split(name, CLASSES, tuple(records)))
    write_classes(folder / "classes.txt", CLASSES)


def write_segmenter(folder: Path) -> None:
    """A segmenter whose head has random weights."""
    torch.manual_seed(0)
    model = build_deeplab(DESCRIPTION)
    for layer in model.head:
        layer.weight.data.normal_()
    save_model(folder, model, DESCRIPTION)
