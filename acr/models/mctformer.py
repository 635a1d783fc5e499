"""MCTformer (Xu et al., CVPR 2022), its second version: one class token a class, and class maps that are trained as well."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from acr.models.vit import VitClassifier
from acr.shapes import Grid


class MctFormer(VitClassifier):
    """A timm vision transformer with C class tokens; the logit of a class is the mean over the width of its token.

    A 3x3 convolution of the patch tokens gives class maps, whose means are logits as well. The arguments are those of
    `VitClassifier`.

    All class tokens start as copies of the pretrained one: only the tags tell them apart. The consistency of the paper
    compares one class-to-patch row; with one token a class `acr.models.trace.activation` is the mean of their rows. The
    affinity has no class token in it and is compared as it is.
    """

    pooled = True

    def __init__(self, backbone: str, classes: int, normalisation: str, **options: Any) -> None:
        super().__init__(backbone, classes, normalisation, **options)
        network = self.network
        if network.num_prefix_tokens != 1 or network.pos_embed is None or network.no_embed_class:
            raise ValueError(
                f"backbone is {backbone!r}, whose class token cannot be repeated for class_tokens: per_class; choose a "
                "plain ViT or DeiT of timm"
            )
        self.class_tokens = network.num_prefix_tokens = classes
        for name in ("cls_token", "pos_embed"):
            setattr(network, name, nn.Parameter(self._widened(getattr(network, name).detach())))
        head = nn.Conv2d(network.embed_dim, classes, 3, padding=1)
        nn.init.trunc_normal_(head.weight, std=0.02)
        assert head.bias is not None
        nn.init.zeros_(head.bias)
        network.add_module("head", head)

    def logits(self, tokens: Float[Tensor, "B S D"]) -> Float[Tensor, "B C"]:
        """The mean of each class token."""
        return tokens.mean(-1)

    def class_maps(self, patches: Float[Tensor, "B P D"], grid: Grid) -> Float[Tensor, "B C P"]:
        """What the convolution makes of the patch tokens."""
        return self.network.head(patches.transpose(1, 2).unflatten(-1, grid)).flatten(2)

    def fitted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pretrained tensors with the class token, and its place, once for each class."""
        widened = {name: self._widened(weights[name]) for name in ("cls_token", "pos_embed") if name in weights}
        return {**weights, **widened}

    def _widened(self, tokens: Float[Tensor, "1 _ D"]) -> Float[Tensor, "1 _ D"]:
        return torch.cat([tokens[:, :1].repeat(1, self.class_tokens, 1), tokens[:, 1:]], dim=1)
