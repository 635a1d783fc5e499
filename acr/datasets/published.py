"""What is published of a data set: its archives with sizes, checksums and mirrors, and how many images its splits have.

The table is `published.json` beside this file. Sizes and checksums are those of torchvision and tensorflow_datasets;
Oxford's own hosts are often down, and a mirror of one's own can be named in `execution.mirrors`.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Archive:
    """A .tar, .tgz or .zip file of the web and the one folder in it that is wanted."""

    name: str
    size: int  # bytes
    checksum: str  # algorithm:hexadecimal digest
    folder: str  # path in the archive
    becomes: str  # path that this folder gets below the data set's root
    sign: str  # path below that root that tells whether the archive has been unpacked there
    urls: tuple[str, ...]


@dataclass(frozen=True)
class Published:
    """One data set: archives by what they hold, and the number of images of each split."""

    archives: dict[str, Archive]
    images: dict[str, int]


@cache
def published(kind: str) -> Published:
    """What is published of a kind of data set."""
    content = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))[kind]
    archives = {name: Archive(**{**values, "urls": tuple(values["urls"])}) for name, values in content["archives"].items()}
    return Published(archives, content["images"])
