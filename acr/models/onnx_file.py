"""A segmenter as an ONNX file, for those who run it without torch."""

import copy
import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional

from acr.files import atomic
from acr.models.deeplab import DeepLabV2

OPSET = 18


class AtPixels(nn.Module):
    """Probabilities at every pixel of images that are padded already; the network itself gives logits on its grid."""

    def __init__(self, network: DeepLabV2) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K H W"]:
        logits = self.network.head(self.network.backbone(images)[-1])
        return functional.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=True).softmax(1)


def with_fixed_padding(network: DeepLabV2) -> DeepLabV2:
    """The same network for padded images, without convolutions that ask for the size of what they see.

    Where sides are a multiple of the stride plus one, "same" padding is the same at both ends and at every size. An export
    that has to prove this for each layer takes minutes.
    """
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, Conv2dSame):
                setattr(module, name, _fixed(layer))
    return network


def _fixed(layer: Conv2dSame) -> nn.Conv2d:
    (height, width), (down, right), (step, side) = layer.kernel_size, layer.dilation, layer.stride
    fixed = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        (height, width),
        (step, side),
        (down * (height - 1) // 2, right * (width - 1) // 2),
        (down, right),
        layer.groups,
        bias=layer.bias is not None,
    )
    fixed.load_state_dict(layer.state_dict())
    return fixed


def write_onnx(network: DeepLabV2, path: str | Path) -> None:
    """Writes a network from `image` "1 3 H W", RGB in [0, 1], to `probabilities` "1 K H W".

    H and W are multiples of the stride plus one: photographs are padded below and to the right, as `DeepLabV2.pad` does,
    and what comes out is cut off again. Scale is 1: maxima over scales and CRFs are left to the caller.
    """
    stride = network.stride
    sides = {axis: stride * torch.export.Dim(f"cells_{axis}", min=2, max=1000) + 1 for axis in (2, 3)}
    example = torch.zeros(1, 3, 5 * stride + 1, 7 * stride + 1)
    model = AtPixels(with_fixed_padding(network).cpu()).eval()
    with atomic(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        torch.onnx.export(
            model,
            (example,),
            temporary,
            input_names=["image"],
            output_names=["probabilities"],
            dynamic_shapes=(sides,),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
