"""Seeds: class localisation maps from the gradients of a classifier's attention (Sec. 3.3, Eq. 7 and 8).

The methods that Table 5 compares them with read the same trace: a method is a function of it and of the classes.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor
from torch.nn import functional

from acr import config
from acr.classifiers import read_classifier
from acr.datasets.base import Record, Split, read_split, shard_of
from acr.devices import device_of
from acr.files import write_resumably
from acr.images import read_image, resize_image
from acr.models.trace import Trace, affinity
from acr.models.vit import VitClassifier
from acr.recipes import Execution, Seeds
from acr.views import HFLIP


def gradient_maps(
    trace: Trace, classes: Sequence[int], layers: int, rectify: Literal["heads", "layers"] = "heads"
) -> Float[Tensor, "K B P"]:
    """Eq. 7: gradients of each class's logit with respect to the class-to-patch attention of the last layers.

    Negative values are removed head by head before heads and layers are averaged, as in the official code; or from the
    mean over heads of each layer, as the text before Eq. 7 has it, which knows no heads.
    """
    return layer_gradients(trace, classes, layers, rectify).mean(0)


def layer_gradients(
    trace: Trace, classes: Sequence[int], layers: int, rectify: Literal["heads", "layers"]
) -> Float[Tensor, "L K B P"]:
    """The terms of Eq. 7's sum, averaged over heads: see `gradient_maps`."""
    reduce = RECTIFIED[rectify]
    found = _gradients(trace, classes, layers)
    rows = [torch.stack([reduce(_row(gradient, trace, index)) for gradient in gradients]) for index, gradients in found]
    return torch.stack(rows, dim=1)


def cam_maps(trace: Trace, classes: Sequence[int]) -> Float[Tensor, "K B P"]:
    """CAM (Zhou et al., CVPR 2016) for transformers: the classifier's layer on every patch token, cut off at zero."""
    return trace.class_maps[:, list(classes)].transpose(0, 1).clamp(min=0)


def ts_cam_maps(trace: Trace, classes: Sequence[int], layers: int) -> Float[Tensor, "K B P"]:
    """TS-CAM (Gao et al., ICCV 2021): class-to-patch attention, averaged over heads and layers, times the class maps."""
    attention = torch.stack(trace.activation()[-layers:]).mean(0)
    return trace.class_maps[:, list(classes)].transpose(0, 1) * attention


def grad_cam_maps(trace: Trace, classes: Sequence[int], layers: int) -> Float[Tensor, "K B P"]:
    """Grad-CAM (Selvaraju et al., ICCV 2017) on attention, heads as channels, as Chefer et al. (CVPR 2021) transplant it.

    Each head's class-to-patch attention is weighted with the mean of its gradient; the sum is cut off at zero. The paper
    does not say which layer it takes: the published form takes the last one.
    """
    maps = []
    for index, gradients in _gradients(trace, classes, layers):
        rows = torch.stack([_row(attention, trace, index) for attention in trace.attentions[-layers:]])
        weights = torch.stack([_row(gradient, trace, index).mean(-1, keepdim=True) for gradient in gradients])
        maps.append((weights * rows).sum(2).clamp(min=0).mean(0))
    return torch.stack(maps).detach()


def generic_maps(trace: Trace, classes: Sequence[int], layers: int) -> Float[Tensor, "K B P"]:
    """Generic attention explainability (Chefer et al., ICCV 2021): R <- R + E_heads[(grad A * A)^+] R, layer by layer.

    R starts as the identity before the first of the last `layers`. Only the class token's row of it is wanted, so that it
    is carried from the last layer to the first.
    """
    maps = []
    for index, gradients in _gradients(trace, classes, layers):
        used = zip(gradients, trace.attentions[-layers:], strict=True)
        steps = [(gradient * attention.detach()).clamp(min=0).mean(1) for gradient, attention in used]
        relevance = torch.zeros_like(steps[0][:, :1])
        relevance[..., _token(trace, index)] = 1
        for step in reversed(steps):
            relevance = relevance + relevance @ step
        maps.append(relevance[:, 0, trace.special :])
    return torch.stack(maps)


def class_attention_maps(trace: Trace, classes: Sequence[int], layers: int) -> Float[Tensor, "K B P"]:
    """MCTformer (Xu et al., CVPR 2022): attention of each class's token, mean of heads and layers, times its class map."""
    rows = [[_row(attention, trace, index) for attention in trace.attentions[-layers:]] for index in classes]
    attention = torch.stack([torch.stack(row).mean((0, 2)) for row in rows])
    return attention * cam_maps(trace, classes)


RECTIFIED = {
    "heads": lambda rows: rows.clamp(min=0).mean(1),
    "layers": lambda rows: rows.mean(1).clamp(min=0),
}


def _gradients(trace: Trace, classes: Sequence[int], layers: int) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """Each class, and the gradients of its logit with respect to the attentions "B A N N" of the last layers."""
    for index in classes:
        yield index, torch.autograd.grad(trace.logits[:, index].sum(), trace.attentions[-layers:], retain_graph=True)


def _row(attention: Float[Tensor, "B A N N"], trace: Trace, index: int) -> Float[Tensor, "B A P"]:
    """What the token of a class has for each patch."""
    return attention[:, :, _token(trace, index), trace.special :]


def _token(trace: Trace, index: int) -> int:
    return index if trace.class_tokens > 1 else 0


METHODS = {
    "gradient": lambda trace, classes, recipe: gradient_maps(trace, classes, recipe.layers, recipe.rectify),
    "cam": lambda trace, classes, recipe: cam_maps(trace, classes),
    "ts_cam": lambda trace, classes, recipe: ts_cam_maps(trace, classes, recipe.layers),
    "grad_cam": lambda trace, classes, recipe: grad_cam_maps(trace, classes, recipe.layers),
    "generic": lambda trace, classes, recipe: generic_maps(trace, classes, recipe.layers),
    "class_attention": lambda trace, classes, recipe: class_attention_maps(trace, classes, recipe.layers),
}
DIFFERENTIATED = {"gradient", "grad_cam", "generic"}


def mean_affinity(trace: Trace, layers: Sequence[int], power: float) -> Float[Tensor, "B P P"]:
    """Patch-to-patch attention averaged over heads and over `layers`; a power other than 1 sharpens its rows.

    deviates: Eq. 8 has no power; with one, rows are made to sum to one again.
    """
    chosen = [affinity(trace.attentions[layer].detach().mean(1), trace.special) for layer in layers]
    mean = torch.stack(chosen).mean(0)
    return mean if power == 1 else sharpen(mean, power)


def sharpen(affinities: Float[Tensor, "B P P"], power: float) -> Float[Tensor, "B P P"]:
    """Element-wise power relative to the largest of each row, rows summing to one."""
    sharpened = (affinities / affinities.amax(-1, keepdim=True)) ** power
    return sharpened / sharpened.sum(-1, keepdim=True)


PRODUCTS = {
    "map_times_affinity": lambda maps, affinities: torch.einsum("kbp,bpq->kbq", maps, affinities),
    "affinity_times_map": lambda maps, affinities: torch.einsum("bqp,kbp->kbq", affinities, maps),
}


def localise(
    model: VitClassifier, image: Float[Tensor, "3 H W"], classes: Sequence[int], recipe: Seeds
) -> Float[Tensor, "K h w"]:
    """Maps of the `classes` of one image in [0, 1] at the patch grid: Eq. 7, or Eq. 8 where `recipe.refine`.

    Args:
        model: frozen; only the blocks from the first used layer on are differentiated.
        image: RGB in [0, 1]; both sides are multiples of the patch size.
        classes: 0-based.
        recipe: what to compute.
    """
    with torch.set_grad_enabled(recipe.method in DIFFERENTIATED):
        trace = traced(model, image, recipe)
        maps = METHODS[recipe.method](trace, classes, recipe)
    if recipe.refine:
        layers = recipe.affinity_layers or range(-recipe.layers, 0)
        maps = PRODUCTS[recipe.product](maps, mean_affinity(trace, layers, recipe.affinity_power))
    return normalise(mirrored_back(maps, trace, recipe))


def traced(model: VitClassifier, image: Float[Tensor, "3 H W"], recipe: Seeds) -> Trace:
    """The trace of an image and, where the recipe wants it, of its mirror image; differentiable where its method asks."""
    images = torch.stack([image, HFLIP.forward(image)]) if recipe.flip else image[None]
    first = len(model.network.blocks) - recipe.layers
    return model(images, differentiate_from=first if recipe.method in DIFFERENTIATED else None)


def mirrored_back(maps: Float[Tensor, "*K B P"], trace: Trace, recipe: Seeds) -> Float[Tensor, "*K h w"]:
    """The maps on their grid, those of the mirror image added."""
    maps = maps.unflatten(-1, trace.grid)
    return maps[..., 0, :, :] + HFLIP.inverse(maps[..., 1, :, :]) if recipe.flip else maps[..., 0, :, :]


def normalise(maps: Float[Tensor, "*K h w"]) -> Float[Tensor, "*K h w"]:
    """Each map from its minimum at 0 to its maximum at 1; a constant map is 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), torch.zeros_like(maps))


def input_size(height: int, width: int, patch: int, recipe: Seeds, scale: float = 1.0) -> tuple[int, int]:
    """Size a photograph is resized to: multiples of the patch with about the area of the recipe's square at `scale`."""
    side = scale * recipe.image_size
    factors = (side / height, side / width) if recipe.aspect == "square" else (side / math.sqrt(height * width),) * 2
    return tuple(patch * max(1, round(factor * old / patch)) for factor, old in zip(factors, (height, width), strict=True))


def localise_photograph(
    model: VitClassifier, photograph: UInt8[np.ndarray, "H W 3"], classes: Sequence[int], recipe: Seeds
) -> Float16[np.ndarray, "K h w"]:
    """`localise` for an RGB photograph of any size, on the model's device; maps of several scales are averaged."""
    return at_scales(localise, model, photograph, classes, recipe)


def at_scales(
    method: Callable[..., Tensor],
    model: VitClassifier,
    photograph: UInt8[np.ndarray, "H W 3"],
    classes: Sequence[int],
    recipe: Seeds,
) -> Float16[np.ndarray, "*K h w"]:
    """The maps that `method`, called as `localise` is, gives at each of the recipe's scales, fused."""
    sizes = [input_size(*photograph.shape[:2], model.patch, recipe, scale) for scale in recipe.scales]
    maps = fuse([method(model, as_input(photograph, *size, model), classes, recipe) for size in sizes])
    return (with_corners(maps) if recipe.align_corners else maps).cpu().numpy().astype(np.float16)


def as_input(photograph: UInt8[np.ndarray, "H W 3"], height: int, width: int, model: VitClassifier) -> Float[Tensor, "3 _ _"]:
    """The photograph at another size as RGB in [0, 1], on the model's device."""
    image = torch.from_numpy(resize_image(photograph, height, width)).permute(2, 0, 1).float() / 255
    return image.to(model.normalise.mean.device)


def fuse(maps: Sequence[Float[Tensor, "*K _ _"]]) -> Float[Tensor, "*K h w"]:
    """Maps of several scales, averaged on the grid of the first and normalised; those of one scale as they are."""
    if len(maps) == 1:
        return maps[0]
    shape = maps[0].shape
    resized = [functional.interpolate(each.flatten(0, -3)[None], shape[-2:], mode="bilinear")[0] for each in maps]
    return normalise(torch.stack(resized).mean(0).view(shape))


def with_corners(maps: Float[Tensor, "*K h w"], factor: int = 4) -> Float[Tensor, "*K i j"]:
    """Maps whose corner cells lie on the corners of the image, resampled to cells that lie on their areas, `factor` as many.

    The official code enlarges its maps so (torch's align_corners=True). All that reads seeds takes a cell for its area:
    enlarged from here, a map agrees with the official one but within a quarter of a cell around its kinks.
    """
    shape = maps.shape[-2:]
    rows, columns = (2 * (torch.arange(side * factor, dtype=maps.dtype) + 0.5) / (side * factor) - 1 for side in shape)
    places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)[None].to(maps.device)
    sampled = functional.grid_sample(maps.flatten(0, -3)[None], places, mode="bilinear", align_corners=True)
    return sampled.view(*maps.shape[:-2], *sampled.shape[-2:])


def with_depth(recipe: Seeds, model: VitClassifier) -> Seeds:
    """The recipe with numbers of layers in place of null and `all`; a null of the affinity's layers stays.

    Raises:
        ValueError: it names layers that the network does not have.
    """
    depth = len(model.network.blocks)
    averaged = tuple(range(depth)) if recipe.affinity_layers == "all" else recipe.affinity_layers
    if (recipe.layers or 0) > depth:
        raise ValueError(f"layers is {recipe.layers}, but the classifier has {depth}; give at most as many, or null for all")
    for layer in averaged or ():
        if not -depth <= layer < depth:
            last = f"the classifier's last layer is {depth - 1}; name layers from 0 to that"
            raise ValueError(f"affinity_layers names {layer}, but {last}")
    return replace(recipe, layers=recipe.layers or depth, affinity_layers=averaged)


def _maps(model: VitClassifier, split: Split, record: Record, recipe: Seeds) -> Float16[np.ndarray, "K h w"]:
    classes = split.class_indices(record)
    if not classes:
        return np.zeros((0, 1, 1), np.float16)
    return localise_photograph(model, read_image(record.image), classes, recipe)


def seed_shard(*, split: str, model: str, recipe: str, execution: Mapping, shard: str, output: str, made_from: Mapping) -> None:
    """Writes the maps of one shard of a split, such as `0-of-4`, as an npz archive.

    What an interrupted call `made_from` the same made is not made again.
    """
    classifier = read_classifier(model).to(device_of(config.build(Execution, execution, "execution")))
    part, wanted = shard_of(read_split(split), shard), with_depth(config.load(Seeds, recipe), classifier)
    write_resumably(
        output,
        made_from,
        [record.image_id for record in part.records],
        lambda first: (_maps(classifier, part, record, wanted) for record in part.records[first:]),
    )
