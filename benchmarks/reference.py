"""The published algorithms, written plainly by us: what everything is compared with, in time and in result."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

# ---- seeds and training: attention kept by hooks, all parameters' gradients, one backward pass a class and view ----------


@contextmanager
def hooked(blocks: nn.Sequential) -> Iterator[list[Tensor]]:
    """Collects the attention "B A N N" of every block, with its gradient, by hooks on what drops attention out."""
    attentions: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
        attentions.append(output)

    handles = [block.attn.attn_drop.register_forward_hook(keep) for block in blocks]
    try:
        yield attentions
    finally:
        for handle in handles:
            handle.remove()


def forward(network: nn.Module, images: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B C"], list[Tensor]]:
    """Logits of normalised images by a transformer of timm, and the attention of each block, which is not fused."""
    for block in network.blocks:
        block.attn.fused_attn = False
    with hooked(network.blocks) as attentions:
        return network(images), attentions


def seed(
    network: nn.Module, image: Float[Tensor, "3 H W"], classes: Sequence[int], layers: int, grid: tuple[int, int]
) -> Float[Tensor, "K h w"]:
    """Eq. 7 over the last layers, refined by the affinity of all layers (A M), summed over the image and its mirror image.

    One backward pass for each class and each of the two, through the whole network and to all its parameters.
    """
    views = [[], []]
    for mirrored, maps in zip((False, True), views, strict=True):
        logits, attentions = forward(network, (image.flip(-1) if mirrored else image)[None])
        affinity = torch.stack([attention.detach().mean(1) for attention in attentions]).mean(0)[0, 1:, 1:]
        for index in classes:
            network.zero_grad()
            for attention in attentions:
                attention.grad = None
            logits[0, index].backward(retain_graph=True)
            rows = [attention.grad.clamp(min=0).mean(1)[0, 0, 1:] for attention in attentions[-layers:]]
            refined = affinity @ torch.stack(rows).mean(0)
            maps.append(refined.view(grid).flip(-1) if mirrored else refined.view(grid))
    return torch.stack([scaled(sum(pair)) for pair in zip(*views, strict=True)])


def scaled(values: Tensor) -> Tensor:
    """From the smallest value at 0 to the largest at 1."""
    return (values - values.min()) / (values.max() - values.min())


def training_loss(
    network: nn.Module,
    images: Float[Tensor, "B 3 H W"],
    tags: Float[Tensor, "B C"],
    weights: tuple[float, float],
    grid: tuple[int, int],
) -> Float[Tensor, ""]:
    """Eq. 6 with a horizontal flip: two forward passes, all attention stacked, flipped row by row in place, compared in L1."""
    logits, attentions = forward(network, images)
    other_logits, other_attentions = forward(network, images.flip(-1))
    one, other = (torch.stack(each).mean(2) for each in (attentions, other_attentions))
    activation, affinity = other[..., 0, 1:].clone(), other[..., 1:, 1:].clone()
    for row in range(grid[0]):
        cells = slice(row * grid[1], (row + 1) * grid[1])
        activation[..., cells] = activation[..., cells].flip(-1)
        affinity[..., cells] = affinity[..., cells].flip(-1)
    for row in range(grid[0]):
        cells = slice(row * grid[1], (row + 1) * grid[1])
        affinity[..., cells, :] = affinity[..., cells, :].flip(-2)
    classification = sum(functional.multilabel_soft_margin_loss(each, tags) for each in (logits, other_logits))
    distances = functional.l1_loss(one[..., 0, 1:], activation), functional.l1_loss(one[..., 1:, 1:], affinity)
    return classification + sum(weight * distance for weight, distance in zip(weights, distances, strict=True))
