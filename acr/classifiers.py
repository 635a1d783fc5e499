"""Classifiers: a vision transformer trained from tags on an image and a view of it (Sec. 3.2, Eq. 6, App. A)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from acr import config
from acr.augmentations import augment, random_window
from acr.consistency import class_map_consistency, view_consistency
from acr.datasets.base import Split, read_split
from acr.devices import device_of
from acr.distributed import on_all_devices
from acr.files import read_json, write_json
from acr.images import crop, read_image, resize_image
from acr.measures import average_precision, identity, mean_of_known, number
from acr.models.attention import Keep
from acr.models.mctformer import MctFormer
from acr.models.trace import Trace, all_kept
from acr.models.vit import VitClassifier
from acr.models.weights import load_state, load_weights
from acr.progress import Progress
from acr.recipes import Classifier, Execution
from acr.shapes import Grid
from acr.training import Run, fit, save_trained
from acr.views import View, draw


def two_views(model: Callable[[Tensor], Trace], images: Float[Tensor, "B 3 H W"], view: View) -> tuple[Trace, Trace]:
    """The traces of a batch and of its view: one forward pass of both where their sizes agree, else two."""
    viewed = view.forward(images)
    if viewed.shape != images.shape:
        return model(images), model(viewed)
    both, count = model(torch.cat([images, viewed])), len(images)
    return _part(both, slice(count)), _part(both, slice(count, None))


def _part(trace: Trace, images: slice) -> Trace:
    attentions = tuple(attention[images] for attention in all_kept(trace.attentions))
    class_maps = None if trace.class_maps is None else trace.class_maps[images]
    return replace(trace, logits=trace.logits[images], attentions=attentions, class_maps=class_maps)


class Objective(nn.Module):
    """Eq. 6: classification of both views + alpha activation consistency + beta affinity consistency.

    SEAM* has consistency of the class maps in their place, whose means learn the tags as SEAM's do; the paper does not
    define it further.
    """

    def __init__(self, model: VitClassifier, recipe: Classifier) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The terms, of which `loss` is the weighted sum, for uint8 images "B 3 H W" and 0/1 tags "B C"."""
        images, recipe = batch["image"].float() / 255, self.recipe
        grid = Grid(images.shape[-2] // self.model.patch, images.shape[-1] // self.model.patch)
        view = draw(recipe.views, np.random.default_rng([recipe.training.random_state, int(batch["step"])]), grid)
        keep = Keep(class_maps=self.model.pooled or recipe.class_maps > 0)
        trace, viewed = two_views(partial(self.model, keep=keep), images, view)
        tags, sides = batch["tags"], (trace, viewed)
        heads = [logits for side in sides for logits in side.heads]
        if recipe.class_maps and not self.model.pooled:  # class maps that learn nothing would agree best where all are zero
            heads += [side.kept_class_maps.mean(-1) for side in sides]
        classification = sum(functional.multilabel_soft_margin_loss(logits.to(tags.dtype), tags) for logits in heads)
        terms = view_consistency(trace, viewed, view, recipe.distance, recipe.reduction)._asdict()
        loss = classification + recipe.activation * terms["activation"] + recipe.affinity * terms["affinity"]
        if recipe.class_maps:
            terms["class_maps"] = class_map_consistency(trace, viewed, view, tags)
            loss = loss + recipe.class_maps * terms["class_maps"]
        return {"loss": loss, "classification": classification, **terms}


@dataclass(frozen=True)
class Sample:
    """One training image: augmented, resized by its long side, cropped with padding of the mean colour, and its tags."""

    split: Split
    recipe: Classifier
    fill: tuple[int, int, int]

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        record, size = self.split.records[index], self.recipe.image_size
        (image,) = augment((read_image(record.image),), self.recipe.augmentations, rng)
        scale = size * rng.uniform(*self.recipe.long_side) / max(image.shape[:2])
        height, width = (max(1, round(scale * side)) for side in image.shape[:2])
        top, left = random_window(rng, height, width, size)
        image = crop(resize_image(image, height, width), top, left, size, self.fill)
        return {"image": np.ascontiguousarray(image.transpose(2, 0, 1)), "tags": self.split.tags(record)}


@torch.inference_mode()
def tag_logits(model: VitClassifier, photograph: UInt8[np.ndarray, "H W 3"], image_size: int) -> Float[np.ndarray, " C"]:
    """Logits of a photograph that is squashed to a square of `image_size` pixels a side."""
    image = torch.from_numpy(resize_image(photograph, image_size, image_size)).permute(2, 0, 1)[None]
    image = image.to(model.normalise.mean.device).float() / 255
    return model(image, Keep(attention=())).logits[0].cpu().numpy()


def tag_probabilities(model: VitClassifier, photograph: UInt8[np.ndarray, "H W 3"], image_size: int) -> Float[np.ndarray, " C"]:
    """The probability in [0, 1] of each class of a photograph; see `tag_logits`."""
    return 1 / (1 + np.exp(-tag_logits(model, photograph, image_size)))


def predict_tags(split: Split, model: str | Path, execution: Execution) -> Float[np.ndarray, "M C"]:
    """Logits of every image of a split, squashed to the square the classifier was trained on."""
    size = read_json(Path(model).with_suffix(".json"))["image_size"]
    network = read_classifier(model).to(device_of(execution))
    progress = Progress(split.records, "tags")
    return np.stack([tag_logits(network, read_image(record.image), size) for record in progress])


@on_all_devices
def train_classifier(
    *, split: str, weights: str | None, recipe: str, execution: Mapping, folder: str, made_from: Mapping
) -> None:
    """Trains a `classifiers` recipe on a split and writes model and history into `folder`; see `train_segmenter`."""
    wanted, data = config.load(Classifier, recipe), read_split(split)
    torch.manual_seed(wanted.training.random_state)
    description = describe(wanted, data.classes)
    model = build_classifier(description)
    load_weights(model.network, weights, optional=("head",), fit=model.fitted)
    objective, sample = Objective(model, wanted), Sample(data, wanted, model.normalise.fill)
    run = Run(Path(folder), made_from, config.build(Execution, execution, "execution"))
    described = description | model.normalise.described
    save_trained(run, model, described, fit(objective, len(data.records), sample, wanted.training, run))


def describe(recipe: Classifier, classes: Sequence[str]) -> dict[str, Any]:
    """What model.json says of a classifier: all that is needed to build it again."""
    keys = ("backbone", "image_size", "normalisation", "tokens", "class_tokens", "standardisation_epsilon")
    return {"kind": "classifier", "classes": list(classes), **{key: getattr(recipe, key) for key in keys}}


def build_classifier(description: Mapping[str, Any]) -> VitClassifier:
    """The classifier that a model.json describes, with random weights."""
    kind = {"one": VitClassifier, "per_class": MctFormer}[description["class_tokens"]]
    keys = ("tokens", "standardisation_epsilon")
    options = {key: description[key] for key in keys}
    return kind(description["backbone"], len(description["classes"]), description["normalisation"], **options)


def read_classifier(model: str | Path) -> VitClassifier:
    """The trained classifier of a model.safetensors and the model.json beside it, frozen and in evaluation mode."""
    network = build_classifier(read_json(Path(model).with_suffix(".json")))
    load_state(network, model)
    return network.requires_grad_(False).eval()


def measure_classifier(
    *, split: str, model: str, recipe: str, execution: Mapping, dataset: str, name: str, output: str
) -> None:
    """Writes the average precision of a classifier's tags on a split, for which no mask is needed.

    `model` is the model.safetensors of a classifier, `execution` how to run; the others are those of
    `acr.metrics.measure_seeds`.
    """
    records = read_split(split)
    scores = predict_tags(records, model, config.build(Execution, execution, "execution"))
    precision = average_precision(scores, np.stack([records.tags(record) for record in records.records]))
    by_class = {label: number(value) for label, value in zip(records.classes, precision, strict=True)}
    content = identity(records, "classifiers", recipe, dataset, name, len(records.records))
    content |= {"mean_average_precision": number(float(mean_of_known(precision))), "average_precision": by_class}
    write_json(output, content)
