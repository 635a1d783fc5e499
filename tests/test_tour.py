"""docs/tour.md runs from top to bottom, shows the pictures that there are, and does what the pipeline does."""

import copy
import re
import runpy
import shutil
import subprocess
import sys
from contextlib import chdir
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from acr.attention_figures import see
from acr.config import check
from acr.consistency import view_consistency
from acr.crf import masks
from acr.files import Arrays
from acr.models.vit import VitClassifier
from acr.overlays import SIDE, TITLE
from acr.pseudo_labels import Walk, mask_values, pseudo_scores, read_affinity
from acr.recipes import Seeds
from acr.seeds import localise
from acr.views import HFLIP, IDENTITY, restore
from tests import pages
from tests.running import ROOT, environment

PAGE = ROOT / "docs" / "tour.md"
TEXT = PAGE.read_text()
PICTURES = ROOT / "docs" / "tour"
LINKED = re.compile(r"!\[([^\]]*)\]\(tour/(\w+)\.png\)")
LINES, SMALL = 40, 60_000  # of code, and bytes of a picture
Tour = runpy.run_path(str(ROOT / "docs" / "tour.py"))["Tour"]


@pytest.fixture(scope="module")
def made(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the page and its pictures were made anew, of the micro run and by the command that the page gives."""
    folder = tmp_path_factory.mktemp("made")
    for name in ("tour.md", "tour.py"):
        shutil.copy(ROOT / "docs" / name, folder)
    command = [sys.executable, str(folder / "tour.py"), "results/micro"]
    subprocess.run(command, cwd=run, env=environment(), check=True)
    return folder


@pytest.fixture(scope="module")
def names(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the blocks leave behind after the first photograph of train with two classes, of which the run has seeds."""
    tour = Tour("results/micro", tmp_path_factory.mktemp("tour"))
    with chdir(run):
        tour.of(TEXT.replace("splits/val.csv", "splits/train.csv"))
    return tour.names


# ---- the page ------------------------------------------------------------------------------------------------------------


def test_the_page_shows_every_picture_there_is_and_no_other() -> None:
    linked = [name for _, name in LINKED.findall(TEXT)]
    assert sorted(linked) == sorted(path.stem for path in PICTURES.iterdir())
    assert {path.name: path.stat().st_size for path in PICTURES.iterdir() if path.stat().st_size > SMALL} == {}


def test_the_code_is_short() -> None:
    lines = [line for each in pages.codes(PAGE, "python") for line in each.splitlines() if line]
    assert len([line for line in lines if not re.match("from|import", line)]) <= LINES
    assert max(map(len, lines)) <= 128


def check_pictures(text: str, folder: Path, tokens: int) -> None:
    """Each picture has a panel for each of its titles, three or two a row, and no panel is of one colour."""
    for titles, name in LINKED.findall(text):
        panels, picture = titles.split("; "), np.asarray(Image.open(folder / f"{name}.png").convert("RGB"))
        side = 2 * tokens if name == "matrices" else SIDE
        across = 2 if len(panels) % 3 else 3
        rows = len(panels) // across
        assert picture.shape == (rows * (TITLE + side), across * (side + 6) - 6, 3), name
        for place, title in enumerate(panels):
            top, left = place // across * (TITLE + side) + TITLE, place % across * (side + 6)
            assert picture[top : top + side, left : left + side].std((0, 1)).max() > 0, (name, title)


def test_pictures_are_as_the_page_says() -> None:
    check_pictures(TEXT, PICTURES, tokens=1 + 12 * 12)


@pytest.mark.slow
def test_pictures_of_another_run_are_as_its_page_says(made: Path) -> None:
    check_pictures((made / "tour.md").read_text(), made / "tour", tokens=1 + 8 * 8)


def without_measurements(page: str, run: Path) -> str:
    """The page without the numbers and classes of its outputs, and without the classes of its titles."""
    classes = "|".join((run / "results/micro/splits/classes.txt").read_text().split())
    page = re.sub(
        r"(?<=```text\n).*?(?=```)", lambda output: re.sub(rf"{classes}|[\d.]+| +", "", output[0]), page, flags=re.DOTALL
    )
    return LINKED.sub(lambda picture: re.sub(rf"\b({classes})\b", "", picture[0]), page)


@pytest.mark.slow
def test_another_run_changes_measurements_alone(made: Path, run: Path) -> None:
    text = (made / "tour.md").read_text()
    assert text != TEXT
    assert without_measurements(text, run) == without_measurements(TEXT, run)


@pytest.mark.slow
def test_the_same_run_makes_the_same_page(made: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    text = (made / "tour.md").read_text()
    assert Tour("results/micro", tmp_path).of(text) == text
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (made / "tour" / path.name).read_bytes(), path.name


def test_losses_and_scores_that_the_page_prints_bear_out_what_it_says() -> None:
    """These sentences stand between outputs that a new run replaces."""
    losses = dict(re.findall(r"^(.*restored): L_act (.*), L_aff", TEXT, re.MULTILINE))
    assert 0 < float(losses["restored"]) < float(losses["not restored"])
    scores = {name.strip(): float(score) for name, score in re.findall(r"^(.{14}) +([\d.]+)$", TEXT, re.MULTILINE)}
    assert scores["seeds"] < scores["walked"] < scores["pseudo label"]


# ---- what it computes ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_maps_are_those_of_the_pipeline(names: dict[str, Any], run: Path) -> None:
    stored = Arrays(run / "results/micro/seeds/acr_star/maps.npz")[names["record"].image_id]
    np.testing.assert_allclose(names["maps"]["seeds"], stored.astype(np.float32), atol=1e-3)
    recipes = {
        "Eq. 7": Seeds("", layers=3, flip=False, refine=False),
        "Eq. 8, M A": Seeds("", layers=3, flip=False),
        "A M": Seeds("", layers=3, flip=False, product="affinity_times_map"),
    }
    for title, recipe in recipes.items():
        whole = localise(names["network"], names["image"][None], [names["classes"]], recipe)[:, 0].numpy()
        # other orders of sums, from the smallest to the largest value of maps that are nearly constant
        np.testing.assert_allclose(names["maps"][title], whole, atol=1e-3)


@pytest.mark.slow
def test_the_pseudo_label_is_that_of_the_pipeline(names: dict[str, Any], run: Path) -> None:
    recipe, photograph = names["recipe"], names["photograph"]
    walk = Walk(*read_affinity(run / "results/micro/affinities/psa/model.safetensors"), recipe)
    scores = pseudo_scores(photograph, names["maps"]["seeds"], recipe.background, walk)
    (mask,) = masks([(photograph, scores)], recipe.crf, workers=0)
    np.testing.assert_array_equal(names["made"]["pseudo label"], mask_values(names["classes"])[mask])


@pytest.mark.slow
def test_recipes_are_those_of_the_default(names: dict[str, Any]) -> None:
    plan = check(yaml.safe_load((ROOT / "config" / "config.yaml").read_text()))
    assert names["recipe"] == plan.recipe("pseudo_labels", "acr")
    prediction = plan.recipe("predictions", "deeplab_crf")
    assert (prediction.scales, prediction.crf) == ((1.0,), names["recipe"].crf)
    wanted = asdict(plan.recipe("seeds", names["recipe"].seeds))
    not_read = ("classifier", "image_size", "product")  # the size is the micro run's, and there is no product unless refined
    assert {k: v for k, v in asdict(names["localiser"].recipe).items() if k not in not_read} == {
        k: v for k, v in wanted.items() if k not in not_read
    }


# ---- what it says of the equations ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_restore_is_equation_5(names: dict[str, Any]) -> None:
    """The paper's product, whose Kronecker factors change places since patches follow row by row here."""
    seen = names["seen"]
    flip = torch.kron(torch.eye(seen.grid.height), torch.eye(seen.grid.width).flip(0)).double()
    assert torch.equal(seen.restored[1:, 1:], flip @ seen.of_view[1:, 1:] @ flip.T)
    assert torch.equal(seen.restored[0, 1:], seen.of_view[0, 1:] @ flip.T)
    assert torch.equal(seen.restored[:, 0], torch.cat([seen.of_view[:1, 0], flip @ seen.of_view[1:, 0]]))
    assert torch.equal(restore(HFLIP, seen.restored, seen.grid, seen.special), seen.of_view)
    assert not torch.equal(seen.restored, seen.of_view)


def without_places(model: VitClassifier) -> VitClassifier:
    """The classifier as one that sees the mean colour of a patch alone, and not where the patch is."""
    model = copy.deepcopy(model)
    model.network.patch_embed.body = nn.Sequential(nn.AvgPool2d(model.patch), nn.Conv2d(3, model.network.embed_dim, 1))
    model.network.pos_embed.zero_()
    return model.double().requires_grad_(False)


@pytest.mark.slow
def test_what_is_left_is_how_patches_look_and_where_they_stand(names: dict[str, Any]) -> None:
    """For a network that sees neither, attention of the flip, restored, is that of the image."""
    image, equivariant = names["image"].double(), without_places(names["network"])
    seen = see(equivariant, image, HFLIP)
    torch.testing.assert_close(seen.restored, seen.attention, rtol=0, atol=1e-6)
    assert (seen.of_view - seen.attention).abs().max() > 1e-4
    assert (names["seen"].restored - names["seen"].attention).abs().max() > 1e-4
    losses = view_consistency(equivariant(image[None]), equivariant(HFLIP.forward(image[None])), HFLIP)
    assert max(losses) < 1e-6


@pytest.mark.slow
def test_losses_are_zero_where_nothing_is_done(names: dict[str, Any]) -> None:
    own, flipped = names["traces"]
    assert view_consistency(own, own, IDENTITY) == (0, 0)
    assert min(view_consistency(own, flipped, HFLIP)) > 0
