"""What one forward pass of a vision transformer leaves behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from acr.shapes import Grid


@dataclass(frozen=True)
class Trace:
    """Logits "B C", one attention "B A N N" a layer, patch and special tokens "B N D", their grid and how many are special.

    `attentions` is a tuple: the gradient of a slice of a stacked tensor cannot be asked for.
    """

    logits: Tensor
    attentions: tuple[Tensor, ...]
    features: Tensor
    grid: Grid
    special: int

    def activation(self) -> tuple[Tensor, ...]:
        """Class-to-patch attention of each layer, "B P", averaged over heads."""
        return tuple(activation(attention.mean(1), self.special) for attention in self.attentions)

    def affinity(self) -> tuple[Tensor, ...]:
        """Patch-to-patch attention of each layer, "B P P", averaged over heads."""
        return tuple(affinity(attention.mean(1), self.special) for attention in self.attentions)


def activation(attention: Float[Tensor, "*B N N"], special: int) -> Float[Tensor, "*B P"]:
    """A[0, 1:] of the paper: how much the class token attends to each patch."""
    return attention[..., 0, special:]


def affinity(attention: Float[Tensor, "*B N N"], special: int) -> Float[Tensor, "*B P P"]:
    """A[1:, 1:] of the paper: how much each patch attends to each patch."""
    return attention[..., special:, special:]


@contextmanager
def recorded(blocks: nn.Sequential, differentiate_from: int | None = None) -> Iterator[list[Tensor]]:
    """Collects the attention "B A N N" of every block of a timm transformer, in order, while the block lasts.

    With frozen parameters nothing has a gradient; `differentiate_from` makes the attention of that block, and with it
    all that depends on it, differentiable: the graph begins there and the blocks before it need none.
    """
    attentions: list[Tensor] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if len(attentions) == differentiate_from:
            output.requires_grad_()
        attentions.append(output)

    handles = [block.attn.attn_drop.register_forward_hook(record) for block in blocks]
    try:
        yield attentions
    finally:
        for handle in handles:
            handle.remove()
