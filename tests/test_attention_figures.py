"""The pictures of attention show what they say: a view that is brought back, and where a patch looks."""

import numpy as np
import pandas as pd
import pytest
import torch

from acr.attention_figures import SHOWN, Seen, activation_pictures, affinity_pictures, points, see, write_attention_figures
from acr.classifiers import read_classifier
from acr.config import canonical
from acr.datasets.base import read_split
from acr.figures import chosen
from acr.images import read_image
from acr.models.trace import activation
from acr.overlays import heat_map, marked, thumbnail
from acr.recipes import Classifier
from acr.shapes import Grid
from acr.views import HFLIP, IDENTITY, ROT90

GRID = Grid(2, 3)


@pytest.fixture
def model(trained):
    return read_classifier(trained["model"])


def made_up(attention: torch.Tensor, restored: torch.Tensor) -> Seen:
    """What might have been seen on a grey image of 2 x 3 patches, with one class token."""
    image = np.full((16, 24, 3), 128, np.uint8)
    return Seen(image, image[:, ::-1], attention, restored, restored, GRID, GRID, special=1, class_tokens=1)


def numbered() -> torch.Tensor:
    return torch.arange(49, dtype=torch.float64).view(7, 7) / 48


def test_the_identity_sees_the_same_twice(model):
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen = see(model, image, IDENTITY)
    assert (seen.image == seen.viewed).all()
    torch.testing.assert_close(seen.attention, seen.restored, rtol=0, atol=1e-7)
    picture = activation_pictures(seen)["difference"]
    assert (picture == heat_map(seen.image, np.zeros((4, 4), np.float32))).all()


@pytest.mark.parametrize("view", [HFLIP, ROT90])
def test_a_view_is_brought_back_to_the_order_of_the_image(model, view):
    """The restored attention of the class token is the inverse view of what the network says of the view itself."""
    image = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0))
    seen = see(model, image, view)
    with torch.inference_mode():
        trace = model(view.forward(image[None]))
    own = activation(torch.stack(trace.attentions).mean(0)[0].double(), trace.special).view(trace.grid)
    assert (seen.grid, seen.view_grid) == (Grid(4, 6), trace.grid)
    np.testing.assert_allclose(seen.activation(seen.restored, seen.grid), view.inverse(own).numpy(), rtol=0, atol=1e-12)
    pixels = np.rint(255 * view.forward(image[None])[0].permute(1, 2, 0).numpy())
    assert (seen.viewed == pixels).all()


def test_attention_is_shown_on_one_scale():
    attention, restored = numbered(), numbered() / 2
    pictures = activation_pictures(made_up(attention, restored))
    image, row = np.full((16, 24, 3), 128, np.uint8), np.arange(1, 7).reshape(2, 3) / 6  # of the class token, over its largest
    assert list(pictures)[:2] == ["photograph", "its view"]
    assert (pictures["photograph"] == thumbnail(image)).all()
    assert (pictures["attention"] == heat_map(image, row)).all()
    assert (pictures["the same, restored"] == heat_map(image, row / 2)).all()
    assert (pictures["difference"] == heat_map(image, row / 2)).all()


def test_three_patches_are_marked_where_they_are_and_end_the_scale_at_their_largest_neighbour():
    attention = numbered()
    seen = made_up(attention, attention.flip(0))
    assert points(seen) == {"most attended": 5, "least attended": 0, "middle": 4}
    pictures = affinity_pictures(seen)
    assert list(pictures)[:2] == ["most attended", "most attended, view restored"]
    weights = np.arange(43, 49).reshape(2, 3)  # of patch 5: row 6, of which its own is the last
    expected = heat_map(seen.image, weights / 47)
    assert (pictures["most attended"] == marked(expected, (1, 2), GRID)).all()
    assert not (pictures["most attended"] == expected).all()


def test_a_few_photographs_are_written_and_listed(trained, tmp_path):
    recipe = canonical(Classifier(backbone="vit_stem8_96", image_size=32, views=("hflip",)))
    table = tmp_path / "acr.csv"
    write_attention_figures(**trained, recipe=recipe, execution={"device": "cpu"}, pictures=tmp_path / "acr", table=table)
    rows = pd.read_csv(table, dtype=str)
    records = chosen(read_split(trained["split"]), SHOWN)
    assert rows["image_id"].drop_duplicates().tolist() == [record.image_id for record in records]
    assert rows.groupby("kind", sort=False).size().to_dict() == {"activation": 6 * SHOWN, "affinity": 6 * SHOWN}
    assert {path.name for path in (tmp_path / "acr").iterdir()} == set(rows["file"])
    own, view = (read_image(tmp_path / "acr" / rows["file"][number]) for number in range(2))
    assert (view == own[:, ::-1]).all()
    assert own.std() > 0
