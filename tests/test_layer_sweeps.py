"""Figure 8 in one pass: every number of layers at once is what each gives alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from acr.config import canonical
from acr.figures import layer_frame, write_layer_figure
from acr.files import Arrays, read_json
from acr.layer_sweeps import from_last, localise_from_each, sweep_shard
from acr.metrics import measure_layer_sweep, measure_seeds
from acr.models.vit import VitClassifier
from acr.recipes import Seeds
from acr.seeds import localise, seed_shard, with_depth

RECIPE = Seeds(classifier="any", image_size=32, layers=None)


@pytest.fixture(scope="module")
def small() -> VitClassifier:
    torch.manual_seed(0)
    model = VitClassifier("vit_stem8_96", 3, "native").double().eval().requires_grad_(False)
    for block in model.network.blocks:
        block.attn.qkv.weight *= 6
    return model


def test_means_over_the_last_layers_by_hand() -> None:
    layers = torch.tensor([[6.0, 0.0], [2.0, 4.0], [1.0, 8.0]])
    assert from_last(layers).tolist() == [[1.0, 8.0], [1.5, 6.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    "change",
    [
        {"refine": False},
        {},
        {"rectify": "layers"},
        {"affinity_layers": (0, 2)},
        {"affinity_power": 2.0, "product": "affinity_times_map"},
        {"flip": False},
    ],
    ids=str,
)
def test_all_numbers_of_layers_at_once_equal_each_alone(small: VitClassifier, change: dict) -> None:
    image = torch.rand(3, 32, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    recipe = with_depth(replace(RECIPE, **change), small)
    swept = localise_from_each(small, image[None], [(2, 0)], recipe)
    alone = [localise(small, image[None], [(2, 0)], replace(recipe, layers=count)) for count in (1, 2, 3)]
    assert torch.allclose(swept, torch.stack(alone), atol=1e-12)


@pytest.fixture
def made(trained: dict, tmp_path: Path) -> dict:
    """Maps of a sweep over a few scenes, and the seeds of all layers alone."""
    recipe = Seeds(classifier="acr", image_size=32, layers=None)
    call = {**trained, "execution": {"device": "cpu"}, "shard": "0-of-1", "made_from": {}, "recipe": canonical(recipe)}
    sweep_shard(**call, output=str(tmp_path / "swept.npz"))
    seed_shard(**call, output=str(tmp_path / "seeds.npz"))
    return {"split": trained["split"], "recipe": canonical(recipe), "folder": tmp_path}


def test_a_sweep_is_measured_as_seeds_are(made: dict) -> None:
    folder = made["folder"]
    swept, seeds = Arrays(folder / "swept.npz"), Arrays(folder / "seeds.npz")
    assert list(swept) == list(seeds)
    for name in seeds:
        assert len(swept[name]) == 3
        assert np.abs(swept[name][2].astype(np.float32) - seeds[name].astype(np.float32)).max(initial=0) < 2e-3
    np.savez(folder / "last.npz", **{name: swept[name][2] for name in swept})
    common = {"split": made["split"], "recipe": made["recipe"], "dataset": "toy", "name": "acr"}
    measure_layer_sweep(**common, maps=folder / "swept.npz", output=folder / "sweep.json")
    measure_seeds(**common, maps=folder / "last.npz", output=folder / "seeds.json")
    sweep, alone = read_json(folder / "sweep.json"), read_json(folder / "seeds.json")
    assert [(each["layers"], each["first_layer"]) for each in sweep["layers"]] == [(1, 3), (2, 2), (3, 1)]
    assert {key: alone[key] for key in sweep["layers"][2] if key in alone} == {
        key: value for key, value in sweep["layers"][2].items() if key in alone
    }
    write_layer_figure(metrics=folder / "sweep.json", csv=folder / "figure.csv", picture=folder / "figure.png")
    frame = layer_frame(sweep)
    assert frame["first_layer"].tolist() == [1, 2, 3]
    assert np.allclose(frame[["miou", "false_positive", "false_negative"]].sum(axis=1), 100)
    assert (folder / "figure.csv").read_text().splitlines()[0].startswith("first_layer,layers,miou,")
    assert (folder / "figure.png").read_bytes()[1:4] == b"PNG"


def test_only_gradients_of_layers_are_swept(trained: dict, tmp_path: Path) -> None:
    recipe = canonical(Seeds(classifier="acr", method="cam"))
    call = {**trained, "execution": {"device": "cpu"}, "shard": "0-of-1", "made_from": {}, "recipe": recipe}
    with pytest.raises(ValueError, match=r"^method is 'cam', which has no gradients of layers; sweep over"):
        sweep_shard(**call, output=str(tmp_path / "swept.npz"))
