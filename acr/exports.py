"""Seeds, masks and networks in the formats of others: dictionaries of maps, heat maps, COCO's, mmsegmentation's, ONNX."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeVar

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image
from pycocotools import mask as outlines

from acr.datasets.base import Record, Split, check_id, read_split
from acr.files import PROVENANCE, Arrays, atomic_folder, read_json
from acr.images import check_mask, image_size, palette, read_mask, upsample, write_mask
from acr.progress import Progress
from acr.shapes import BACKGROUND, VOID

PLACE = "give a folder such as results/NAME/seeds/RECIPE, .../segmenters/RECIPE or .../predictions/RECIPE/SPLIT"
Write = TypeVar("Write", bound=Callable[..., None])


class Artefact(NamedTuple):
    """What a stage left in `folder` for a split; `root` is the folder of the run, from which the split's paths start."""

    stage: str
    folder: Path
    root: Path
    split: Split


def regions(mask: UInt8[np.ndarray, "H W"]) -> dict[int, dict[str, Any]]:
    """The pixels of each class in a mask by category id, which is the mask value: COCO's run-length code, area and box.

    Background and void are no class. A box is left, top, width and height.
    """
    found = {}
    for value in np.unique(mask).tolist():
        if value not in (BACKGROUND, VOID):
            code = outlines.encode(np.asfortranarray(mask == value))
            measures = {"area": int(outlines.area(code)), "bbox": outlines.toBbox(code).tolist()}
            found[value] = {"segmentation": code | {"counts": code["counts"].decode("ascii")}, **measures}
    return found


def mmsegmentation_config(split: Split, suffix: str) -> str:
    """The text of a configuration of mmsegmentation 1.x in which `dataset` is a split; `suffix` is that of photographs."""
    classes = ("background", *split.classes)
    metainfo = {"classes": classes, "palette": palette()[: len(classes)].tolist()}
    dataset = {
        "type": "BaseSegDataset",
        "data_root": "{{ fileDirname }}",  # mmengine puts the folder of the configuration here
        "data_prefix": {"img_path": f"img_dir/{split.name}", "seg_map_path": f"ann_dir/{split.name}"},
        "img_suffix": suffix,
        "seg_map_suffix": ".png",
        "metainfo": metainfo,
        "ignore_index": VOID,
        "reduce_zero_label": False,
    }
    lines = "".join(f"    {key}={value!r},\n" for key, value in dataset.items())
    return f"dataset = dict(\n{lines})\n"


# ---- disk ----------------------------------------------------------------------------------------------------------------


def export(folder: str | Path, form: str, output: str | Path) -> None:
    """Writes an artefact in a format of others into a folder, whole or not at all.

    Args:
        folder: as the pipeline left it, wherever it is now: results/NAME/seeds/RECIPE, results/NAME/pseudo_labels/RECIPE,
            results/NAME/predictions/RECIPE/SPLIT or results/NAME/segmenters/RECIPE.
        form: a key of FORMATS for its stage, of NETWORKS for its kind.
        output: a new or empty folder.

    Raises:
        ValueError: the folder is none of these or has no such format, the output is there, or a file is missing or damaged.
    """
    write, target = _writer(Path(folder), form), Path(output).absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"{output} exists and is no empty folder; name a new one")
    with atomic_folder(target) as temporary:
        write(temporary)


def _writer(folder: Path, form: str) -> Callable[[Path], None]:
    """What writes the content of `folder` in a format into another; of a network nothing but its own folder is read."""
    if (folder / "model.json").is_file():
        kind = read_json(folder / "model.json")["kind"]
        return partial(_chosen(NETWORKS.get(kind, {}), form, f"{folder} holds a {kind}, which has"), folder)
    artefact = read_artefact(folder)
    formats = FORMATS[artefact.stage]
    return partial(_chosen(formats, form, f"{folder} holds {artefact.stage.replace('_', ' ')}, which have"), artefact)


def _chosen(formats: Mapping[str, Write], form: str, what: str) -> Write:
    if form not in formats:
        advice = f"it must be one of {', '.join(formats)}" if formats else PLACE
        raise ValueError(f"{what} no format {form!r}; {advice}")
    return formats[form]


def read_artefact(folder: str | Path) -> Artefact:
    """The artefact in a folder, and the split it was made from, which must lie as it lay then, seen from the folder.

    Raises:
        ValueError: the folder has no provenance, its stage has no format, or the table of the split is missing.
    """
    folder = Path(folder)
    if not (folder / PROVENANCE).is_file():
        raise ValueError(f"{folder} has no {PROVENANCE}; {PLACE}")
    made = read_json(folder / PROVENANCE)
    (recorded,) = {Path(name).parent for name in made["outputs"]}  # results/NAME/STAGE/...
    stage = recorded.parts[2]
    if stage not in FORMATS:
        raise ValueError(f"{folder} holds {stage}, for which there is no format; {PLACE}")
    (table,) = (name for name in made["inputs"] if Path(name).parent.name == "splits")
    split = read_split(folder / os.path.relpath(table, recorded))
    return Artefact(stage, folder, folder / os.path.relpath(".", recorded), split)


def write_dictionaries(artefact: Artefact, folder: Path) -> None:
    """Writes {image_id}.npy an image: a dictionary from class index to its float32 map "H W" in [0, 1].

    That is what the field's scripts write and read. It holds objects: `np.load(path, allow_pickle=True).item()` reads it.
    """
    for record, maps in maps_of(artefact):
        np.save(folder / f"{record.image_id}.npy", np.array(maps, object), allow_pickle=True)


def write_heat_maps(artefact: Artefact, folder: Path) -> None:
    """Writes {image_id}.{class name}.png an image and class: 8-bit grey, 0 to 255 for 0 to 1.

    Raises:
        ValueError: a class cannot name a file, or two images and classes have one name between them.
    """
    classes = artefact.split.classes
    for record, maps in maps_of(artefact):
        for index, plane in maps.items():
            name = f"{record.image_id}.{classes[index]}"
            check_id(name, f"split {artefact.split.name!r} with the names of its classes")
            if (folder / f"{name}.png").exists():
                raise ValueError(f"two images and classes would both be written to {name}.png; rename one of the classes")
            Image.fromarray(np.rint(255 * plane).astype(np.uint8)).save(folder / f"{name}.png")


def write_coco(artefact: Artefact, folder: Path) -> None:
    """Writes instances_{split}.json, in which each class of an image is one annotation; void pixels are in none.

    Category ids are class index + 1, image ids positions in the split from 1 on, file names those of the photographs, with
    what leads to them from the folder that all lie in.
    """
    split = artefact.split
    categories = [{"id": index, "name": name} for index, name in enumerate(split.classes, start=1)]
    info = {"description": f"{artefact.stage.replace('_', ' ')} of {split.name}"}
    with (folder / f"instances_{split.name}.json").open("w", encoding="utf-8") as stream:
        stream.write(f'{{"info": {json.dumps(info)},\n"categories": {json.dumps(categories)},\n"images": ')
        _write_list(stream, _coco_images(artefact))
        stream.write(',\n"annotations": ')
        _write_list(stream, _coco_annotations(artefact))
        stream.write("}\n")


def write_mmsegmentation(artefact: Artefact, folder: Path) -> None:
    """Writes img_dir/{split}, copies of the photographs, ann_dir/{split}, masks of the same stems, classes.txt and config.py.

    A mask value is the index in classes.txt, whose first name is background; void is ignored.

    Raises:
        ValueError: the photographs have several suffixes, of which mmsegmentation would find one, or a mask does not fit.
    """
    split = artefact.split
    suffixes = sorted({record.image.suffix for record in split.records})
    if len(suffixes) > 1:
        found = ", ".join(suffixes)
        raise ValueError(
            f"the photographs of {split.name!r} are {found}, but mmsegmentation takes one kind; convert the others"
        )
    for name in ("img_dir", "ann_dir"):
        (folder / name / split.name).mkdir(parents=True)
    for record, mask in masks_of(artefact):
        photograph = photograph_of(artefact, record)
        check_mask(mask, image_size(photograph), len(split.classes), _mask_path(artefact, record))
        shutil.copyfile(photograph, folder / "img_dir" / split.name / f"{record.image_id}{suffixes[0]}")
        write_mask(folder / "ann_dir" / split.name / f"{record.image_id}.png", mask)
    (folder / "classes.txt").write_text("\n".join(("background", *split.classes, "")), encoding="utf-8")
    (folder / "config.py").write_text(mmsegmentation_config(split, suffixes[0]), encoding="utf-8")


def write_segmenter(network: Path, folder: Path) -> None:
    """Writes model.onnx, as `acr.models.onnx_file.write_onnx` describes it, and a copy of model.json."""
    # here: of all formats this alone needs torch
    from acr.models.onnx_file import write_onnx
    from acr.segmenters import read_segmenter

    write_onnx(read_segmenter(network / "model.safetensors"), folder / "model.onnx")
    shutil.copyfile(network / "model.json", folder / "model.json")


def photograph_of(artefact: Artefact, record: Record) -> Path:
    """The photograph of a record: where the run found it, else as the path reads from the current folder."""
    path = artefact.root / record.image
    return path if path.is_file() else record.image


def maps_of(artefact: Artefact) -> Iterator[tuple[Record, dict[int, Float32[np.ndarray, "H W"]]]]:
    """Each record with its maps by class index at the size of its photograph, one image at a time."""
    archive = Arrays(artefact.folder / "maps.npz")
    for record in _progress(artefact):
        height, width = image_size(photograph_of(artefact, record))
        maps, indices = archive[record.image_id], artefact.split.class_indices(record)
        if len(maps) != len(indices):
            raise ValueError(
                f"{archive.path} holds {len(maps)} maps of {record.image_id!r}, but the split gives it {len(indices)} labels; "
                "run snakemake again"
            )
        yield record, dict(zip(indices, upsample(maps, height, width), strict=True))


def masks_of(artefact: Artefact) -> Iterator[tuple[Record, UInt8[np.ndarray, "H W"]]]:
    """Each record with its mask, one image at a time."""
    for record in _progress(artefact):
        yield record, read_mask(_mask_path(artefact, record))


def _mask_path(artefact: Artefact, record: Record) -> Path:
    return artefact.folder / f"{record.image_id}.png"


def _progress(artefact: Artefact) -> Iterable[Record]:
    return Progress(artefact.split.records, f"exporting {artefact.split.name}")


def _coco_images(artefact: Artefact) -> Iterator[dict[str, Any]]:
    common = Path(os.path.commonpath([record.image.parent for record in artefact.split.records]))
    for number, record in enumerate(artefact.split.records, start=1):
        height, width = image_size(_mask_path(artefact, record))
        yield {"id": number, "file_name": record.image.relative_to(common).as_posix(), "height": height, "width": width}


def _coco_annotations(artefact: Artefact) -> Iterator[dict[str, Any]]:
    number = 0
    for image, (record, mask) in enumerate(masks_of(artefact), start=1):
        check_mask(mask, mask.shape, len(artefact.split.classes), _mask_path(artefact, record))
        for category, region in regions(mask).items():
            number += 1
            yield {"id": number, "image_id": image, "category_id": category, "iscrowd": 0, **region}


def _write_list(stream: TextIO, items: Iterable[Any]) -> None:
    """Writes a JSON list as its items come, one a line."""
    separator = "["
    for item in items:
        stream.write(f"{separator}\n{json.dumps(item)}")
        separator = ","
    stream.write("]" if separator == "," else "[]")


NETWORKS: Mapping[str, Mapping[str, Callable[[Path, Path], None]]] = {"segmenter": {"onnx": write_segmenter}}
MASKS = {"coco": write_coco, "mmsegmentation": write_mmsegmentation}
FORMATS: Mapping[str, Mapping[str, Callable[[Artefact, Path], None]]] = {
    "seeds": {"dictionaries": write_dictionaries, "heat-maps": write_heat_maps},
    "pseudo_labels": MASKS,
    "predictions": MASKS,
}
