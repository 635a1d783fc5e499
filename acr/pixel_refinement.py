"""Pixel-adaptive refinement: scores follow the colours of the photograph, with nothing learnt (PAR: Ru et al., CVPR 2022).

PAR took it from PAMR (Araslanov and Roth, CVPR 2020). Beside the letters of `acr.shapes`, O counts neighbours of a cell.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from torch.nn import functional

from acr.images import resize_image, upsample
from acr.recipes import PixelRefinement


def refine_by_pixels(
    image: UInt8[np.ndarray, "H W 3"], maps: Float32[np.ndarray, "K h w"], settings: PixelRefinement, device: torch.device
) -> Float32[np.ndarray, "K i j"]:
    """The maps at a cell for each `stride` pixels, each cell the mean of its neighbours' as alike as their colours are.

    It is repeated `iterations` times. A constant map stays as it is and no map leaves its range.
    """
    height, width = (-(-side // settings.stride) for side in image.shape[:2])
    cells = torch.from_numpy(resize_image(image, height, width)).to(device).permute(2, 0, 1).float() / 255
    weights = neighbour_weights(cells, settings)
    scores = torch.from_numpy(upsample(maps, height, width)).to(device)
    for _ in range(settings.iterations):
        scores = neighbour_mean(scores, weights, settings.dilations)
    return scores.cpu().numpy()


def neighbour_weights(image: Float[Tensor, "3 h w"], settings: PixelRefinement) -> Float[Tensor, "O h w"]:
    """How alike each neighbour is, summing to 1: softmax of -((I_i - I_j) / (tolerance sd))^2, its mean over colours.

    sd is the standard deviation of each colour over the neighbours. Beyond the border the image goes on as it ends.

    deviates: PAR adds a term of distance, at a weight of 0.01.
    """
    around = torch.stack(list(_shifted(image, settings.dilations)))
    spread = around.std(0) + 1e-8
    alike = -(((around - image) / (settings.tolerance * spread)) ** 2).mean(1)
    return alike.softmax(0)


def neighbour_mean(
    maps: Float[Tensor, "K h w"], weights: Float[Tensor, "O h w"], dilations: tuple[int, ...]
) -> Float[Tensor, "K h w"]:
    """Each cell the mean of its neighbours, which weigh what `neighbour_weights` says."""
    total = torch.zeros_like(maps)
    for weight, neighbour in zip(weights, _shifted(maps, dilations), strict=True):
        total.addcmul_(neighbour, weight)
    return total


def _shifted(maps: Float[Tensor, "K h w"], dilations: tuple[int, ...]) -> Iterator[Float[Tensor, "K h w"]]:
    """The maps as the neighbour in each direction and at each distance sees them."""
    (height, width), far = maps.shape[-2:], max(dilations)
    padded = functional.pad(maps[None], (far,) * 4, mode="replicate")[0]
    for step in dilations:
        for y, x in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
            top, left = far + y * step, far + x * step
            yield padded[:, top : top + height, left : left + width]
