"""Any timm network as a source of feature maps, with its own normalisation."""

import difflib
from collections.abc import Mapping
from typing import Any

import timm
import torch
from jaxtyping import Float
from timm.models import FeatureInfo, register_model
from torch import Tensor, nn

from acr.models.resnet38 import resnet38

STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
register_model(resnet38)  # from here on a name of timm's like any other


def check_name(name: str, where: str) -> None:
    """Refuses a name that timm does not know, by a ValueError that says `where` it stands and names the nearest one."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1)
        advice = f"did you mean {near[0]!r}?" if near else "see timm.list_models()"
        raise ValueError(f"{where} is {name!r}, which timm does not know; {advice}")


def statistics(backbone: str, normalisation: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of RGB in [0, 1]: `native` are those the weights of the timm model were trained with."""
    if normalisation != "native":
        return STATISTICS[normalisation]
    native = timm.get_pretrained_cfg(backbone)
    return (native.mean, native.std) if native else STATISTICS["imagenet"]


class Normalise(nn.Module):
    """(image - mean) / std with the statistics as buffers, so that they are saved with the model."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: str, normalisation: str) -> None:
        super().__init__()
        check_name(backbone, "backbone")
        mean, std = statistics(backbone, normalisation)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        return (images - self.mean) / self.std

    @property
    def described(self) -> dict[str, Any]:
        """What model.json says of the photographs a network sees: channels, their range, and the statistics."""
        statistics = {name: [round(value, 6) for value in getattr(self, name).flatten().tolist()] for name in ("mean", "std")}
        return {"input": {"channels": "RGB", "range": [0, 1], **statistics}}

    @property
    def fill(self) -> tuple[int, int, int]:
        """The mean colour in 0..255: padding of this colour is (within rounding) zero after normalisation."""
        red, green, blue = (round(255 * float(value)) for value in self.mean.flatten())
        return red, green, blue


class FeatureBackbone(nn.Module):
    """Feature maps of all levels of a timm network, shallow to deep; no level is coarser than `stride`."""

    def __init__(self, backbone: str, stride: int, normalisation: str, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.normalise = Normalise(backbone, normalisation)
        self.network = timm.create_model(backbone, features_only=True, output_stride=stride, **options)
        levels = self.network.feature_info
        assert isinstance(levels, FeatureInfo)
        self.channels = tuple(levels.channels())

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Feature maps "B c h w" of RGB `images` in [0, 1]."""
        return self.network(self.normalise(images))
