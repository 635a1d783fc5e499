"""The wide residual network of PSA and of what builds on it (Wu et al., "Wider or Deeper", model A1), as a source of levels.

Names and shapes are those of the published res38_cls.pth, so that it fits as it is. timm has no such network;
`acr.models.features` registers this one beside timm's.
"""

from typing import Any

from jaxtyping import Float
from timm.models import FeatureInfo
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 8
LEVELS = {"b5": 512, "b6": 1024, "bn7": 4096}  # in front of which layer a level is taken, and its channels


class Residual(nn.Module):
    """A branch of convolutions, each after a batch norm and a ReLU, beside the input or a 1x1 convolution of it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        fits = inputs == outputs and stride == 1
        self.conv_branch1 = None if fits else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, values: Float[Tensor, "B i h w"]) -> tuple[Float[Tensor, "B i h w"], Float[Tensor, "B o _ _"]]:
        """The activated input, which both convolutions begin with, and the output."""
        active = _active(self.bn_branch2a, values)
        shortcut = values if self.conv_branch1 is None else self.conv_branch1(active)
        return active, shortcut + self.branch(active)

    def branch(self, active: Float[Tensor, "B i h w"]) -> Float[Tensor, "B o _ _"]:
        """What the convolutions behind the first activation make of it."""
        raise NotImplementedError


class Block(Residual):
    """Two 3x3 convolutions.

    Args:
        channels: of the input, between the convolutions, and of the output.
        stride: of the first convolution.
        dilations: of the two.
    """

    def __init__(self, channels: tuple[int, int, int], stride: int = 1, dilations: tuple[int, int] = (1, 1)) -> None:
        inputs, inner, outputs = channels
        first, second = dilations
        super().__init__(inputs, outputs, stride)
        self.conv_branch2a = nn.Conv2d(inputs, inner, 3, stride, padding=first, dilation=first, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(inner)
        self.conv_branch2b1 = nn.Conv2d(inner, outputs, 3, padding=second, dilation=second, bias=False)

    def branch(self, active: Float[Tensor, "B i h w"]) -> Float[Tensor, "B o _ _"]:
        return self.conv_branch2b1(_active(self.bn_branch2b1, self.conv_branch2a(active)))


class Bottleneck(Residual):
    """A 1x1, a dilated 3x3 and a 1x1 convolution to `inner`, twice and four times as many channels; whole maps drop out."""

    def __init__(self, inputs: int, inner: int, dilation: int, dropout: float) -> None:
        super().__init__(inputs, 4 * inner, stride=1)
        self.conv_branch2a = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(inner)
        self.conv_branch2b1 = nn.Conv2d(inner, 2 * inner, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn_branch2b2 = nn.BatchNorm2d(2 * inner)
        self.conv_branch2b2 = nn.Conv2d(2 * inner, 4 * inner, 1, bias=False)
        self.dropout = nn.Dropout2d(dropout)

    def branch(self, active: Float[Tensor, "B i h w"]) -> Float[Tensor, "B o _ _"]:
        inner = self.dropout(_active(self.bn_branch2b1, self.conv_branch2a(active)))
        return self.conv_branch2b2(self.dropout(_active(self.bn_branch2b2, self.conv_branch2b1(inner))))


def _active(norm: nn.BatchNorm2d, values: Tensor) -> Tensor:
    return functional.relu(norm(values))


class ResNet38(nn.Module):
    """Levels of 512, 1024 and 4096 channels with one cell every 8 pixels: PSA's conv4, conv5 and conv6.

    `frozen` names the layers that PSA and its successors leave as they were pretrained.
    """

    frozen = ("conv1a", "b2", "b2_1", "b2_2")

    def __init__(self) -> None:
        super().__init__()
        self.conv1a = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self._add("b2", 3, (64, 128, 128), 2)
        self._add("b3", 3, (128, 256, 256), 2)
        self._add("b4", 6, (256, 512, 512), 2)
        self._add("b5", 3, (512, 512, 1024), 1, (1, 2))
        self.b6 = Bottleneck(1024, 512, dilation=4, dropout=0.3)
        self.b7 = Bottleneck(2048, 1024, dilation=4, dropout=0.5)
        self.bn7 = nn.BatchNorm2d(4096)
        levels = [{"num_chs": count, "reduction": STRIDE, "module": name} for name, count in LEVELS.items()]
        self.feature_info = FeatureInfo(levels, out_indices=tuple(range(len(levels))))

    def _add(
        self, name: str, count: int, channels: tuple[int, int, int], stride: int, dilations: tuple[int, int] = (1, 1)
    ) -> None:
        """Adds the blocks `name`, `name`_1, ...: of these only the first has the stride and changes channels and dilation."""
        _, inner, outputs = channels
        self.add_module(name, Block(channels, stride, dilations))
        for number in range(1, count):
            self.add_module(f"{name}_{number}", Block((outputs, inner, outputs), dilations=(dilations[1], dilations[1])))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ h w"]]:
        """The levels of normalised images, shallow to deep, of which h = ceil(H / 8) and w = ceil(W / 8)."""
        values, levels = self.conv1a(images), []
        for name, block in self.named_children():
            if isinstance(block, Residual):
                active, values = block(values)
                if name in LEVELS:
                    levels.append(active)
        return [*levels, _active(self.bn7, values)]


def resnet38(
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    cache_dir: Any = None,
    *,
    features_only: bool,
    output_stride: int,
) -> ResNet38:
    """The network as timm builds it; it is no classifier, and no hub has its weights.

    Raises:
        ValueError: another stride than 8.
    """
    assert features_only
    assert not pretrained
    if output_stride != STRIDE:
        raise ValueError(f"stride is {output_stride}, but resnet38 has one cell every {STRIDE} pixels; set stride to {STRIDE}")
    return ResNet38()
