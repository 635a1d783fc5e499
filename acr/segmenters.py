"""Segmenters: DeepLabV2 trained on pseudo labels, and the masks it predicts (Chen et al., TPAMI 2018; App. A).

The recipe is that of kazuto1011/deeplab-pytorch, which the field trains with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional

from acr import config
from acr.augmentations import augment, random_window
from acr.datasets.base import Split, read_split
from acr.distributed import mean_count, on_all_devices
from acr.files import read_json
from acr.images import (
    check_mask,
    crop,
    read_image,
    read_mask,
    resize_image,
    resize_mask,
    working_size,
)
from acr.models.deeplab import DeepLabV2, build_deeplab, labels_at, logits_at_scales, maximum, upsample
from acr.models.vit import patch_of
from acr.models.weights import load_state, load_weights
from acr.recipes import Execution, Segmenter
from acr.shapes import BACKGROUND, VOID
from acr.training import Run, fit, freeze_norm, freeze_stem, save_trained


def cross_entropy(
    logits: Float[Tensor, "B K h w"], labels: UInt8[Tensor, "B h w"], background_weight: float = 1.0
) -> Float[Tensor, ""]:
    """The weighted mean over cells that are not VOID, of all processes that train together; 0 where all are.

    Cells of the background weigh `background_weight`, all others 1.
    """
    weights = logits.new_ones(logits.shape[1])
    weights[BACKGROUND] = background_weight
    total = functional.cross_entropy(logits, labels.long(), weights, ignore_index=VOID, reduction="sum")
    of_cells = torch.where(labels == BACKGROUND, background_weight, 1.0) * (labels != VOID)
    return total / mean_count(of_cells)


class Objective(nn.Module):
    """Cross-entropy summed over scale 1, the `loss_scales`, and the maximum of the logits over all of these."""

    def __init__(self, model: DeepLabV2, loss_scales: Sequence[float], background_weight: float = 1.0) -> None:
        super().__init__()
        self.model, self.scales, self.background_weight = model, (1.0, *loss_scales), background_weight

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The terms, of which `loss` is the sum, for uint8 images "B 3 H W" and uint8 masks "B H W"."""
        logits = logits_at_scales(self.model, batch["image"].float() / 255, self.scales)
        compared = {f"scale_{scale:g}": each for scale, each in zip(self.scales, logits, strict=True)}
        if len(logits) > 1:
            compared["maximum"] = maximum(logits)
        terms = {}
        for name, each in compared.items():
            labels = labels_at(batch["mask"], each.shape[-2], each.shape[-1], self.model.stride)
            terms[name] = cross_entropy(each, labels, self.background_weight)
        first, *others = terms.values()
        return {"loss": sum(others, first), **terms}


@dataclass(frozen=True)
class Sample:
    """One training image and its pseudo label: augmented, resized, and cropped with padding of the mean colour and VOID."""

    split: Split
    masks: str
    recipe: Segmenter
    fill: tuple[int, int, int]

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        record, size = self.split.records[index], self.recipe.crop_size
        path = Path(self.masks) / f"{record.image_id}.png"
        image, mask = read_image(record.image), read_mask(path)
        check_mask(mask, image.shape[:2], len(self.split.classes), path)
        image, mask = augment((image, mask), self.recipe.augmentations, rng)
        scale = rng.choice(self.recipe.crop_scales)
        height, width = (max(1, round(scale * side)) for side in working_size(*mask.shape))
        top, left = random_window(rng, height, width, size)
        image = crop(resize_image(image, height, width), top, left, size, self.fill)
        mask = crop(resize_mask(mask, height, width), top, left, size, VOID)
        return {"image": np.ascontiguousarray(image.transpose(2, 0, 1)), "mask": mask}


@torch.inference_mode()
def scores(model: DeepLabV2, image: UInt8[np.ndarray, "H W 3"], scales: Sequence[float]) -> Float32[np.ndarray, "K H W"]:
    """Probabilities of background and classes at every pixel: softmax of the maximum of the logits over `scales`."""
    device = model.backbone.normalise.mean.device
    images = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 255
    logits = maximum(logits_at_scales(model, images, scales))
    # the maximum lies on the grid of the largest scale: from there to the pixels of the image
    height, width = image.shape[:2]
    return upsample(logits, height, width, model.stride).softmax(1)[0].cpu().numpy()


# ---- disk ----------------------------------------------------------------------------------------------------------------


@on_all_devices
def train_segmenter(
    *,
    split: str,
    masks: str,
    weights: str | None,
    classifier: str | None = None,
    recipe: str,
    execution: Mapping,
    folder: str,
    made_from: Mapping,
) -> None:
    """Trains a `segmenters` recipe and writes model and history into `folder`.

    Args:
        split: table of the training split.
        masks: folder of the pseudo labels, {image_id}.png.
        weights: initial weights of the backbone; None starts from random values.
        classifier: model.safetensors of a classifier, from whose transformer the backbone starts instead.
        recipe: a Segmenter.
        execution: how to run.
        folder: where model.safetensors, model.json and history.csv go.
        made_from: all that they are a function of (`acr.provenance.source`): an interrupted run of it is continued.
    """
    wanted, data = config.load(Segmenter, recipe), read_split(split)
    torch.manual_seed(wanted.training.random_state)
    keys = ("backbone", "options", "stride", "dilations", "normalisation")
    description = {"kind": "segmenter", "classes": list(data.classes), **{key: getattr(wanted, key) for key in keys}}
    if classifier:
        description["stride"] = patch_of(wanted.backbone)
    model = build_deeplab(description)
    if classifier:
        load_state(model.backbone, classifier, optional=("network.norm.",))  # one that reads tokens before it has none
    else:
        load_weights(model.backbone.network, weights)
    if weights:
        freeze_stem(model.backbone.network)
    if wanted.freeze_norm:
        freeze_norm(model)
    sample = Sample(data, masks, wanted, model.backbone.normalise.fill)
    objective = Objective(model, wanted.loss_scales, wanted.background_weight)
    run = Run(Path(folder), made_from, config.build(Execution, execution, "execution"))
    described = description | {"mask_values": ["background", *data.classes]} | model.backbone.normalise.described
    save_trained(run, model, described, fit(objective, len(data.records), sample, wanted.training, run))


def read_segmenter(model: str | Path) -> DeepLabV2:
    """The segmenter of a model.safetensors and the model.json beside it, frozen and in evaluation mode."""
    network = build_deeplab(read_json(Path(model).with_suffix(".json")))
    load_state(network, model)
    return network.requires_grad_(False).eval()
