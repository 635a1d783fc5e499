"""The fully connected CRF (Krähenbühl and Koltun, NeurIPS 2011), one function of image, probabilities and settings.

Nothing here imports torch: the processes that run CRFs start quickly and stay small.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from pydensecrf.densecrf import DenseCRF2D

from acr.processes import in_processes
from acr.recipes import Crf

SMALLEST = 1e-5  # probability below which all are alike, so that no label is ruled out by the unary term alone
HOPELESS = 0.02  # probability that a label must have at some pixel to have part in the CRF


def dense_crf(
    image: UInt8[np.ndarray, "H W 3"], probabilities: Float32[np.ndarray, "K H W"], settings: Crf
) -> Float32[np.ndarray, "K H W"]:
    """The posterior of K labels after mean field inference; in [0, 1], summing to 1 over the labels of each pixel.

    Unary energies are -log(probabilities), where a factor common to all labels of a pixel cancels, so that they need not
    sum to 1. Pairwise energies are Potts', of pixels that are near (gaussian_*) and of pixels that are near and of a
    like colour (bilateral_*); a weight of 0 leaves its term out.
    """
    return dense_crfs(image, [probabilities], settings)[0]


def dense_crfs(
    image: UInt8[np.ndarray, "H W 3"], several: Sequence[Float32[np.ndarray, "K H W"]], settings: Crf
) -> list[Float32[np.ndarray, "K H W"]]:
    """`dense_crf` of several probabilities of the same K labels of one image.

    The pairwise terms, which take longer to prepare than few labels take to infer, are a function of the image alone and
    are prepared once; inference starts from the unary energies each time, so that results are the same bit for bit.
    """
    labels, height, width = shape = (len(several[0]), *image.shape[:2])
    crf, posteriors = _with_pairwise_terms(image, labels, settings), []
    for probabilities in several:
        assert probabilities.shape == shape, f"image {image.shape} and probabilities {probabilities.shape} differ in size"
        energies = -np.log(np.maximum(probabilities, SMALLEST))
        # the library reads raw memory: it wants C order, and refuses arrays that cannot be written
        crf.setUnaryEnergy(np.require(energies.reshape(labels, -1), np.float32, ["C", "W"]))
        # a copy: the result is a view of memory that goes with `crf`
        posteriors.append(np.array(crf.inference(settings.iterations), np.float32).reshape(labels, height, width))
    return posteriors


def _with_pairwise_terms(image: UInt8[np.ndarray, "H W 3"], labels: int, settings: Crf) -> DenseCRF2D:
    crf = DenseCRF2D(image.shape[1], image.shape[0], labels)
    if settings.gaussian_weight:
        crf.addPairwiseGaussian(sxy=settings.gaussian_xy, compat=settings.gaussian_weight)
    if settings.bilateral_weight:
        crf.addPairwiseBilateral(
            sxy=settings.bilateral_xy,
            srgb=settings.bilateral_rgb,
            rgbim=np.require(image, np.uint8, ["C", "W"]),
            compat=settings.bilateral_weight,
        )
    return crf


def crf_mask(
    image: UInt8[np.ndarray, "H W 3"], probabilities: Float32[np.ndarray, "K H W"], settings: Crf
) -> UInt8[np.ndarray, "H W"]:
    """The label with the largest posterior of each pixel."""
    return dense_crf(image, probabilities, settings).argmax(0).astype(np.uint8)


def hopeful(probabilities: Float32[np.ndarray, "K H W"]) -> Int64[np.ndarray, " J"]:
    """The labels that some pixel gives a probability of HOPELESS or more; all, where none has that much.

    Time grows with the number of labels, and those that no pixel believes in win next to nowhere.

    deviates: the field infers all labels of a data set. On 32 photographs of VOC with made-up scores, unsure ones among
    them, the best label without the others was another one at 0.02 % of the pixels of the worst photograph, where a
    bound of 0.05 would have changed 0.1 % and one of 0.5 three percent.
    """
    kept = np.flatnonzero(probabilities.max((1, 2)) >= HOPELESS)
    return kept if len(kept) else np.arange(len(probabilities))


def masks(
    scored: Iterable[tuple[UInt8[np.ndarray, "H W 3"], Float32[np.ndarray, "K H W"]]], settings: Crf | None, workers: int
) -> Iterator[UInt8[np.ndarray, "H W"]]:
    """The best label of each pixel of images and their probabilities, which sum to 1 over the labels of each pixel.

    Where there is a CRF it is that of the `hopeful` labels, in `workers` processes: its library holds Python's lock all
    the time.
    """
    if settings is None:
        return (probabilities.argmax(0).astype(np.uint8) for _, probabilities in scored)
    # chosen here, so that the processes are sent no more than they need
    kept = ((image, probabilities, hopeful(probabilities)) for image, probabilities in scored)
    tasks = ((image, probabilities[labels], labels, settings) for image, probabilities, labels in kept)
    return in_processes(_mask_of, tasks, workers)


def _mask_of(
    image: UInt8[np.ndarray, "H W 3"],
    probabilities: Float32[np.ndarray, "J H W"],
    labels: Int64[np.ndarray, " J"],
    settings: Crf,
) -> UInt8[np.ndarray, "H W"]:
    return labels.astype(np.uint8)[crf_mask(image, probabilities, settings)]
