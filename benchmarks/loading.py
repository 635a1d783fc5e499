"""The way of photographs into a training step; `python -m benchmarks.loading` prints what share of the step's time it takes."""

import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from acr import affinities, classifiers, segmenters
from acr.augmentations import random_window
from acr.datasets.base import Record, Split
from acr.files import write_arrays
from acr.images import image_size, write_image, write_mask
from acr.models.features import Normalise
from acr.recipes import Affinity, Classifier, Segmenter
from acr.training import Sample, build_optimiser
from benchmarks import inputs, reference
from benchmarks.inputs import CLASSES
from benchmarks.pairs import Pair

BACKBONE, SIZE, BATCH = "deit_tiny_patch16_224", 224, 4  # of config/voc12-small.yaml
PHOTOGRAPHS = 8
RECIPE = Classifier(backbone=BACKBONE, image_size=SIZE, activation=10.0, affinity=10.0)
GREY_LEVEL = 1 / 255  # by more than this, bytes of a resized photograph do not differ from what is not rounded


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    """Photographs as JPEG and a mask of each as PNG, for as long as this process lives."""
    folder = tempfile.TemporaryDirectory()
    for number in range(PHOTOGRAPHS):
        write_image(Path(folder.name, f"{number}.jpg"), inputs.photograph(number))
        write_mask(Path(folder.name, f"{number}.png"), inputs.mask(number, (3, 7)))
    return folder


def _split() -> Split:
    paths = [Path(_folder().name, f"{number}.jpg") for number in range(PHOTOGRAPHS)]
    return Split("train", CLASSES, tuple(Record(path.stem, path, None, CLASSES[:1]) for path in paths))


def _input_path(device: torch.device) -> Pair:
    recipe, normalise = Classifier(backbone=BACKBONE, image_size=SIZE, augmentations=()), Normalise(BACKBONE, "native")
    split, mean, deviation = _split(), normalise.mean.flatten().tolist(), normalise.std.flatten().tolist()
    sample = classifiers.Sample(split, recipe, normalise.fill)

    def ours(number: int) -> Tensor:
        samples = [sample(index, np.random.default_rng([number, index])) for index in range(BATCH)]
        batch = torch.from_numpy(np.stack([each["image"] for each in samples]))
        return normalise(batch.float() / 255)

    def plainly(number: int) -> Tensor:
        crops = []
        for index in range(BATCH):
            path, rng = split.records[index].image, np.random.default_rng([number, index])
            sides = image_size(path)
            scale = SIZE * rng.uniform(*recipe.long_side) / max(sides)
            window = random_window(rng, *(round(scale * side) for side in sides), SIZE)
            crops.append(reference.normalised_crop(path, scale, window, SIZE, mean, deviation))
        return torch.stack(crops)

    return Pair(
        name="input path",
        inputs=f"{BATCH} photographs of 375 x 500 to normalised crops of {SIZE}; reference: all in single precision",
        reference=plainly,
        ours=ours,
        difference=lambda one, other: float((one - other).abs().max()),
        tolerance=GREY_LEVEL / min(deviation),
        goal="loader ≤ 5 % of a step",
    )


def samples() -> dict[str, Sample]:
    """What each stage of config/voc12-small.yaml reads of one photograph."""
    split, fill = _split(), Normalise(BACKBONE, "native").fill
    labels = Path(_folder().name, "labels.npz")
    write_arrays(labels, ((str(number), inputs.mask(number, (3, 7))) for number in range(PHOTOGRAPHS)))
    return {
        "classifier": classifiers.Sample(split, RECIPE, fill),
        "affinity network": affinities.Sample(split, labels, Affinity(seeds="", crop_size=SIZE), fill),
        "segmenter": segmenters.Sample(split, _folder().name, Segmenter(labels="", crop_size=257), fill),
    }


def seconds(work: Callable[[int], object], repeats: int) -> float:
    """The median processor time of several calls after one that is not timed."""
    found = []
    for number in range(repeats + 1):
        before = time.process_time()
        work(number)
        found.append(time.process_time() - before)
    return median(found[1:])


def step(sample: Sample) -> Callable[[int], None]:
    """One training step of the classifier: two views of a batch in one forward pass."""
    torch.manual_seed(0)
    model = classifiers.build_classifier(classifiers.describe(RECIPE, CLASSES)).train()
    objective = classifiers.Objective(model, RECIPE)
    optimiser = build_optimiser(objective, RECIPE.training)
    items = [sample(index, np.random.default_rng(index)) for index in range(BATCH)]
    batch = {key: torch.from_numpy(np.stack([item[key] for item in items])) for key in items[0]}

    def stepped(number: int) -> None:
        optimiser.zero_grad()
        objective({**batch, "step": torch.tensor(number)})["loss"].backward()
        optimiser.step()

    return stepped


def main() -> None:
    """Prints processor time of a sample of each stage, of a step of the classifier, and the loader's share of that."""
    torch.set_num_threads(1)
    read = samples()
    times = {
        name: seconds(lambda number, each=each: each(number % PHOTOGRAPHS, np.random.default_rng(number)), 40)
        for name, each in read.items()
    }
    whole = seconds(step(read["classifier"]), 5)
    for name, each in times.items():
        sys.stdout.write(f"{name}: {1000 * each:.2f} ms a photograph\n")
    share = BATCH * times["classifier"] / whole
    sys.stdout.write(
        f"{BACKBONE}, {SIZE}, batch {BATCH}, two views: {whole:.3f} s a step, of which reading would be {100 * share:.1f} %; "
        f"load average {os.getloadavg()[0]:.1f}\n"
    )


PAIRS: dict[str, Callable[[torch.device], Pair]] = {"input_path": _input_path}


if __name__ == "__main__":
    main()
