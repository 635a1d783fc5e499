"""Recipes: one frozen dataclass a stage, each with the names of the recipes it is made from.

The defaults are the paper's values (App. A) or, where the paper is silent, those of the work it builds on. Nothing here
imports torch: planning stays quick.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Normalisation = Literal["native", "imagenet", "half"]
OnUnreadable = Literal["skip", "fail"]  # what a photograph that cannot be read does: it is left out, or it ends the run
VIEW_NAMES = ("identity", "hflip", "vflip", "transpose", "rot90", "rot180", "rot270", "grey", "rotation", "resize", "hide")
PHOTOGRAPHS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # suffixes in a folder of one's own
TRAINED = ("classifiers", "affinities", "segmenters")
WHOLE = "all"  # the split of every photograph of a folder, whatever is known of it


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
    """Initial weights under timm's names: from timm's hub by `model`, or from a local `file`, of safetensors or torch.save.

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
class LayerSweep:
    """Figure 8: seeds of a recipe from its last layer alone, its last two, and so on to all, in one pass over the images."""

    seeds: str = upstream("seeds")


@dataclass(frozen=True)
class Cost:
    """Table 9: training memory and seeds a second of a seeds recipe and its classifier, on the device that the job has."""

    seeds: str = upstream("seeds")
    batch_size: int = 1  # of the training steps
    steps: int = 3  # training steps that are measured
    images: int = 10  # whose seeds are timed, after one that is not


Named = str | tuple[str, ...] | None  # one recipe, or several that differ in their random state and are averaged


@dataclass(frozen=True)
class Row:
    """One of our rows in a table of the paper; `name` is the paper's name of the row.

    Several recipes under one key stand for random states: their figures are shown as mean and standard deviation.
    """

    name: str
    seeds: Named = upstream("seeds", default=None)
    refined: Named = upstream("seeds", default=None)  # the same seeds with affinity refinement, where a table has both
    pseudo_labels: Named = upstream("pseudo_labels", default=None)
    predictions: Named = upstream("predictions", default=None)
    cost: Named = upstream("costs", default=None)

    def recipes(self, key: str) -> tuple[str, ...]:
        """The names of the recipes under a key; none where it is null."""
        value = getattr(self, key)
        return () if value is None else (value,) if isinstance(value, str) else value


@dataclass(frozen=True)
class Table:
    """Our rows of one table of the paper; `columns: classes` shows the IoU of every class instead of means."""

    rows: tuple[Row, ...]
    columns: Literal["means", "classes"] = "means"


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
    "layer_sweeps": LayerSweep,
    "costs": Cost,
    "tables": Table,
}
