"""What one forward pass of a vision transformer leaves behind."""

from collections.abc import Iterable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from acr.shapes import Grid


@dataclass(frozen=True)
class Trace:
    """Logits "B C", and what else a forward pass was told to keep; see `acr.models.attention.Keep`.

    `attentions` holds one attention "B N N" a layer, averaged over heads, or None; `rows` those of the last layers' first R
    tokens, "B A R N", head by head, of which gradients can be asked (a tuple: not of a slice of a stacked tensor). Class
    maps "B C P", None where they were not kept, are what the classifier makes of each patch token (CAM before anything is
    cut off); where they are `pooled`, their means are trained on the tags as well. The first `class_tokens` of the
    `special` tokens are class tokens: one, or one a class.
    """

    logits: Tensor
    attentions: tuple[Tensor | None, ...]
    rows: tuple[Tensor, ...]
    class_maps: Tensor | None
    grid: Grid
    special: int
    class_tokens: int = 1
    pooled: bool = False

    @property
    def heads(self) -> tuple[Tensor, ...]:
        """The logits "B C" of every head that is trained on the tags."""
        return (self.logits, self.kept_class_maps.mean(-1)) if self.pooled else (self.logits,)

    @property
    def kept_class_maps(self) -> Tensor:
        """The class maps of a forward pass that was told to keep them."""
        assert self.class_maps is not None
        return self.class_maps


def all_kept(attentions: Iterable[Tensor | None]) -> list[Tensor]:
    """Attentions of a trace that the forward pass was told to keep."""
    kept = []
    for attention in attentions:
        assert attention is not None
        kept.append(attention)
    return kept


def activation(attention: Float[Tensor, "*B N N"], special: int, class_tokens: int = 1) -> Float[Tensor, "*B P"]:
    """A[0, 1:] of the paper: how much the class token, or the mean of the class tokens, attends to each patch."""
    return attention[..., :class_tokens, special:].mean(-2)


def affinity(attention: Float[Tensor, "*B N N"], special: int) -> Float[Tensor, "*B P P"]:
    """A[1:, 1:] of the paper: how much each patch attends to each patch."""
    return attention[..., special:, special:]
