"""The dimension key: the letters that every signature and docstring of the package uses.

    B  images in a batch          S  special tokens (class, distillation, registers)
    C  foreground classes         P  patch tokens, P = h w
    K  classes present            N  tokens, N = S + P
    L  layers                     D  width of a token
    A  heads                      h w  patch grid
                                  H W  pixels

Order is always (height, width). In an attention matrix the row is the query and the column the key.
A mask value is the class index + 1; 0 is background and 255 is void.
"""

from typing import NamedTuple

BACKGROUND = 0
VOID = 255


class Grid(NamedTuple):
    """The patch grid of one forward pass: `height` rows of `width` patch tokens."""

    height: int
    width: int

    @property
    def patches(self) -> int:
        return self.height * self.width
