"""Merging what the shards of a stage made, in the order of the split: the number of shards leaves no trace."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from acr.datasets.base import read_split
from acr.files import Arrays, merge_arrays
from acr.images import write_mask
from acr.provenance import source, write_provenance


def merge_maps(*, split: str, shards: Sequence[str], recipe: str, output: str, provenance: str) -> None:
    """Writes the arrays of all shards, one an image, as one npz archive with its provenance."""
    merge_arrays(shards, [record.image_id for record in read_split(split).records], output)
    write_provenance(provenance, source(recipe, [split]))


def merge_masks(*, split: str, shards: Sequence[str], folder: str) -> None:
    """Writes the masks of a split as `folder`/{image_id}.png; the folder holds nothing else, and is whole or absent.

    Args:
        split: table of the split.
        shards: archives of uint8 masks "H W" by image_id, which hold every image of the split between them.
        folder: replaced where it exists.

    Raises:
        ValueError: an image is in no shard.
    """
    archives = [Arrays(shard) for shard in shards]
    where = {name: archive for archive in archives for name in archive}
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        masks = Path(temporary, "masks")  # not the temporary folder itself, which only its owner may open
        masks.mkdir()
        for record in tqdm(read_split(split).records, desc="masks", disable=None):
            if record.image_id not in where:
                raise ValueError(f"no shard holds the mask of {record.image_id!r}; run the shards again")
            write_mask(masks / f"{record.image_id}.png", where[record.image_id][record.image_id])
        if target.exists():
            shutil.rmtree(target)
        masks.rename(target)
