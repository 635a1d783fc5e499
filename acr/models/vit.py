"""Vision transformers of timm as classifiers that leave a Trace; and the small one that the default data set trains."""

from collections.abc import Mapping
from typing import Any, Literal

import timm
import torch
from jaxtyping import Float
from timm.layers import StdConv2d, StdConv2dSame
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from acr.models.attention import ATTENTION, Keep, attention_layer, readable, through
from acr.models.features import Normalise, check_name
from acr.models.trace import Trace
from acr.shapes import Grid


class VitClassifier(nn.Module):
    """A timm vision transformer whose class token is classified; any input size that its patches divide.

    Args:
        backbone: timm's name of a ViT with a class token, whose blocks hand their attention to a dropout layer.
        classes: C.
        normalisation: see `acr.models.features.statistics`.
        tokens: whether logits are read after the final LayerNorm, as backbones are pretrained, or `pre_norm`, before it, as
            in the official code.
        standardisation_epsilon: of weight-standardised convolutions (a hybrid's stem); None leaves timm's.

    Raises:
        ValueError: the backbone has no class token, or attention that cannot be read.
    """

    pooled = False  # whether the means of the class maps are trained on the tags as well

    def __init__(
        self,
        backbone: str,
        classes: int,
        normalisation: str,
        *,
        tokens: Literal["normed", "pre_norm"] = "normed",
        standardisation_epsilon: float | None = None,
    ) -> None:
        super().__init__()
        self.normalise = Normalise(backbone, normalisation)
        self.network = _transformer(backbone, classes)
        self.class_tokens = 1
        if tokens == "pre_norm":
            self.network.norm = nn.Identity()
        for module in self.network.modules():
            if standardisation_epsilon is not None and isinstance(module, StdConv2d | StdConv2dSame):
                module.eps = standardisation_epsilon

    @property
    def patch(self) -> int:
        """Pixels a side of one patch token."""
        return _side(self.network)

    def forward(self, images: Float[Tensor, "B 3 H W"], keep: Keep = ATTENTION) -> Trace:
        """The trace of RGB `images` in [0, 1], with what it is to `keep` beside the logits."""
        network, special = self.network, self.network.num_prefix_tokens
        tokens = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(self.normalise(images)))))
        grid = Grid(images.shape[-2] // self.patch, images.shape[-1] // self.patch)
        assert tokens.shape[1] == special + grid.patches, (tokens.shape, grid)
        tokens, attentions, rows = through(network.blocks, tokens, special, keep)
        tokens = network.norm(tokens)
        class_maps = self.class_maps(tokens[:, special:], grid) if keep.class_maps else None
        logits = self.logits(tokens[:, :special])
        return Trace(logits, attentions, rows, class_maps, grid, special, self.class_tokens, self.pooled)

    def logits(self, tokens: Float[Tensor, "B S D"]) -> Float[Tensor, "B C"]:
        """What the classifier makes of the special tokens."""
        return self.network.forward_head(tokens)

    def class_maps(self, patches: Float[Tensor, "B P D"], grid: Grid) -> Float[Tensor, "B C P"]:
        """What the same layer's weights, without its bias, make of the patch tokens."""
        head = self.network.head
        assert isinstance(head, nn.Linear)
        return functional.linear(patches, head.weight).transpose(1, 2)

    def fitted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pretrained tensors under timm's names as this network needs them: here as they are."""
        return dict(weights)


class VitFeatures(nn.Module):
    """The last tokens of a vision transformer as the one level of feature maps; tensors have the names of `VitClassifier`.

    Raises:
        ValueError: `stride` is not the side of a patch, or there are options; or see `VitClassifier`.
    """

    def __init__(self, backbone: str, stride: int, normalisation: str, options: Mapping[str, Any]) -> None:
        super().__init__()
        if options:
            raise ValueError(
                f"options is {dict(options)}, but {backbone} is a transformer, which is built as it is; leave it out"
            )
        self.normalise = Normalise(backbone, normalisation)
        self.network = _transformer(backbone, 0)
        self.patch = _side(self.network)
        if self.patch != stride:
            raise ValueError(f"stride is {stride}, but patches of {backbone} have sides of {self.patch} pixels; make it that")
        self.channels = (self.network.num_features,)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """One map of features, whose cell (i, j) lies over pixel (i stride, j stride), of RGB `images` in [0, 1].

        Both sides are a multiple of the stride plus one, as convolutions have it. A patch lies around its pixel, to half of
        one: the image is continued with the mean colour by half a patch on each side.
        """
        before, after = self.patch // 2, self.patch - self.patch // 2 - 1
        padded = functional.pad(self.normalise(images), (before, after, before, after))
        tokens = self.network.forward_features(padded)[:, self.network.num_prefix_tokens :]
        height, width = (side // self.patch for side in padded.shape[-2:])
        return [tokens.transpose(1, 2).unflatten(-1, (height, width))]


def is_transformer(backbone: str) -> bool:
    """Whether timm's network of that name is a vision transformer."""
    check_name(backbone, "backbone")
    try:
        with torch.device("meta"):  # in no memory
            return isinstance(timm.create_model(backbone), VisionTransformer)
    except TypeError:  # a network that cannot classify, as ours of PSA
        return False


def patch_of(backbone: str) -> int:
    """Pixels a side of a patch of timm's vision transformer of that name."""
    with torch.device("meta"):
        return _side(_transformer(backbone, 0))


def _side(network: VisionTransformer) -> int:
    """Pixels a side of a patch."""
    return int(network.patch_embed.feat_ratio())


def _transformer(backbone: str, classes: int) -> VisionTransformer:
    """The timm network, with attention that can be read."""
    choose = "choose a ViT or DeiT of timm"
    try:
        network = timm.create_model(backbone, num_classes=classes, dynamic_img_size=True, global_pool="token")
    except (TypeError, AssertionError):  # what timm raises for options that a network does not know, or cannot follow
        raise ValueError(f"backbone is {backbone!r}, which has no class token or only one size of images; {choose}") from None
    if getattr(network, "cls_token", None) is None:
        raise ValueError(f"backbone is {backbone!r}, which has no class token; {choose}")
    if not isinstance(network, VisionTransformer) or not all(map(readable, network.blocks)):
        raise ValueError(f"backbone is {backbone!r}, whose blocks do not show their attention; {choose}")
    return network


class ConvolutionalStem(nn.Module):
    """Patch tokens from three stride-2 and `extra` stride-1 3x3 convolutions, where timm expects a patch embedding.

    A transformer this small learns nothing in minutes from a linear patch embedding.
    """

    def __init__(
        self,
        img_size: int,
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        widths: tuple[int, ...] = (16, 32, 64),
        extra: int = 2,
        output_fmt: str = "NLC",
        **_: Any,  # timm hands over options of its own patch embedding
    ) -> None:
        super().__init__()
        assert patch_size == 2 ** len(widths), (patch_size, widths)
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.spatial = output_fmt == "NHWC"  # what timm asks for when the image size may vary
        channels = [in_chans, *widths, *[widths[-1]] * extra]
        strides = [2] * len(widths) + [1] * extra
        layers = [self._layer(*layer) for layer in zip(channels, channels[1:], strides, strict=False)]
        # centred tokens: a component common to all would make them all alike to each other
        self.body = nn.Sequential(*layers, nn.Conv2d(channels[-1], embed_dim, 1, bias=False), nn.BatchNorm2d(embed_dim))

    @staticmethod
    def _layer(channels: int, width: int, stride: int) -> nn.Module:
        convolution = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))

    def feat_ratio(self) -> int:
        return self.patch_size[0]

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.body(images).permute(0, 2, 3, 1)
        return tokens if self.spatial else tokens.flatten(1, 2)


@register_model
def vit_stem8_96(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """A 3-block, 64-wide transformer on 8-pixel tokens of 96-pixel images; it has no pretrained weights.

    The first two blocks start with equal queries and keys, so that patches attend to patches that look like them: in the
    minutes of training that the default data set is given, attention that starts uniform stays so.
    """
    assert not pretrained
    size: dict[str, Any] = {"img_size": 96, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0}
    known = {key: value for key, value in options.items() if not key.startswith("pretrained_") and key != "cache_dir"}
    network = VisionTransformer(embed_layer=ConvolutionalStem, weight_init="moco", **size, **known)
    with torch.no_grad():
        for block in network.blocks[:2]:
            queries, keys, _ = attention_layer(block).qkv.weight.chunk(3)
            keys.copy_(queries)
    return network
