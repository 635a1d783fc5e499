"""A segmenter as an ONNX file, for those who run it without torch."""

import copy
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float
from timm.layers import Conv2dSame, get_same_padding
from torch import Tensor, nn
from torch.nn import functional

from acr.files import atomic
from acr.models.deeplab import DeepLabV2

OPSET = 18
Padding = tuple[int, int, int, int]  # at the left, right, top and bottom


class AtPixels(nn.Module):
    """Probabilities at every pixel of images that are padded already; the network itself gives logits on its grid."""

    def __init__(self, network: DeepLabV2) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K H W"]:
        logits = self.network.head(self.network.backbone(images)[-1])
        grid = [1 + (side - 1) // self.network.stride for side in images.shape[-2:]]
        for size in (grid, images.shape[-2:]):  # by way of its grid, as the network itself
            logits = functional.interpolate(logits, size, mode="bilinear", align_corners=True)
        return logits.softmax(1)


def with_fixed_padding(network: DeepLabV2) -> DeepLabV2:
    """The same network for padded images, without convolutions that ask for the size of what they see.

    Sides that are a multiple of the stride plus one leave the same remainder at each layer whatever they are, and with it
    "same" padding is the same at every size. An export that has to prove this for each layer takes minutes.
    """
    network = copy.deepcopy(network)
    paddings = _same_paddings(network)
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, Conv2dSame):
                setattr(module, name, _fixed(layer, paddings[layer]))
    return network


def _same_paddings(network: DeepLabV2) -> dict[nn.Module, Padding]:
    """What each convolution of "same" padding adds to what it sees of a padded image."""
    found: dict[nn.Module, Padding] = {}

    def note(layer: Conv2dSame, inputs: tuple[Tensor]) -> None:
        axes = zip(inputs[0].shape[-2:], layer.kernel_size, layer.stride, layer.dilation, strict=True)
        rows, columns = (get_same_padding(*axis) for axis in axes)
        found[layer] = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)

    layers = [layer for layer in network.modules() if isinstance(layer, Conv2dSame)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    network.backbone(_example(network).to(network.backbone.normalise.mean))
    for hook in hooks:
        hook.remove()
    return found


def _fixed(layer: Conv2dSame, padding: Padding) -> nn.Sequential:
    (height, width), (step, side), (down, right) = layer.kernel_size, layer.stride, layer.dilation
    fixed = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        (height, width),
        (step, side),
        dilation=(down, right),
        groups=layer.groups,
        bias=layer.bias is not None,
    ).to(layer.weight)
    fixed.load_state_dict(layer.state_dict())
    return nn.Sequential(nn.ZeroPad2d(padding), fixed)


def _example(network: DeepLabV2) -> Float[Tensor, "1 3 _ _"]:
    """A padded image."""
    return torch.zeros(1, 3, 5 * network.stride + 1, 7 * network.stride + 1)


def write_onnx(network: DeepLabV2, path: str | Path) -> None:
    """Writes a network from `image` "1 3 H W", RGB in [0, 1], to `probabilities` "1 K H W".

    H and W are multiples of the stride plus one: photographs are padded below and to the right, as `DeepLabV2.pad` does,
    and what comes out is cut off again. Scale is 1: maxima over scales and CRFs are left to the caller.

    Raises:
        ValueError: what an export needs besides torch is not installed.
    """
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise ValueError(f"{' and '.join(missing)} cannot be imported, which an export to ONNX needs; pip install '.[onnx]'")
    stride = network.stride
    sides = {axis: stride * torch.export.Dim(f"cells_{axis}", min=2, max=1000) + 1 for axis in (2, 3)}
    model = AtPixels(with_fixed_padding(network).cpu()).eval()
    with atomic(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        torch.onnx.export(
            model,
            (_example(network),),
            temporary,
            input_names=["image"],
            output_names=["probabilities"],
            dynamic_shapes=(sides,),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
