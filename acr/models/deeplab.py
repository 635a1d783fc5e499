"""DeepLabV2 (Chen et al., TPAMI 2018) over any timm backbone.

Images are padded to sides of a multiple of the stride plus one. Strided convolutions of odd kernels then put cell (i, j)
exactly over pixel (i stride, j stride), whatever the style of their padding, so that grids of all scales share their
corners: resizing between them aligns corners, and the label of a cell is that of one pixel.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from acr.models.features import FeatureBackbone
from acr.models.vit import VitFeatures, is_transformer
from acr.shapes import VOID


class Aspp(nn.ModuleList):
    """Atrous spatial pyramid pooling: the sum of 3x3 convolutions of several dilations."""

    def __init__(self, channels: int, classes: int, dilations: Sequence[int]) -> None:
        layers = [nn.Conv2d(channels, classes, 3, padding=dilation, dilation=dilation) for dilation in dilations]
        super().__init__(layers)
        for layer in layers:
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, features: Float[Tensor, "B D h w"]) -> Float[Tensor, "B K h w"]:
        return sum(layer(features) for layer in self)


class DeepLabV2(nn.Module):
    """The last level of a backbone and an ASPP head; K = `classes` counts the background."""

    def __init__(
        self,
        backbone: str,
        stride: int,
        normalisation: str,
        options: Mapping[str, Any],
        *,
        classes: int,
        dilations: Sequence[int],
    ) -> None:
        super().__init__()
        self.stride = stride
        if is_transformer(backbone):
            self.backbone: FeatureBackbone | VitFeatures = VitFeatures(backbone, stride, normalisation, options)
        else:
            self.backbone = FeatureBackbone(backbone, stride, normalisation, options)
        self.head = Aspp(self.backbone.channels[-1], classes, dilations)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K h w"]:
        """Logits of RGB `images` in [0, 1], of which cell (i, j) belongs to pixel (i stride, j stride).

        h = ceil((H - 1) / stride) + 1, and w likewise. A backbone of another grid, as of stems with even kernels, is
        resized to this one.
        """
        images = self.pad(images)
        height, width = (1 + (side - 1) // self.stride for side in images.shape[-2:])
        logits = self.head(self.backbone(images)[-1])
        return functional.interpolate(logits, (height, width), mode="bilinear", align_corners=True)

    def pad(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 i j"]:
        """The images, continued below and to the right with the mean colour to sides of a multiple of the stride plus one."""
        mean = self.backbone.normalise.mean
        return functional.pad(images - mean, _margins(images, self.stride)) + mean


def padded_side(side: int, stride: int) -> int:
    """The smallest multiple of the stride, plus one, that is no less than `side` pixels."""
    return 1 + stride * math.ceil((side - 1) / stride)


def _margins(pixels: Tensor, stride: int) -> tuple[int, int, int, int]:
    """What `pixels` "... H W" lack at their left, right, top and bottom."""
    bottom, right = (padded_side(side, stride) - side for side in pixels.shape[-2:])
    return 0, right, 0, bottom


def logits_at_scales(
    model: DeepLabV2, images: Float[Tensor, "B 3 H W"], scales: Sequence[float]
) -> list[Float[Tensor, "B K _ _"]]:
    """The logits of the images at each scale, on the grids of the resized images."""
    padded = model.pad(images)
    return [model(_resized(padded, scale, model.stride)) for scale in scales]


def _resized(images: Float[Tensor, "B 3 H W"], scale: float, stride: int) -> Float[Tensor, "B 3 _ _"]:
    """Padded images at about `scale`, again with sides of a multiple of the stride plus one."""
    height, width = (1 + stride * max(1, round(scale * (side - 1) / stride)) for side in images.shape[-2:])
    if (height, width) == tuple(images.shape[-2:]):
        return images
    return functional.interpolate(images, (height, width), mode="bilinear", align_corners=True, antialias=True)


def maximum(logits: Sequence[Float[Tensor, "B K _ _"]]) -> Float[Tensor, "B K h w"]:
    """The element-wise maximum of logits of several grids, resized to the largest."""
    largest = max((tuple(each.shape[-2:]) for each in logits), key=math.prod)
    resized = [functional.interpolate(each, largest, mode="bilinear", align_corners=True) for each in logits]
    return torch.stack(resized).amax(0)


def upsample(logits: Float[Tensor, "B K h w"], height: int, width: int, stride: int) -> Float[Tensor, "B K {height} {width}"]:
    """Logits of a grid over a padded image, at every pixel of the image of `height` x `width`."""
    sides = [padded_side(side, stride) for side in (height, width)]
    return functional.interpolate(logits, sides, mode="bilinear", align_corners=True)[..., :height, :width]


def labels_at(labels: UInt8[Tensor, "B H W"], height: int, width: int, stride: int) -> UInt8[Tensor, "B {height} {width}"]:
    """The label of the pixel nearest to each cell of a grid over the padded image; VOID where that is padding."""
    padded = functional.pad(labels, _margins(labels, stride), value=VOID)
    rows = torch.linspace(0, padded.shape[1] - 1, height, device=labels.device).round().long()
    columns = torch.linspace(0, padded.shape[2] - 1, width, device=labels.device).round().long()
    return padded[:, rows[:, None], columns]


def build_deeplab(description: Mapping[str, Any]) -> DeepLabV2:
    """The network that model.json describes: keys backbone, stride, normalisation, options, classes, dilations."""
    return DeepLabV2(
        *(description[key] for key in ("backbone", "stride", "normalisation", "options")),
        classes=len(description["classes"]) + 1,
        dilations=description["dilations"],
    )
