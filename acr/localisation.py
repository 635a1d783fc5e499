"""Localisation: where a classifier sees a class, as functions of one trace (Sec. 3.3, Eq. 7; Table 5)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from acr.models.attention import Keep
from acr.models.trace import Trace, activation, all_kept
from acr.recipes import Seeds

Classes = Int64[Tensor, "K B"]  # 0-based: the first class of each image, the second, and so on


def asked(classes: Sequence[Sequence[int]]) -> Classes:
    """The classes of several images; one that has fewer than another asks again for its first."""
    count = max(map(len, classes))
    return torch.tensor([[*each, *[each[0]] * (count - len(each))] for each in classes]).T


def gradient_maps(
    trace: Trace, classes: Classes, layers: int, rectify: Literal["heads", "layers"] = "heads"
) -> Float[Tensor, "K B P"]:
    """Eq. 7: gradients of each class's logit with respect to the class-to-patch attention of the last layers.

    Negative values are removed head by head before heads and layers are averaged, as in the official code; or from the
    mean over heads of each layer, as the text before Eq. 7 has it, which knows no heads.
    """
    return layer_gradients(trace, classes, layers, rectify).mean(0)


def layer_gradients(
    trace: Trace, classes: Classes, layers: int, rectify: Literal["heads", "layers"]
) -> Float[Tensor, "L K B P"]:
    """The terms of Eq. 7's sum, averaged over heads: see `gradient_maps`."""
    reduce = RECTIFIED[rectify]
    found = _gradients(trace, classes, layers)
    rows = [torch.stack([reduce(_row(gradient, trace, of_each)) for gradient in gradients]) for of_each, gradients in found]
    return torch.stack(rows, dim=1)


def cam_maps(trace: Trace, classes: Classes) -> Float[Tensor, "K B P"]:
    """CAM (Zhou et al., CVPR 2016) for transformers: the classifier's weights on every patch token, cut off at zero."""
    return _of_classes(trace.kept_class_maps, classes).clamp(min=0)


def ts_cam_maps(trace: Trace, classes: Classes, layers: int) -> Float[Tensor, "K B P"]:
    """TS-CAM (Gao et al., ICCV 2021): class-to-patch attention, averaged over heads and layers, times the class maps."""
    rows = [activation(attention, trace.special, trace.class_tokens) for attention in all_kept(trace.attentions[-layers:])]
    attention = torch.stack(rows).mean(0)
    return _of_classes(trace.kept_class_maps, classes) * attention


def grad_cam_maps(trace: Trace, classes: Classes, layers: int) -> Float[Tensor, "K B P"]:
    """Grad-CAM (Selvaraju et al., ICCV 2017) on attention, heads as channels, as Chefer et al. (CVPR 2021) transplant it.

    Each head's class-to-patch attention is weighted with the mean of its gradient; the sum is cut off at zero. The paper
    does not say which layer it takes: the published form takes the last one.
    """
    maps = []
    for of_each, gradients in _gradients(trace, classes, layers):
        rows = torch.stack([_row(attention, trace, of_each) for attention in trace.rows[-layers:]])
        weights = torch.stack([_row(gradient, trace, of_each).mean(-1, keepdim=True) for gradient in gradients])
        maps.append((weights * rows).sum(2).clamp(min=0).mean(0))
    return torch.stack(maps).detach()


def generic_maps(trace: Trace, classes: Classes, layers: int) -> Float[Tensor, "K B P"]:
    """Generic attention explainability (Chefer et al., ICCV 2021): R <- R + E_heads[(grad A * A)^+] R, layer by layer.

    R starts as the identity before the first of the last `layers`. Only the class token's row of it is wanted, so that it
    is carried from the last layer to the first.
    """
    maps = []
    for of_each, gradients in _gradients(trace, classes, layers):
        used = zip(gradients, trace.rows[-layers:], strict=True)
        steps = [(gradient * attention.detach()).clamp(min=0).mean(1) for gradient, attention in used]
        relevance = torch.zeros_like(steps[0][:, :1])
        relevance.scatter_(-1, _token(trace, of_each).view(-1, 1, 1), 1)
        for step in reversed(steps):
            relevance = relevance + relevance @ step
        maps.append(relevance[:, 0, trace.special :])
    return torch.stack(maps)


def class_attention_maps(trace: Trace, classes: Classes, layers: int) -> Float[Tensor, "K B P"]:
    """MCTformer (Xu et al., CVPR 2022): attention of each class's token, mean of heads and layers, times its class map."""
    attention = torch.stack(all_kept(trace.attentions[-layers:])).mean(0)[..., trace.special :]
    return _of_classes(attention, _token(trace, classes)) * cam_maps(trace, classes)


def compete(maps: Float[Tensor, "K B P"], counts: Int64[Tensor, " B"], share: float) -> Float[Tensor, "K B P"]:
    """Each map less `share` of the mean of the image's other maps, where that is positive; maps of a lone class as they are.

    Maps are compared by what part of their sum a patch has. Of image b the first `counts[b]` maps are its own; those
    beyond are 0.

    deviates: the paper's classes do not know of each other, and co-occurring ones bleed into one another (App. G).
    """
    own = (torch.arange(len(maps), device=maps.device)[:, None] < counts)[..., None]
    parts = maps / maps.sum(-1, keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny) * own
    others = (parts.sum(0) - parts) / (counts[:, None] - 1).clamp(min=1)
    return torch.where(counts[:, None] > 1, (parts - share * others).clamp(min=0) * own, maps * own)


RECTIFIED = {
    "heads": lambda rows: rows.clamp(min=0).mean(1),
    "layers": lambda rows: rows.mean(1).clamp(min=0),
}


def _gradients(trace: Trace, classes: Classes, layers: int) -> Iterator[tuple[Int64[Tensor, " B"], tuple[Tensor, ...]]]:
    """A class of each image, and the gradients of its logit with respect to the rows "B A R N" of the last layers."""
    for of_each in classes:
        logits = trace.logits.gather(1, of_each[:, None])
        yield of_each, torch.autograd.grad(logits.sum(), trace.rows[-layers:], retain_graph=True)


def _of_classes(maps: Float[Tensor, "B C P"], classes: Classes) -> Float[Tensor, "K B P"]:
    return maps[torch.arange(len(maps), device=maps.device), classes]


def _row(attention: Float[Tensor, "B A R N"], trace: Trace, of_each: Int64[Tensor, " B"]) -> Float[Tensor, "B A P"]:
    """What the token of a class of each image has for each patch."""
    return attention[torch.arange(len(attention), device=attention.device), :, _token(trace, of_each), trace.special :]


def _token(trace: Trace, classes: Int64[Tensor, "*K"]) -> Int64[Tensor, "*K"]:
    return classes if trace.class_tokens > 1 else torch.zeros_like(classes)


class Method(NamedTuple):
    """A method, and what the trace has to keep of the last `layers` layers of its recipe, which is nothing by itself.

    Args:
        maps: called with the trace, the classes "K B" and the recipe; gives maps "K B P".
        attention: whether it reads `Trace.attentions`, averaged over heads.
        rows: whose rows of the attention, head by head, it asks gradients of: `Trace.rows`.
        class_maps: whether it reads `Trace.class_maps`.
    """

    maps: Callable[[Trace, Classes, Seeds], Tensor]
    attention: bool = False
    rows: Literal["special", "all"] | None = None
    class_maps: bool = False


METHODS = {
    "gradient": Method(
        lambda trace, classes, recipe: gradient_maps(trace, classes, count_of_layers(recipe), recipe.rectify), rows="special"
    ),
    "cam": Method(lambda trace, classes, recipe: cam_maps(trace, classes), class_maps=True),
    "ts_cam": Method(
        lambda trace, classes, recipe: ts_cam_maps(trace, classes, count_of_layers(recipe)), attention=True, class_maps=True
    ),
    "grad_cam": Method(lambda trace, classes, recipe: grad_cam_maps(trace, classes, count_of_layers(recipe)), rows="special"),
    "generic": Method(lambda trace, classes, recipe: generic_maps(trace, classes, count_of_layers(recipe)), rows="all"),
    "class_attention": Method(
        lambda trace, classes, recipe: class_attention_maps(trace, classes, count_of_layers(recipe)),
        attention=True,
        class_maps=True,
    ),
}


def count_of_layers(recipe: Seeds) -> int:
    """How many last layers a recipe reads whose depth is known (`acr.seeds.with_depth`)."""
    assert recipe.layers is not None
    return recipe.layers


def refining_layers(recipe: Seeds) -> Sequence[int]:
    """The layers of which a recipe averages affinities: those it names, else the last ones that it reads."""
    assert not isinstance(recipe.affinity_layers, str)
    return recipe.affinity_layers or range(-count_of_layers(recipe), 0)


def kept(recipe: Seeds, depth: int) -> Keep:
    """What the trace of a network with `depth` layers has to keep for the maps of a recipe and their refinement."""
    layers = count_of_layers(recipe)
    refining = [layer % depth for layer in refining_layers(recipe)] if recipe.refine else []
    method = METHODS[recipe.method]
    reading = range(depth - layers, depth) if method.attention else ()
    return Keep(
        attention=tuple({*refining, *reading}),
        layers=layers if method.rows else 0,
        all_rows=method.rows == "all",
        class_maps=method.class_maps,
    )
