"""What one forward pass of a vision transformer leaves behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from acr.shapes import Grid


@dataclass(frozen=True)
class Trace:
    """Logits "B C", one attention "B A N N" a layer, class maps "B C P", the grid of patches and how many tokens are special.

    `attentions` is a tuple: the gradient of a slice of a stacked tensor cannot be asked for. Class maps are what the
    classifier makes of each patch token (CAM before anything is cut off); where they are `pooled`, their means are trained
    on the tags as well. The first `class_tokens` of the special tokens are class tokens: one, or one a class.
    """

    logits: Tensor
    attentions: tuple[Tensor, ...]
    class_maps: Tensor
    grid: Grid
    special: int
    class_tokens: int = 1
    pooled: bool = False

    @property
    def heads(self) -> tuple[Tensor, ...]:
        """The logits "B C" of every head that is trained on the tags."""
        return (self.logits, self.class_maps.mean(-1)) if self.pooled else (self.logits,)

    def activation(self) -> tuple[Tensor, ...]:
        """Class-to-patch attention of each layer, "B P", averaged over heads and class tokens."""
        return tuple(activation(attention.mean(1), self.special, self.class_tokens) for attention in self.attentions)

    def affinity(self) -> tuple[Tensor, ...]:
        """Patch-to-patch attention of each layer, "B P P", averaged over heads."""
        return tuple(affinity(attention.mean(1), self.special) for attention in self.attentions)


def activation(attention: Float[Tensor, "*B N N"], special: int, class_tokens: int = 1) -> Float[Tensor, "*B P"]:
    """A[0, 1:] of the paper: how much the class token, or the mean of the class tokens, attends to each patch."""
    return attention[..., :class_tokens, special:].mean(-2)


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
