"""Inference: trained networks on photographs of anybody's, without a configuration.

Whole folders of a trained network are read, model.safetensors and the model.json beside it, wherever they were copied; or
those of predictions, with what they were made from in the run's other folders, wherever the run lies.
"""

import csv
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from acr import config
from acr.classifiers import read_classifier, tag_probabilities
from acr.config import nearest
from acr.crf import masks
from acr.devices import device_of
from acr.explain import run_folder
from acr.files import PROVENANCE, atomic, listed, read_json
from acr.images import UnreadableError, as_working_image, read_image, resize_mask, upsample, write_image, write_mask
from acr.models.deeplab import DeepLabV2
from acr.models.vit import VitClassifier
from acr.overlays import heat_map, painted, sheet, thumbnail
from acr.predictions import Scores, score_of
from acr.progress import Progress
from acr.recipes import PHOTOGRAPHS, Crf, Execution, Predictions, Seeds
from acr.seeds import localise_photograph, with_depth
from acr.segmenters import read_segmenter, scores

SCALES, CRF = Predictions(segmenter="").scales, Predictions(segmenter="").crf
MASKS, OVERLAYS = "masks", "overlays"  # folders that `predict` writes
LIKELY = 0.5  # probability from which a class counts as seen


class Predicted(NamedTuple):
    """A photograph "H W 3", where it came from, and its mask "H W": class index + 1, 0 background."""

    path: Path
    photograph: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Predictor:
    """Makes masks of photographs; value v of a mask is `names[v]`."""

    score: Scores
    crf: Crf | None
    names: tuple[str, ...]

    @classmethod
    def read(cls, folder: str | Path, device: str = "auto") -> "Predictor":
        """A recipe of predictions as a run has it, by a folder such as results/NAME/predictions/RECIPE.

        Raises:
            ValueError: the folder holds no predictions, what they were made from is not there, or there is no such device.
        """
        recipe, files = _made(Path(folder))
        model = files["segmenters"]
        score = score_of(recipe, _on(device), model, files.get("classifiers"), files.get("seeds"), files.get("affinities"))
        return cls(score, recipe.crf, tuple(read_json(model.with_suffix(".json"))["mask_values"]))

    def mask(self, photograph: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"]:
        """The mask of one RGB photograph: class index + 1, 0 background."""
        (predicted,) = self.masks([(Path(), photograph)], workers=0)
        return predicted.mask

    def masks(self, photographs: Iterable[tuple[Path, UInt8[np.ndarray, "_ _ 3"]]], workers: int = 2) -> Iterator[Predicted]:
        """The masks of many photographs, in their order; no more of them are held than CRFs are under way."""
        under_way: deque[tuple[Path, np.ndarray]] = deque()

        def scored() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for path, photograph in photographs:
                under_way.append((path, photograph))
                image = as_working_image(photograph)
                yield image, self.score(image)

        for mask in masks(scored(), self.crf, workers):
            path, photograph = under_way.popleft()
            yield Predicted(path, photograph, resize_mask(mask, *photograph.shape[:2]))


@dataclass(frozen=True)
class Segmenter:
    """A trained segmenter, which makes masks of photographs; value v of a mask is `names[v]`."""

    network: DeepLabV2
    names: tuple[str, ...]

    @classmethod
    def read(cls, folder: str | Path, device: str = "auto") -> "Segmenter":
        """The segmenter of a folder such as results/NAME/segmenters/RECIPE.

        Raises:
            ValueError: the folder holds no segmenter, or there is no such device.
        """
        description = _description(folder, "segmenter")
        network = read_segmenter(Path(folder) / "model.safetensors").to(device_of(_on(device)))
        return cls(network, tuple(description["mask_values"]))

    def predictor(self, scales: Sequence[float] = SCALES, crf: Crf | None = None) -> Predictor:
        """The segmenter at these scales, the maximum of the logits counting, with this CRF if one is given."""
        return Predictor(lambda image: scores(self.network, image, scales), crf, self.names)

    def mask(
        self, photograph: UInt8[np.ndarray, "H W 3"], scales: Sequence[float] = SCALES, crf: Crf | None = None
    ) -> UInt8[np.ndarray, "H W"]:
        """The mask of one RGB photograph: class index + 1, 0 background."""
        return self.predictor(scales, crf).mask(photograph)


@dataclass(frozen=True)
class Localiser:
    """A trained classifier, which says what is on a photograph and where it sees it."""

    network: VitClassifier
    classes: tuple[str, ...]
    recipe: Seeds
    image_size: int

    @classmethod
    def read(cls, folder: str | Path, device: str = "auto", **recipe: Any) -> "Localiser":
        """The classifier of a folder such as results/NAME/classifiers/RECIPE; `recipe` are fields of `acr.recipes.Seeds`.

        Raises:
            ValueError: the folder holds no classifier, there is no such device, or a field or value is none of a recipe's.
        """
        description = _description(folder, "classifier")
        network = read_classifier(Path(folder) / "model.safetensors").to(device_of(_on(device)))
        size = description["image_size"]
        wanted = config.build(Seeds, {"classifier": "", "image_size": size, **recipe}, "seeds")
        return cls(network, tuple(description["classes"]), with_depth(wanted, network), size)

    def tags(self, photograph: UInt8[np.ndarray, "H W 3"]) -> dict[str, float]:
        """The probability of each class, the likeliest first."""
        probabilities = tag_probabilities(self.network, photograph, self.image_size)
        order = np.argsort(-probabilities, kind="stable")
        return {self.classes[index]: float(probabilities[index]) for index in order}

    def maps(self, photograph: UInt8[np.ndarray, "H W 3"], names: Sequence[str]) -> Float32[np.ndarray, "K H W"]:
        """A map in [0, 1] of each class named, at the size of the photograph (Eq. 7, and Eq. 8 where refined).

        Raises:
            ValueError: none is named, or the classifier was not trained on a class of that name.
        """
        if not names:
            raise ValueError(f"no class is named; {nearest('', self.classes)}")
        for name in names:
            if name not in self.classes:
                raise ValueError(f"{name!r} is no class of this classifier; {nearest(name, self.classes)}")
        indices = [self.classes.index(name) for name in names]
        maps = localise_photograph(self.network, photograph, indices, self.recipe)
        return upsample(maps, *photograph.shape[:2])


def _made(folder: Path) -> tuple[Predictions, dict[str, Path]]:
    """The recipe of a folder of predictions, and of each other stage the file that they were made from."""
    places = [*folder.glob(PROVENANCE), *sorted(folder.glob(f"*/{PROVENANCE}"))]
    record = read_json(places[0]) if places else {"outputs": []}
    if not any(Path(output).parts[2:3] == ("predictions",) for output in record["outputs"]):
        raise ValueError(f"{folder} holds no predictions; give a folder such as results/NAME/predictions/RECIPE")
    run = run_folder(places[0], record)
    files = {Path(name).parts[2]: run / name for name in record["inputs"]}
    del files["splits"]
    for file in files.values():
        if not file.is_file():
            raise ValueError(f"{folder} was made from {file}, which is not there; keep the folders of a run together")
    return config.build(Predictions, record["recipe"], "predictions"), files


def _on(device: str) -> Execution:
    return config.build(Execution, {"device": device}, "execution")


def _description(folder: str | Path, kind: str) -> Mapping[str, Any]:
    """The model.json of a folder, which must be of this kind."""
    place = f"give a folder such as results/NAME/{kind}s/RECIPE"
    for name in ("model.json", "model.safetensors"):
        if not (Path(folder) / name).is_file():
            raise ValueError(f"{folder} holds no {name}; {place}")
    description = read_json(Path(folder) / "model.json")
    if description.get("kind") != kind:
        raise ValueError(f"{folder} holds a network of kind {description.get('kind')}, but a {kind} is wanted; {place}")
    return description


# ---- disk ----------------------------------------------------------------------------------------------------------------


def photographs_of(places: Sequence[str | Path], output: str | Path) -> dict[str, Path]:
    """The photographs that files and folders stand for, by the names of what is made of them, without suffix.

    A photograph of a folder is named by the way to it from there; one that is met again keeps its first name. What lies in
    an `output` inside the folder is none, nor is what `predict` writes.

    Raises:
        ValueError: a place does not exist, none holds a photograph, or two would have one name.
    """
    found: dict[str, Path] = {}
    met = set()
    for place in map(Path, places):
        if not place.exists():
            raise ValueError(f"{place} does not exist; give photographs, or folders of them")
        for path, name in _candidates(place, Path(output).resolve()):
            if (real := path.resolve()) in met:
                continue
            met.add(real)
            if name in found:
                raise ValueError(f"{found[name]} and {path} would both be written to {name}.png; rename one of them")
            found[name] = path
    if not found:
        made = f"in {MASKS} or {OVERLAYS} of {output}"
        raise ValueError(
            f"{', '.join(map(str, places))}: no file there ends in {', '.join(PHOTOGRAPHS)}, or all are {made}; "
            "give photographs, or folders of them, and an output elsewhere"
        )
    return found


def _candidates(place: Path, output: Path) -> Iterator[tuple[Path, str]]:
    """Each photograph of a place and its name without suffix."""
    files = listed(place, PHOTOGRAPHS) if place.is_dir() else [place.name]
    folder = place if place.is_dir() else place.parent
    made = [output] if folder.resolve() in output.parents else [output / MASKS, output / OVERLAYS]
    for file in files:
        if not {*(folder.resolve() / file).parents} & {*made}:
            yield folder / file, Path(file).with_suffix("").as_posix()


class _Readable:
    """Photographs as they are read, one after the other; those that cannot be are noted as `damaged` and left out."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = paths
        self.damaged: list[str] = []

    def __iter__(self) -> Iterator[tuple[Path, UInt8[np.ndarray, "_ _ 3"]]]:
        for path in self.paths:
            try:
                yield path, read_image(path)
            except UnreadableError as error:
                self.damaged.append(f"{path} ({error.reason})")


def predict(
    predictor: Predictor,
    photographs: Mapping[str, Path],
    output: str | Path,
    *,
    overlays: bool = False,
    workers: int = 2,
) -> list[str]:
    """Writes `output`/masks/{name}.png, areas.csv and, if wanted, overlays/{name}.jpg; returns what could not be read.

    areas.csv has a row a photograph: image (its name), height and width in pixels, and the pixels of each class.
    """
    folder, readable = Path(output), _Readable(photographs.values())
    names = {path: name for name, path in photographs.items()}
    columns = ["image", "height", "width", *predictor.names]
    with atomic(folder / "areas.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(columns)
        shown = Progress(readable, "masks", total=len(photographs))
        for path, photograph, mask in predictor.masks(shown, workers):
            write_mask(folder / MASKS / f"{names[path]}.png", mask)
            if overlays:
                write_image(folder / OVERLAYS / f"{names[path]}.jpg", painted(photograph, mask))
            areas = np.bincount(mask.ravel(), minlength=len(predictor.names))
            table.writerow([names[path], *mask.shape, *areas.tolist()])
    return readable.damaged


def write_maps(
    localisers: Mapping[str, Localiser], photograph: UInt8[np.ndarray, "H W 3"], names: Sequence[str], output: str | Path
) -> None:
    """Writes `output`, a sheet of the photograph and of the map that each localiser, by its title, gives of each class."""
    pictures = {"photograph": thumbnail(photograph)}
    maps = {title: localiser.maps(photograph, names) for title, localiser in localisers.items()}
    for number, name in enumerate(names):
        pictures |= {f"{name}, {title}": heat_map(photograph, each[number]) for title, each in maps.items()}
    write_image(output, sheet(pictures))
