"""What attention sees: of a photograph, of a view of it, and of the view brought back (Sec. 3.2, Fig. 13)."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from acr import config
from acr.classifiers import read_classifier
from acr.datasets.base import read_split
from acr.devices import device_of
from acr.figures import chosen
from acr.files import atomic
from acr.images import as_working_image, read_image, write_image
from acr.models.trace import activation, affinity
from acr.models.vit import VitClassifier
from acr.overlays import heat_map, marked, thumbnail
from acr.progress import Progress
from acr.recipes import Classifier, Execution, Seeds
from acr.seeds import as_input, input_size
from acr.shapes import Grid
from acr.views import View, draw, restore

SHOWN = 3  # photographs
Pictures = dict[str, UInt8[np.ndarray, "_ _ 3"]]  # by their titles
COLUMNS = ("image_id", "kind", "title", "file")


class Seen(NamedTuple):
    """An image as the network saw it, a view of it, and attention "N N", the mean over heads and layers.

    `restored` is the view's in the token order of the image; `grid` and `view_grid` say how patches lie.
    """

    image: UInt8[np.ndarray, "H W 3"]
    viewed: UInt8[np.ndarray, "_ _ 3"]
    attention: Tensor
    of_view: Tensor
    restored: Tensor
    grid: Grid
    view_grid: Grid
    special: int
    class_tokens: int

    def activation(self, attention: Tensor, grid: Grid) -> Float[np.ndarray, "h w"]:
        """How much the class token attends to each patch."""
        return activation(attention, self.special, self.class_tokens).reshape(grid).numpy()

    def affinity(self, attention: Tensor, patch: int) -> Float[np.ndarray, "h w"]:
        """How much a patch attends to each patch."""
        return affinity(attention, self.special)[patch].reshape(self.grid).numpy()


@torch.inference_mode()
def see(model: VitClassifier, image: Float[Tensor, "3 H W"], view: View) -> Seen:
    """What a classifier makes of an RGB image in [0, 1], whose sides its patches divide, and of its view."""
    images = image[None]
    viewed = view.forward(images)
    trace, other = model(images), model(viewed)
    own, of_view = (torch.stack(each.attentions).mean(0)[0].double().cpu() for each in (trace, other))
    restored = restore(view, of_view, other.grid, other.special)
    return Seen(
        _pixels(images[0]),
        _pixels(viewed[0]),
        own,
        of_view,
        restored,
        trace.grid,
        other.grid,
        trace.special,
        trace.class_tokens,
    )


def _pixels(image: Float[Tensor, "3 H W"]) -> UInt8[np.ndarray, "H W 3"]:
    return np.rint(255 * image.clamp(0, 1).permute(1, 2, 0).cpu().numpy()).astype(np.uint8)


def activation_pictures(seen: Seen) -> Pictures:
    """The class token's attention to each patch: of the photograph, of the view as it is and brought back, and what differs.

    All are shown on one scale, on which the largest attention is 1.
    """
    own, restored = (seen.activation(each, seen.grid) for each in (seen.attention, seen.restored))
    of_view = seen.activation(seen.of_view, seen.view_grid)
    largest = max(own.max(), of_view.max(), restored.max())
    return {
        "photograph": thumbnail(seen.image),
        "its view": thumbnail(seen.viewed),
        "attention": heat_map(seen.image, own / largest),
        "attention of the view": heat_map(seen.viewed, of_view / largest),
        "the same, restored": heat_map(seen.image, restored / largest),
        "difference": heat_map(seen.image, np.abs(own - restored) / largest),
    }


def points(seen: Seen) -> dict[str, int]:
    """Three patches by what they are: where the class token attends most, where least, and the middle of the image."""
    own = seen.activation(seen.attention, seen.grid)
    middle = seen.grid.height // 2 * seen.grid.width + seen.grid.width // 2
    return {"most attended": int(own.argmax()), "least attended": int(own.argmin()), "middle": middle}


def affinity_pictures(seen: Seen) -> Pictures:
    """Figure 13: for each of the three `points`, marked, how much it attends to every patch, and the same in the view restored.

    A point attends to itself far more than to others: the scale ends at the largest of the others.
    """
    pictures = {}
    for name, patch in points(seen).items():
        for title, attention in ((name, seen.attention), (f"{name}, view restored", seen.restored)):
            weights = seen.affinity(attention, patch)
            others = np.delete(weights.ravel(), patch).max()
            pictures[title] = marked(heat_map(seen.image, weights / others), divmod(patch, seen.grid.width), seen.grid)
    return pictures


# ---- disk ----------------------------------------------------------------------------------------------------------------


def write_attention_figures(
    *, split: str | Path, model: str | Path, recipe: str, execution: Mapping, pictures: str | Path, table: str | Path
) -> None:
    """Writes the pictures of a few photographs of a split into a folder, and a table of them: image_id, kind, title, file.

    Args:
        split: table of the split.
        model: model.safetensors of a classifier.
        recipe: its Classifier, whose first view is drawn.
        execution: how to run.
        pictures: the folder.
        table: the csv; `file` names are those in the folder.
    """
    wanted, data = config.load(Classifier, recipe), read_split(split)
    network = read_classifier(model).to(device_of(config.build(Execution, execution, "execution")))
    Path(pictures).mkdir(parents=True, exist_ok=True)
    with atomic(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(COLUMNS)
        for record in Progress(chosen(data, SHOWN), "attention"):
            seen = see(network, *_input(network, read_image(record.image), wanted))
            for kind, drawn in (("activation", activation_pictures(seen)), ("affinity", affinity_pictures(seen))):
                for number, (title, picture) in enumerate(drawn.items(), start=1):
                    name = f"{record.image_id}.{kind}_{number}.png"
                    write_image(Path(pictures) / name, picture)
                    rows.writerow((record.image_id, kind, title, name))


def _input(
    model: VitClassifier, photograph: UInt8[np.ndarray, "H W 3"], recipe: Classifier
) -> tuple[Float[Tensor, "3 _ _"], View]:
    """A photograph at the size at which seeds see it, and the first of the recipe's views."""
    seeds = Seeds(classifier="", image_size=recipe.image_size)
    height, width = input_size(photograph.shape[0], photograph.shape[1], model.patch, seeds)
    grid = Grid(height // model.patch, width // model.patch)
    return as_input(as_working_image(photograph), height, width, model), draw(recipe.views[:1], np.random.default_rng(0), grid)
