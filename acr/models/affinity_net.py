"""The PSA network: features of pixels whose distance says whether two neighbours belong together (Ahn and Kwak, CVPR 2018)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from acr.models.features import FeatureBackbone

WIDTHS = (64, 128, 256)  # of the reduced levels, shallow to deep


class AffinityHead(nn.Module):
    """Levels, each reduced by a 1x1 convolution, put side by side and mixed by another; none has a bias."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        # never wider than the level itself, which a small backbone's levels may be
        widths = [min(width, count) for width, count in zip(WIDTHS[-len(channels) :], channels, strict=True)]
        layers = [nn.Conv2d(*pair, kernel_size=1, bias=False) for pair in zip(channels, widths, strict=True)]
        self.reduce = nn.ModuleList(layers)
        self.mix = nn.Conv2d(sum(widths), sum(widths), kernel_size=1, bias=False)
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight)
        # PSA's gain: affinities that start well below one have a gradient to follow
        nn.init.xavier_uniform_(self.mix.weight, gain=4)

    def forward(self, levels: list[Tensor], height: int, width: int) -> Float[Tensor, "B F h w"]:
        """Features on a grid of `height` x `width` cells, to which every level is resized."""
        reduced = [functional.elu(reduce(level)) for reduce, level in zip(self.reduce, levels, strict=True)]
        resized = [functional.interpolate(level, (height, width), mode="bilinear") for level in reduced]
        return functional.elu(self.mix(torch.cat(resized, dim=1)))


class AffinityNet(nn.Module):
    """A backbone's last three levels and a head of 1x1 convolutions, on a grid of one cell every `stride` pixels."""

    def __init__(self, backbone: str, stride: int, normalisation: str, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.stride = stride
        self.backbone = FeatureBackbone(backbone, stride, normalisation, options)
        self.head = AffinityHead(self.backbone.channels[-len(WIDTHS) :])

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F h w"]:
        """Features, of which h = ceil(H / stride) and w = ceil(W / stride), of RGB `images` in [0, 1]."""
        height, width = (math.ceil(side / self.stride) for side in images.shape[-2:])
        levels = self.backbone(images)
        return self.head(levels[-len(WIDTHS) :], height, width)


def build_affinity_net(description: Mapping[str, Any]) -> AffinityNet:
    """The network that model.json describes: its keys backbone, stride, normalisation and options."""
    return AffinityNet(*(description[key] for key in ("backbone", "stride", "normalisation", "options")))
