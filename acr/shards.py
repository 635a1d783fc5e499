"""Merging what the shards of a stage made, in the order of the split: the number of shards leaves no trace."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from acr.datasets.base import read_split
from acr.files import UNFINISHED, Arrays, atomic_folder, write_arrays
from acr.images import write_mask
from acr.progress import Progress


def gathered(split: str | Path, shards: Sequence[str | Path]) -> Iterator[tuple[str, np.ndarray]]:
    """The image ids of a split, in its order, and the array of each, from whichever shard holds it.

    Raises:
        ValueError: some image is in no shard.
    """
    names = [record.image_id for record in read_split(split).records]
    where = _where(shards)
    missing = [name for name in names if name not in where]
    if missing:
        raise ValueError(f"no shard holds {missing[0]!r} ({len(missing)} of {len(names)} are missing); run the shards again")
    return _arrays(names, where)


def _where(shards: Sequence[str | Path]) -> dict[str, Arrays]:
    return {name: archive for archive in map(Arrays, shards) for name in archive}


def _arrays(names: Iterable[str], where: Mapping[str, Arrays]) -> Iterator[tuple[str, np.ndarray]]:
    return ((name, where[name][name]) for name in Progress(names, "merging"))


def merge_maps(*, split: str, shards: Sequence[str], output: str) -> None:
    """Writes the arrays of all shards, one an image, as one npz archive."""
    write_arrays(output, gathered(split, shards))
    _clear(shards)


def merge_masks(*, split: str, shards: Sequence[str], folder: str) -> None:
    """Writes the masks of a split as `folder`/{image_id}.png; the folder holds nothing else, and each file is whole.

    Args:
        split: table of the split.
        shards: archives of uint8 masks "H W" by image_id, which hold every image of the split between them.
        folder: replaced where it exists.
    """
    _write_masks(gathered(split, shards), Path(folder))
    _clear(shards)


def merge_true_masks(*, shards: Sequence[str | Path], folder: str | Path) -> None:
    """`merge_masks` of all that the shards hold, before there is any table of a split."""
    where = _where(shards)
    _write_masks(_arrays(where, where), Path(folder))
    _clear(shards)


def _write_masks(masks: Iterable[tuple[str, np.ndarray]], target: Path) -> None:
    with atomic_folder(target) as temporary:
        for name, mask in masks:
            write_mask(temporary / f"{name}.png", mask)
        if target.exists():
            shutil.rmtree(target)


def _clear(shards: Sequence[str | Path]) -> None:
    """Removes the journals of interrupted shards, those of another number of shards among them."""
    for folder in {Path(shard).parent for shard in shards}:
        for journal in folder.glob(f"{UNFINISHED}*"):
            journal.unlink()
