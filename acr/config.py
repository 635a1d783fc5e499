"""Recipes: the configuration as frozen dataclasses, read from YAML and checked before any job starts.

Each stage has a section of named recipes; a recipe names the upstream recipes it is made from. The defaults of the
dataclasses are the paper's values (App. A) or, where the paper is silent, those of the work it builds on. Nothing here
imports torch: planning stays quick.
"""

import difflib
import json
import math
import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Normalisation = Literal["native", "imagenet", "half"]
OnUnreadable = Literal["skip", "fail"]  # what a photograph that cannot be read does: it is left out, or it ends the run
VIEW_NAMES = ("identity", "hflip", "vflip", "transpose", "rot90", "rot180", "rot270", "grey", "rotation", "resize", "hide")
POSITIVE = {
    *("batch_size", "shards", "processes", "layers", "image_size", "crop_size", "stride", "radius", "size"),
    *("train_images", "val_images", "long_side", "crop_scales", "loss_scales", "scales", "dilations"),
}
NOT_EMPTY = {"views", "crop_scales", "scales", "dilations", "rows"}
PHOTOGRAPHS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # suffixes in a folder of one's own
TRAINED = ("classifiers", "affinities", "segmenters")
WHOLE = "all"  # the split of every photograph of a folder, whatever is known of it
Recipe = TypeVar("Recipe")


def upstream(section: str, **default: Any) -> Any:
    """A field that holds the name of a recipe of another section."""
    return field(metadata={"section": section}, **default)


class Dataset:
    """What planning asks of a data set's recipe."""

    @property
    def splits_made(self) -> tuple[str, ...]:
        """The splits that tables are written of, each once."""
        return tuple(dict.fromkeys((self.train, self.val)))

    @property
    def masks_drawn(self) -> bool:
        """Whether its true masks have to be drawn first."""
        return False


@dataclass(frozen=True)
class Textures(Dataset):
    """The generated data set: five patterns on random blobs, beside plain distractors that carry no tag."""

    kind: Literal["textures"] = "textures"
    root: str = "data/textures"
    train: str = "train"
    val: str = "val"
    train_images: int = 800
    val_images: int = 200
    size: int = 96  # pixels a side
    random_state: int = 0
    on_unreadable: OnUnreadable = "skip"


@dataclass(frozen=True)
class Voc12(Dataset):
    """PASCAL VOC 2012, with SBD's images where `train` is `train_aug`; `root` is the VOCdevkit folder.

    `masks: SegmentationClassAug` adds masks made from SBD's to VOC's own, for whoever wants an upper bound with masks.
    """

    kind: Literal["voc12"] = "voc12"
    root: str = "data/VOCdevkit"
    train: str = "train_aug"
    val: str = "val"
    masks: Literal["SegmentationClass", "SegmentationClassAug"] = "SegmentationClass"
    on_unreadable: OnUnreadable = "skip"

    @property
    def masks_drawn(self) -> bool:
        return self.masks == "SegmentationClassAug"


@dataclass(frozen=True)
class Coco14(Dataset):
    """MS COCO 2014; `root` holds train2014/, val2014/ and annotations/."""

    kind: Literal["coco14"] = "coco14"
    root: str = "data/coco14"
    train: str = "train"
    val: str = "val"
    crowd: Literal["void", "class"] = "void"  # what the pixels of a crowd are in the masks
    on_unreadable: OnUnreadable = "skip"

    @property
    def masks_drawn(self) -> bool:
        return True


@dataclass(frozen=True)
class Folder(Dataset):
    """Your own photographs below `root`, and what is known of them; docs/own-data.md is a walk through it.

    Names of classes get an underscore for a space. A photograph nobody says anything of is not learnt from.
    """

    kind: Literal["folder"] = "folder"
    root: str = "data/images"
    labels: str | None = None  # a table, COCO's JSON or the field's dictionary; null: one sub-folder a class
    classes: tuple[str, ...] = ()  # in the order of their mask values; none: all that the labels name
    masks: str | None = None  # folder of PNGs named as the photographs: class number from 1, 0 background, 255 void
    splits: str | None = None  # table image,split with the names below; null: drawn
    val_share: float = 0.2  # of the photographs, where no table says which are val
    train: str = "train"
    val: str = "val"
    on_unreadable: OnUnreadable = "skip"

    @property
    def splits_made(self) -> tuple[str, ...]:
        return (*super().splits_made, WHOLE)


@dataclass(frozen=True)
class Weights:
    """Initial weights under timm's names: from timm's hub by `model`, or from a local safetensors `file`.

    `normalisation` and `options` are those the weights were trained with; recipes that start from them inherit both.
    """

    model: str
    file: str | None = None
    normalisation: Normalisation = "native"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """One training run. `steps`, where given, counts optimiser steps and overrides `epochs`; 0 leaves the network as built."""

    epochs: float = 15.0
    steps: int | None = None
    batch_size: int = 4
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.01
    head_factor: float = 1.0  # learning rate of new layers, relative to the backbone's
    weight_decay: float = 5e-4
    momentum: float = 0.9
    schedule: Literal["poly", "one_cycle", "constant"] = "poly"
    power: float = 0.9  # of the poly schedule
    clip_norm: float | None = None  # largest norm of the gradient of all parameters together
    random_state: int = 0


@dataclass(frozen=True)
class Crf:
    """Fully connected CRF: `*_xy` in pixels, `bilateral_rgb` in grey levels, weights are the Potts compatibilities."""

    iterations: int = 10
    gaussian_xy: float = 3.0
    gaussian_weight: float = 3.0
    bilateral_xy: float = 80.0
    bilateral_rgb: float = 13.0
    bilateral_weight: float = 10.0


@dataclass(frozen=True)
class Classifier:
    """A vision transformer trained from tags on two views, with the consistency of Eq. 1, 2 and 6."""

    backbone: str = "vit_base_r50_s16_384"
    weights: str | None = upstream("weights", default=None)
    normalisation: Normalisation = "native"
    image_size: int = 384  # pixels a side of the training crop
    long_side: tuple[float, float] = (0.9, 1.143)  # range the long side is resized to, relative to image_size
    augmentations: tuple[Literal["hflip", "vflip", "transpose", "channels", "invert"], ...] = ("hflip",)  # of the first view
    views: tuple[str, ...] = ("hflip",)  # one is drawn for each batch; acr.views.VIEWS names them
    activation: float = 100.0  # alpha of Eq. 6
    affinity: float = 100.0  # beta of Eq. 6
    distance: Literal["l1", "l2", "smooth_l1"] = "l1"
    training: Training = Training()


@dataclass(frozen=True)
class Seeds:
    """Localisation maps of a classifier: Eq. 7, and Eq. 8 where `refine`."""

    classifier: str = upstream("classifiers")
    image_size: int = 384  # pixels a side of a square with the area the photograph is resized to
    aspect: Literal["keep", "square"] = "keep"
    layers: int = 2  # last layers whose gradients are averaged (Fig. 8)
    refine: bool = True
    affinity_layers: tuple[int, ...] | None = None  # whose affinity is averaged: 0 is the first, -1 the last; null: as `layers`
    affinity_power: float = 1.0  # of each affinity before its rows are made to sum to one again
    product: Literal["map_times_affinity", "affinity_times_map"] = "map_times_affinity"
    flip: bool = True  # sum with the maps of the mirrored photograph


@dataclass(frozen=True)
class ConfidentLabels:
    """Where PSA may learn: background (1 - max)^low is generous, (1 - max)^high strict; a CRF sharpens both."""

    low: float = 1.0
    high: float = 12.0
    crf: Crf = Crf()


@dataclass(frozen=True)
class Affinity:
    """The PSA network: pixel features whose distances say whether two neighbours belong together."""

    seeds: str = upstream("seeds")
    labels: ConfidentLabels = ConfidentLabels()
    backbone: str = "resnet50"
    weights: str | None = upstream("weights", default=None)
    options: Mapping[str, Any] = field(default_factory=dict)  # further arguments of timm.create_model
    normalisation: Normalisation = "native"
    freeze_norm: bool = True
    stride: int = 8  # pixels of one cell
    radius: int = 5  # cells
    crop_size: int = 448
    training: Training = Training(epochs=8.0, batch_size=8, learning_rate=0.01, head_factor=10.0)


@dataclass(frozen=True)
class PseudoLabels:
    """Seeds spread by a random walk over the affinities, one mask an image."""

    seeds: str = upstream("seeds")
    affinity: str | None = upstream("affinities", default=None)  # null: seeds are thresholded without a walk
    background: float | Literal["otsu"] = "otsu"  # constant background score, or each image's own, found without masks
    exponent: float = 8.0  # of the affinities before they are normalised
    walk_steps: int = 256
    crf: Crf | None = None  # after the walk


@dataclass(frozen=True)
class Segmenter:
    """DeepLabV2 trained on pseudo labels."""

    labels: str = upstream("pseudo_labels")
    backbone: str = "resnet101"
    weights: str | None = upstream("weights", default=None)
    options: Mapping[str, Any] = field(default_factory=dict)
    normalisation: Normalisation = "native"
    freeze_norm: bool = True
    stride: int = 8
    dilations: tuple[int, ...] = (6, 12, 18, 24)
    crop_size: int = 321
    crop_scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    augmentations: tuple[Literal["hflip", "vflip", "transpose", "channels", "invert"], ...] = ("hflip",)
    loss_scales: tuple[float, ...] = (0.5, 0.75)  # beside 1 and the maximum over all
    training: Training = Training(steps=20_000, batch_size=10, learning_rate=2.5e-4, head_factor=10.0)


@dataclass(frozen=True)
class Predictions:
    """Masks of the reported split: maximum of the logits over scales, then a CRF."""

    segmenter: str = upstream("segmenters")
    scales: tuple[float, ...] = (0.5, 0.75, 1.0)
    crf: Crf | None = Crf(gaussian_xy=1.0, bilateral_xy=67.0, bilateral_rgb=3.0, bilateral_weight=4.0)


@dataclass(frozen=True)
class Row:
    """One of our rows in a table of the paper; `name` is the paper's name of the row."""

    name: str
    seeds: str | None = upstream("seeds", default=None)
    pseudo_labels: str | None = upstream("pseudo_labels", default=None)
    predictions: str | None = upstream("predictions", default=None)


@dataclass(frozen=True)
class Table:
    """Our rows of one table of the paper."""

    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Execution:
    """How, never what: changing these keys changes no result and re-runs nothing."""

    device: str = "auto"  # auto, cpu, cuda, or one of several GPUs as cuda:1
    processes: int = 1  # that train one network together, each on a GPU of its own
    shards: int = 1
    workers: int = 2  # processes that read images or run CRFs
    checkpoint_seconds: float = 120.0  # between two checkpoints of a training run, which is what a kill can cost
    mirrors: tuple[str, ...] = ()  # folders or addresses where archives are looked for before their own addresses


DATASETS = {"textures": Textures, "voc12": Voc12, "coco14": Coco14, "folder": Folder}
SECTIONS = {
    "weights": Weights,
    "classifiers": Classifier,
    "seeds": Seeds,
    "affinities": Affinity,
    "pseudo_labels": PseudoLabels,
    "segmenters": Segmenter,
    "predictions": Predictions,
    "tables": Table,
}


@dataclass(frozen=True)
class Plan:
    """A checked configuration: the data set it runs on and every recipe of every section."""

    dataset: str
    data: Textures | Voc12 | Coco14 | Folder
    recipes: Mapping[str, Mapping[str, Any]]
    execution: Execution

    def recipe(self, section: str, name: str) -> Any:
        """The recipe `name` of `section`; a ValueError names the nearest one where there is none."""
        if name not in self.recipes[section]:
            raise ValueError(f"{section} has no recipe {name!r}; {_nearest(name, self.recipes[section])}")
        return self.recipes[section][name]


def check(config: Mapping[str, Any]) -> Plan:
    """The plan of a configuration as snakemake read it.

    Raises:
        ValueError: one sentence with the key, the value and the nearest valid one.
    """
    known = ["dataset", "datasets", *SECTIONS, "execution"]
    _refuse_unknown("the configuration", config, known)
    dataset = config.get("dataset")
    datasets = _section(config, "datasets")
    if dataset not in datasets:
        raise ValueError(f"dataset is {dataset!r}, which `datasets` does not describe; {_nearest(dataset, datasets)}")
    recipes = {name: _recipes(_section(config, name), name, kind) for name, kind in SECTIONS.items()}
    plan = Plan(
        dataset=dataset,
        data=_dataset(datasets[dataset], f"datasets.{dataset}"),
        recipes=recipes,
        execution=build(Execution, _section(config, "execution"), "execution"),
    )
    _check_names(plan)
    _check_references(plan)
    _check_shares(plan)
    return _inheriting_from_weights(plan)


def _inheriting_from_weights(plan: Plan) -> Plan:
    """The plan with each network built and fed as its initial weights require, unless its recipe says otherwise."""

    def resolved(recipe: Any) -> Any:
        if getattr(recipe, "weights", None) is None:
            return recipe
        weights = plan.recipes["weights"][recipe.weights]
        changes: dict[str, Any] = {"normalisation": weights.normalisation} if recipe.normalisation == "native" else {}
        if hasattr(recipe, "options"):
            changes["options"] = {**weights.options, **recipe.options}
        return replace(recipe, **changes)

    recipes = {section: {name: resolved(item) for name, item in named.items()} for section, named in plan.recipes.items()}
    return replace(plan, recipes=recipes)


def canonical(recipe: Any, *keys: str) -> str:
    """A recipe, or some keys of it, as one JSON string: names, values and types all count, the order of keys does not."""
    values = asdict(recipe)
    return json.dumps({key: values[key] for key in keys or values}, sort_keys=True)


def load(kind: type[Recipe], text: str) -> Recipe:
    """The recipe of which `text` is the canonical form."""
    return build(kind, json.loads(text), kind.__name__)


def load_dataset(text: str) -> Any:
    """The data set recipe of which `text` is the canonical form."""
    return _dataset(json.loads(text), "dataset")


def build(kind: type[Recipe], values: Any, where: str) -> Recipe:
    """A dataclass from plain values of YAML or JSON; `where` is the dotted key that messages name."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {values!r}, but must be a mapping of keys to values")
    hints = get_type_hints(kind)
    _refuse_unknown(where, values, list(hints))
    for item in fields(kind):
        if item.name not in values and item.default is MISSING and item.default_factory is MISSING:
            raise ValueError(f"{where} lacks the key {item.name!r}, which has no default")
    given = {key: _value(hints[key], value, f"{where}.{key}", _default(kind, key)) for key, value in values.items()}
    for key, value in given.items():
        _check_range(key, value, f"{where}.{key}")
    return kind(**given)


def _check_range(key: str, value: Any, where: str) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}, but must be a finite number")
        if key in POSITIVE and value <= 0:
            raise ValueError(f"{where} is {value}, but must be positive")
        if value < 0:
            raise ValueError(f"{where} is {value}, but must not be negative")
    if key == "val_share" and not 0 < value < 1:
        raise ValueError(f"{where} is {value}, but must lie between 0 and 1")
    if key in NOT_EMPTY and not value:
        raise ValueError(f"{where} is empty, but must hold at least one item")
    if key in POSITIVE and isinstance(value, tuple):
        for index, item in enumerate(value):
            _check_range(key, item, f"{where}[{index}]")
    if key == "device" and not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError(f"{where} is {value!r}, but must be auto, cpu, cuda, or one of several GPUs such as cuda:1")
    if key == "views":
        for index, name in enumerate(value):
            for part in name.split("+"):
                if part not in VIEW_NAMES:
                    raise ValueError(
                        f"{where}[{index}] is {name!r}, and there is no view {part!r}; {_nearest(part, VIEW_NAMES)}"
                    )


def _default(kind: type, key: str) -> Any:
    return next(item.default for item in fields(kind) if item.name == key)


def _dataset(values: Mapping[str, Any], where: str) -> Any:
    kind = values.get("kind") if isinstance(values, Mapping) else None
    if kind not in DATASETS:
        raise ValueError(f"{where}.kind is {kind!r}, which is no kind of data set; {_nearest(kind, DATASETS)}")
    return build(DATASETS[kind], values, where)


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name) or {}
    if not isinstance(section, Mapping):
        raise ValueError(f"{name} is {section!r}, but must be a mapping of names to recipes")
    return section


def _recipes(section: Mapping[str, Any], name: str, kind: type) -> dict[str, Any]:
    for recipe in section:
        if not re.fullmatch(r"[\w-]+", str(recipe)):
            raise ValueError(f"{name}.{recipe} cannot name files; use letters, digits, _ and -")
    return {recipe: build(kind, _extended(section, recipe, name, ()), f"{name}.{recipe}") for recipe in section}


def _extended(section: Mapping[str, Any], recipe: str, name: str, seen: tuple[str, ...]) -> Any:
    """The values of a recipe over those of the recipe it `extends`, nested mappings merged key by key."""
    values = section[recipe]
    if not isinstance(values, Mapping) or "extends" not in values:
        return values
    parent = values["extends"]
    if parent in (*seen, recipe):
        raise ValueError(f"{name}.{recipe} extends itself through {' -> '.join((*seen, recipe, parent))}")
    if parent not in section:
        raise ValueError(f"{name}.{recipe} extends {parent!r}, which is not in {name}; {_nearest(parent, section)}")
    own = {key: value for key, value in values.items() if key != "extends"}
    return _merged(_extended(section, parent, name, (*seen, recipe)), own)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {k: _merged(base[k], v) for k, v in over.items() if isinstance(v, Mapping) and isinstance(base.get(k), Mapping)}
    return {**base, **over, **both}


def _value(hint: Any, value: Any, where: str, default: Any = MISSING) -> Any:
    """`value` as the annotated type; nested recipes start from the field's own default."""
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _union(options, value, where, default)
    if is_dataclass(hint):
        base = asdict(default) if isinstance(default, hint) else {}
        return build(hint, _merged(base, value) if isinstance(value, Mapping) else value, where)
    if origin is tuple:
        return _tuple(options, value, where)
    if origin is Literal:
        if value not in options or isinstance(value, bool):
            raise ValueError(f"{where} is {value!r}; {_nearest(value, options)}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = Mapping if origin is not None else hint
    if not isinstance(value, plain) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where} is {value!r}, but must be {_expected(hint, value)}")
    return value


def _union(options: tuple[Any, ...], value: Any, where: str, default: Any) -> Any:
    if value is None and type(None) in options:
        return None
    errors = []
    for option in options:
        if option is not type(None):
            try:
                return _value(option, value, where, default)
            except ValueError as error:
                errors.append(error)
    raise errors[-1]


def _tuple(options: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where} is {value!r}, but must be a list")
    if options[-1] is Ellipsis:
        return tuple(_value(options[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(options):
        raise ValueError(f"{where} is {value!r}, but must be a list of {len(options)}")
    return tuple(_value(option, item, f"{where}[{i}]") for i, (option, item) in enumerate(zip(options, value, strict=True)))


def _expected(hint: Any, value: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    expected = names.get(hint, "a mapping of keys to values")
    if hint in (int, float) and isinstance(value, str):
        expected += " (YAML reads 1e-4 as text: write 1.0e-4)"
    return expected


def _refuse_unknown(where: str, values: Mapping[str, Any], known: list[str]) -> None:
    for key in values:
        if key not in known:
            raise ValueError(f"{where} has no key {key!r}; {_nearest(key, known)}")


def _nearest(value: Any, known: Any) -> str:
    names = [str(name) for name in known]
    close = difflib.get_close_matches(str(value), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"it must be one of {', '.join(names) or '(none is defined)'}"


def _check_names(plan: Plan) -> None:
    """Refuses names of data sets and splits that cannot name files, or that files beside the splits have."""
    splits = {f"datasets.{plan.dataset}.{role}": getattr(plan.data, role) for role in ("train", "val")}
    for where, name in {"dataset": plan.dataset, **splits}.items():
        if not re.fullmatch(r"[\w-]+", str(name)):
            raise ValueError(f"{where} is {name!r}, which cannot name files; use letters, digits, _ and -")
        if name in ("skipped", WHOLE) and where in splits:
            raise ValueError(f"{where} is {name!r}, the name of another table beside those of the splits; choose another")
        if name == "test" and plan.data.kind == "voc12":
            raise ValueError(
                f"{where} is 'test', whose masks only VOC's server has; ask for the target voc_test_submission instead"
            )


def _check_shares(plan: Plan) -> None:
    """Refuses batches that the processes which train a network together cannot share out equally."""
    count = plan.execution.processes
    for section in TRAINED:
        for name, recipe in plan.recipes[section].items():
            if recipe.training.batch_size % count:
                raise ValueError(
                    f"{section}.{name}.training.batch_size is {recipe.training.batch_size}, which the {count} processes of "
                    f"execution.processes cannot share out equally; make it a multiple of {count} or change execution.processes"
                )


def _check_references(plan: Plan) -> None:
    for section, recipes in plan.recipes.items():
        for name, recipe in recipes.items():
            rows = enumerate(recipe.rows) if isinstance(recipe, Table) else [(None, recipe)]
            for index, item in rows:
                where = f"{section}.{name}" if index is None else f"{section}.{name}.rows[{index}]"
                _check_reference(plan, item, where)


def _check_reference(plan: Plan, recipe: Any, where: str) -> None:
    for item in fields(recipe):
        section, value = item.metadata.get("section"), getattr(recipe, item.name)
        if section and value is not None and value not in plan.recipes[section]:
            raise ValueError(
                f"{where}.{item.name} is {value!r}, which `{section}` does not define; {_nearest(value, plan.recipes[section])}"
            )
