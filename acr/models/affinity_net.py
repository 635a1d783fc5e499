"""Networks that say whether two neighbouring pixels belong together: PSA's, of features whose distance counts, and IRN's.

PSA: Ahn and Kwak, CVPR 2018. IRN, of boundaries that lie between pixels: Ahn, Cho and Kwak, CVPR 2019.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from acr.models.features import FeatureBackbone

WIDTHS = (64, 128, 256)  # of the reduced levels of PSA, shallow to deep
BOUNDARY_WIDTH, GROUPS = 32, 4  # of every level of IRN, and the groups that its channels are normalised in


def side_by_side(levels: list[Tensor], height: int, width: int) -> Float[Tensor, "B F h w"]:
    """All channels of levels of any sizes, on one grid of `height` x `width` cells."""
    return torch.cat([functional.interpolate(level, (height, width), mode="bilinear") for level in levels], dim=1)


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
        return functional.elu(self.mix(side_by_side(reduced, height, width)))


class BoundaryHead(nn.Module):
    """Levels, each reduced by a 1x1 convolution and normalised, put side by side, and one boundary made of them by another."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(self._reduce(count) for count in channels)
        self.mix = nn.Conv2d(BOUNDARY_WIDTH * len(channels), 1, kernel_size=1)

    @staticmethod
    def _reduce(channels: int) -> nn.Module:
        convolution = nn.Conv2d(channels, BOUNDARY_WIDTH, kernel_size=1, bias=False)
        return nn.Sequential(convolution, nn.GroupNorm(GROUPS, BOUNDARY_WIDTH), nn.ReLU())

    def forward(self, levels: list[Tensor], height: int, width: int) -> Float[Tensor, "B 1 h w"]:
        """Boundaries in [0, 1] on a grid of `height` x `width` cells, to which every level is resized."""
        reduced = [reduce(level) for reduce, level in zip(self.reduce, levels, strict=True)]
        return self.mix(side_by_side(reduced, height, width)).sigmoid()


class AffinityNet(nn.Module):
    """A backbone and a head of 1x1 convolutions, on a grid of one cell every `stride` pixels.

    PSA's head reads the last three levels; IRN's all. deviates: IRN's cells are of 4 pixels, and another branch of it finds
    instances.
    """

    def __init__(self, backbone: str, stride: int, normalisation: str, options: Mapping[str, Any], method: str = "psa") -> None:
        super().__init__()
        self.stride, self.method = stride, method
        self.backbone = FeatureBackbone(backbone, stride, normalisation, options)
        channels = self.backbone.channels
        self.head = AffinityHead(channels[-len(WIDTHS) :]) if method == "psa" else BoundaryHead(channels)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F h w"]:
        """Features, of which h = ceil(H / stride) and w = ceil(W / stride), of RGB `images` in [0, 1].

        One feature in IRN: the boundary in [0, 1].
        """
        height, width = (math.ceil(side / self.stride) for side in images.shape[-2:])
        levels = self.backbone(images)
        return self.head(levels[-len(self.head.reduce) :], height, width)


def build_affinity_net(description: Mapping[str, Any]) -> AffinityNet:
    """The network that model.json describes: its keys backbone, stride, normalisation, options and method."""
    return AffinityNet(*(description[key] for key in ("backbone", "stride", "normalisation", "options", "method")))
