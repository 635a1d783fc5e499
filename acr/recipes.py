"""Recipes: one frozen dataclass a stage, each with the names of the recipes it is made from.

The defaults are the paper's values (App. A) or, where the paper is silent, those of the work it builds on. Nothing here
imports torch: planning stays quick.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Normalisation = Literal["native", "imagenet", "half"]
OnUnreadable = Literal["skip", "fail"]  # what a photograph that cannot be read does: it is left out, or it ends the run
VIEW_NAMES = ("identity", "hflip", "vflip", "transpose", "rot90", "rot180", "rot270", "grey", "rotation", "resize", "hide")
METHOD_NAMES = ("gradient", "cam", "ts_cam", "grad_cam", "generic", "class_attention")
PHOTOGRAPHS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # suffixes in a folder of one's own
TRAINED = ("classifiers", "affinities", "segmenters")
WHOLE = "all"  # the split of every photograph of a folder, whatever is known of it


def upstream(section: str, **default: Any) -> Any:
    """A field that holds the name of a recipe of another section."""
    return field(metadata={"section": section}, **default)


def filled_in() -> Any:
    """A field that nobody sets: what a recipe needs of the recipes it names, put there when the configuration is read."""
    return field(default=None, metadata={"filled_in": True})


def published(default: Any, *, official: Any, source: str | Mapping[str, str], **paper: Any) -> Any:
    """A field whose value the paper prints (`paper`; silent where it is not given) or the official code uses.

    `source` says where; for a recipe in a recipe, all three go by its keys. docs/reproducing.md and the presets
    config/paper.yaml and config/official.yaml are held to these.
    """
    return field(default=default, metadata={"official": official, "source": source, **paper})


@dataclass(frozen=True)
class Dataset:
    """What planning and tables ask of a data set's recipe, which narrows its `kind` and adds its `root`."""

    kind: str = ""
    train: str = "train"
    val: str = "val"
    on_unreadable: OnUnreadable = "skip"

    @property
    def ground_truth(self) -> str:
        """What its true masks are, in a word or two of a table."""
        raise NotImplementedError

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
    train_images: int = 800
    val_images: int = 200
    size: int = 96  # pixels a side
    random_state: int = 0

    @property
    def ground_truth(self) -> str:
        return "generated"


@dataclass(frozen=True)
class Voc12(Dataset):
    """PASCAL VOC 2012, with SBD's images where `train` is `train_aug`; `root` is the VOCdevkit folder.

    `masks: SegmentationClassAug` adds masks made from SBD's to VOC's own, for whoever wants an upper bound with masks.
    """

    kind: Literal["voc12"] = "voc12"
    root: str = "data/VOCdevkit"
    train: str = "train_aug"
    masks: Literal["SegmentationClass", "SegmentationClassAug"] = "SegmentationClass"

    @property
    def ground_truth(self) -> str:
        return self.masks

    @property
    def masks_drawn(self) -> bool:
        return self.masks == "SegmentationClassAug"


@dataclass(frozen=True)
class Coco14(Dataset):
    """MS COCO 2014; `root` holds train2014/, val2014/ and annotations/."""

    kind: Literal["coco14"] = "coco14"
    root: str = "data/coco14"
    crowd: Literal["void", "class"] = "void"  # what the pixels of a crowd are in the masks

    @property
    def ground_truth(self) -> str:
        return f"instances, crowd as {self.crowd}"

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

    @property
    def ground_truth(self) -> str:
        return self.masks or "none"

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
    # of products of matrices and convolutions; bfloat16 only pays where the hardware has it
    precision: Literal["float32", "bfloat16"] = "float32"
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
class PixelRefinement:
    """Scores averaged with those of pixels of a like colour around, again and again (PAR: Ru et al., CVPR 2022)."""

    iterations: int = 10
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24)  # cells to the eight neighbours at each of these distances
    tolerance: float = 0.3  # of colour, in standard deviations of a cell's neighbourhood
    stride: int = 2  # pixels of a cell


@dataclass(frozen=True)
class Classifier:
    """A vision transformer trained from tags on two views, with the consistency of Eq. 1, 2 and 6."""

    backbone: str = "vit_base_r50_s16_384"
    weights: str | None = upstream("weights", default=None)
    normalisation: Normalisation = published(
        "native", official="imagenet", source="ImageNet's statistics, though the weights were trained with 0.5"
    )
    class_tokens: Literal["one", "per_class"] = "one"  # per_class: MCTformer (Table 6)
    # whether logits are read after the final LayerNorm or before it
    tokens: Literal["normed", "pre_norm"] = published(
        "normed", official="pre_norm", source="the head reads the last block's output, before the final LayerNorm"
    )
    # of a hybrid's weight-standardised convolutions; null: timm's 1e-8
    standardisation_epsilon: float | None = published(None, official=1e-5, source="StdConv2dSame of its timm")
    # pixels a side of the training crop
    image_size: int = published(384, paper=384, official=384, source="App. A; --crop_size")
    # range the long side is resized to, relative to image_size
    long_side: tuple[float, float] = published(
        (0.9, 1.143), official=(345 / 384, 438 / 384), source="App. A says randomly resized; RandomResizeLong(345, 438)"
    )
    # of the first view
    augmentations: tuple[Literal["hflip", "vflip", "transpose", "channels", "invert"], ...] = published(
        ("hflip",), official=("hflip",), source="a horizontal flip of the first view in half of the cases"
    )
    # one is drawn for each batch; acr.views.VIEWS names them
    views: tuple[str, ...] = published(
        ("hflip",), paper=("hflip",), official=("hflip",), source="Table 7, best row; always a horizontal flip"
    )
    # alpha and beta of Eq. 6
    activation: float = published(100.0, paper=100.0, official=125.0, source="App. A; train_acr.sh")
    affinity: float = published(100.0, paper=100.0, official=125.0, source="App. A; train_acr.sh")
    class_maps: float = 0.0  # weight of SEAM's consistency of class maps: SEAM* of Fig. 1 has it instead of both above
    distance: Literal["l1", "l2", "smooth_l1"] = published("l1", paper="l1", official="l1", source="Table 8; l1_loss")
    # of the entries of an attention: a norm as printed grows with the image
    reduction: Literal["mean", "sum"] = published(
        "mean", paper="sum", official="mean", source="Eq. 1 and 2; l1_loss(..., 'mean')"
    )
    training: Training = published(
        Training(),
        paper={
            "epochs": 15.0,
            "batch_size": 4,
            "optimiser": "sgd",
            "learning_rate": 0.01,
            "weight_decay": 5e-4,
            "schedule": "poly",
        },
        official={
            "epochs": 2.5,
            "batch_size": 1,
            "optimiser": "sgd",
            "learning_rate": 0.05,
            "head_factor": 1.0,
            "weight_decay": 0.0,
            "momentum": 5e-4,
            "schedule": "poly",
            "power": 0.9,
        },
        source={
            "epochs": "App. A; 10 epochs shared out among four processes whose gradients are not synchronised",
            "batch_size": "App. A; --batch_size 1 for each of these processes, of which one is saved",
            "optimiser": "App. A; PolyOptimizer",
            "learning_rate": "App. A; train_acr.sh",
            "head_factor": "one group of parameters",
            "weight_decay": "App. A; not handed on to SGD, whose third argument is its momentum",
            "momentum": "what is meant as weight decay arrives as SGD's momentum",
            "schedule": "App. A; PolyOptimizer, step by step",
            "power": "what PolyOptimizer calls momentum",
        },
    )


@dataclass(frozen=True)
class Seeds:
    """Localisation maps of a classifier: Eq. 7, and Eq. 8 where `refine`; or another method of Table 5."""

    classifier: str = upstream("classifiers")
    method: str = "gradient"  # acr.localisation.METHODS names them
    # pixels a side of a square with the area the photograph is resized to
    image_size: int = published(384, official=384, source="infer_cam.py")
    aspect: Literal["keep", "square"] = published("keep", official="square", source="infer_cam.py squashes to 384 x 384")
    scales: tuple[float, ...] = (1.0,)  # of image_size; maps of several are averaged on the grid of the first
    # last layers that the method reads, null: all; cam reads none
    layers: int | None = published(2, paper=2, official=2, source="Fig. 8 and its text; --start_layer 10")
    # where negative gradients go: from each head, or from each layer's mean of heads
    rectify: Literal["heads", "layers"] = published(
        "heads", paper="layers", official="heads", source="Sec. 3.3 before Eq. 7, which knows no heads; --getam_func grad"
    )
    competition: float = 0.0  # share of the mean of an image's other maps that each loses before it is refined
    refine: bool = published(True, paper=True, official=True, source="Eq. 8; --aff True")
    # averaged: 0 is the first, -1 the last; null: as `layers`
    affinity_layers: tuple[int, ...] | Literal["all"] | None = published(
        None, paper=None, official="all", source="Eq. 8 has the layers of Eq. 7; patch_aff sums all twelve"
    )
    affinity_power: float = 1.0  # of each affinity before its rows are made to sum to one again
    product: Literal["map_times_affinity", "affinity_times_map"] = published(
        "map_times_affinity",
        paper="map_times_affinity",
        official="affinity_times_map",
        source="Eq. 8: M A; matmul(patch_aff, cam): A M",
    )
    flip: bool = published(True, official=True, source="infer_cam.py")  # sum with the maps of the mirrored photograph
    # whether corner cells lie on corner pixels, instead of each cell on its patch
    align_corners: bool = published(False, official=True, source="interpolate(..., align_corners=True)")


@dataclass(frozen=True)
class ConfidentLabels:
    """Where PSA may learn: background (1 - max)^low is generous, (1 - max)^high strict; a CRF sharpens both."""

    low: float = published(1.0, official=1.0, source="--out_crf of infer_cam.py; PSA's own are 4 and 32")
    high: float = published(12.0, official=12.0, source="--out_crf of infer_cam.py; PSA's own are 4 and 32")
    crf: Crf = Crf()


@dataclass(frozen=True)
class Affinity:
    """A network that says whether two neighbouring pixels belong together."""

    seeds: str = upstream("seeds")
    method: Literal["psa", "irn"] = "psa"  # by the distance of their features, or by the boundaries between them
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
    # constant background score; or found without masks: each image's own, or that of all seeds, which a walk would lower
    background: float | Literal["otsu", "otsu_of_split"] = "otsu"
    exponent: float = 8.0  # of the affinities before they are normalised
    walk_steps: int = 256
    pixels: PixelRefinement | None = None  # after the walk
    crf: Crf | None = None  # after both
    # self-training: who learnt from other pseudo labels, and now has a say beside the seeds; and the scales it sees
    segmenter: str | None = upstream("segmenters", default=None)
    segmenter_scales: tuple[float, ...] = (0.5, 0.75, 1.0)
    seeds_weight: float = 1.0  # power of the seeds' probabilities, which are multiplied with those of the segmenter


@dataclass(frozen=True)
class Segmenter:
    """DeepLabV2 trained on pseudo labels."""

    labels: str = upstream("pseudo_labels")
    backbone: str = "resnet101"
    weights: str | None = upstream("weights", default=None)
    # whose transformer is the backbone, as it was trained, in place of `backbone`, `weights` and `stride`
    classifier: str | None = upstream("classifiers", default=None)
    options: Mapping[str, Any] = field(default_factory=dict)
    normalisation: Normalisation = "native"
    freeze_norm: bool = True
    stride: int = 8
    dilations: tuple[int, ...] = (6, 12, 18, 24)
    crop_size: int = 321
    crop_scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    augmentations: tuple[Literal["hflip", "vflip", "transpose", "channels", "invert"], ...] = ("hflip",)
    loss_scales: tuple[float, ...] = (0.5, 0.75)  # beside 1 and the maximum over all
    background_weight: float = 1.0  # of a cell of the background in the loss; cells of classes weigh 1
    training: Training = Training(steps=20_000, batch_size=10, learning_rate=2.5e-4, head_factor=10.0)


@dataclass(frozen=True)
class Predictions:
    """Masks of the reported split: maximum of the logits over scales, then a CRF."""

    segmenter: str = upstream("segmenters")
    scales: tuple[float, ...] = (0.5, 0.75, 1.0)
    crf: Crf | None = Crf(gaussian_xy=1.0, bilateral_xy=67.0, bilateral_rgb=3.0, bilateral_weight=4.0)
    # as whose pseudo labels, but of the tags that the classifier of their seeds finds, the masks are made; and the
    # probability from which it finds one
    labels: str | None = upstream("pseudo_labels", default=None)
    found: float = 0.1
    seeds_weight: float = 1.0  # as that of pseudo labels, but beside a segmenter that has not seen the image
    background_weight: float = 1.0  # of the background's probability, where one of a class weighs 1
    labels_recipe: PseudoLabels | None = filled_in()
    seeds_recipe: Seeds | None = filled_in()


@dataclass(frozen=True)
class LayerSweep:
    """Figure 8: gradient seeds of a recipe from its last layer alone, its last two, and so on, in one pass over the images."""

    seeds: str = upstream("seeds")


@dataclass(frozen=True)
class Cost:
    """Table 9: training memory and seeds a second of a seeds recipe and its classifier, on the device that the job has."""

    seeds: str = upstream("seeds")
    backbone: str | None = None  # in place of the classifier's
    image_size: int | None = None  # in place of that of classifier and seeds
    batch_size: int = 1  # of the training steps
    training_steps: int = 3  # that are measured
    images: int = 10  # whose seeds are timed


@dataclass(frozen=True)
class Row:
    """One of our rows in a table of the paper; `name` is the paper's name of the row.

    Several recipes under one key stand for random states: their figures are shown as mean and standard deviation.
    """

    name: str
    seeds: str | tuple[str, ...] | None = upstream("seeds", default=None)
    # the same seeds with affinity refinement, where a table has both
    refined: str | tuple[str, ...] | None = upstream("seeds", default=None)
    pseudo_labels: str | tuple[str, ...] | None = upstream("pseudo_labels", default=None)
    predictions: str | tuple[str, ...] | None = upstream("predictions", default=None)
    cost: str | tuple[str, ...] | None = upstream("costs", default=None)

    def recipes(self, key: str) -> tuple[str, ...]:
        """The names of the recipes under a key; none where it is null."""
        value = getattr(self, key)
        return () if value is None else (value,) if isinstance(value, str) else value


MEASURED = {item.name: item.metadata["section"] for item in fields(Row) if item.metadata}  # key of a row -> stage of metrics


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
    threads: int = 16  # of a job that runs a network or CRFs, where as many cores are allowed
    batch: int = 1  # photographs of one size localised at once: more are quicker on a GPU, or if small
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
