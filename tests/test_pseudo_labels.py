import itertools

import numpy as np
import pytest
import torch

from acr.affinities import neighbours
from acr.config import canonical
from acr.datasets.base import Record, Split, write_classes, write_split
from acr.files import Arrays, write_arrays
from acr.images import read_mask, upsample, write_image
from acr.measures import otsu_threshold
from acr.models.affinity_net import AffinityNet, build_affinity_net
from acr.models.weights import save_model
from acr.pseudo_labels import Walk, mask_values, probabilities_of, pseudo_label_shard, pseudo_scores, read_affinity
from acr.recipes import PseudoLabels
from acr.shards import merge_masks

DESCRIPTION = {"method": "psa", "backbone": "resnet10t", "stride": 8, "normalisation": "native", "options": {}, "radius": 3}


class Colours(AffinityNet):
    """An affinity network whose features are the colours of the cells, so that affinities can be told by eye."""

    def __init__(self, stride):
        torch.nn.Module.__init__(self)
        self.stride, self.method = stride, "psa"
        self.backbone = torch.nn.Module()
        self.backbone.normalise = torch.nn.Module()
        self.backbone.normalise.register_buffer("mean", torch.zeros(3))

    def forward(self, images):
        return 100 * torch.nn.functional.avg_pool2d(images, self.stride, ceil_mode=True)


def mask_of(maps, background, indices):
    """The mask that the best of a background and the maps makes."""
    return mask_values(indices)[probabilities_of(maps, background).argmax(0)]


def pseudo_label(image, maps, indices, background, spread):
    return mask_values(indices)[pseudo_scores(image, maps, background, spread).argmax(0)]


def test_probabilities_are_scores_over_their_sum():
    maps = np.array([[[0.2, 0.0]], [[0.5, 0.0]]], np.float32)
    assert np.allclose(probabilities_of(maps, 0.3), [[[0.3, 1]], [[0.2, 0]], [[0.5, 0]]])
    assert (probabilities_of(maps * 0, 0.0) == 0).all()


def test_a_mask_takes_the_best_map_above_the_background():
    maps = np.array([[[0.2, 0.9, 0.4, 0.3]], [[0.1, 0.5, 0.6, 0.3]]], np.float32)
    assert mask_of(maps, 0.35, (3, 7)).tolist() == [[0, 4, 8, 0]]
    assert mask_of(maps, 0.25, (3, 7)).tolist() == [[0, 4, 8, 4]]
    assert mask_of(maps, 1.0, (3, 7)).tolist() == [[0, 0, 0, 0]]
    # a tie goes to the background
    assert mask_of(np.full((1, 1, 1), 0.5, np.float32), 0.5, (0,)).tolist() == [[0]]


def test_a_walk_spreads_a_seed_over_its_object_and_no_farther():
    image = np.full((32, 48, 3), 255, np.uint8)
    image[8:24, 8:40] = 0
    maps = np.zeros((1, 8, 12), np.float32)
    maps[0, 3:5, 3:5] = 1  # a corner of the object
    recipe = PseudoLabels(seeds="acr", exponent=1.0, walk_steps=100)
    walked = Walk(Colours(4), neighbours(5), recipe)(image, maps)
    assert walked.shape == (1, 8, 12)
    # a cell's share of the mass of 4 cells is in proportion to how many neighbours it has
    assert 0.05 < walked[0, 2:6, 2:10].min() < walked[0, 2:6, 2:10].max() < 0.3
    outside = walked.copy()
    outside[0, 2:6, 2:10] = 0
    assert outside.max() < 1e-6
    mask = pseudo_label(image, maps, (4,), 0.02, Walk(Colours(4), neighbours(5), recipe))
    expected = np.where(image[..., 0] == 0, 5, 0)
    assert (mask[10:22, 10:38] == 5).all()
    assert (mask[expected == 0] == 0).mean() > 0.9


def test_an_image_without_classes_is_all_background():
    image = np.zeros((5, 6, 3), np.uint8)
    mask = pseudo_label(image, np.zeros((0, 1, 1), np.float32), (), 0.3, lambda image, maps: maps)
    assert mask.tolist() == [[0] * 6] * 5


def test_otsu_finds_each_image_its_own_level_between_ground_and_object():
    image = np.zeros((8, 8, 3), np.uint8)
    bright = np.full((1, 8, 8), 0.1, np.float32)
    bright[0, 2:5, 3:6] = 0.9
    expected = np.where(bright[0] > 0.5, 3, 0)
    for maps in (bright, bright / 4):  # a walk may leave any peak
        assert (pseudo_label(image, maps, (2,), "otsu", lambda image, maps: maps) == expected).all()
    assert not pseudo_label(image, 0 * bright, (2,), "otsu", lambda image, maps: maps).any()


@pytest.fixture
def data(tmp_path):
    """Four images of 22 x 30 pixels and their seeds; an untrained network."""
    rng = np.random.default_rng(0)
    classes = ("bird", "cat", "dog")
    records, seeds = [], {}
    for index, labels in enumerate([("cat",), ("bird", "dog"), ("dog",), ()]):
        path = tmp_path / f"{index}.png"
        write_image(path, rng.integers(0, 256, (22, 30, 3), dtype=np.uint8))
        records.append(Record(f"image_{index}", path, None, labels))
        seeds[f"image_{index}"] = rng.random((len(labels), 5, 6)).astype(np.float16) * (0.4 + 0.2 * index)
    split = Split("train", classes, tuple(records))
    write_split(tmp_path / "train.csv", split)
    write_classes(tmp_path / "classes.txt", classes)
    write_arrays(tmp_path / "maps.npz", seeds.items())
    torch.manual_seed(0)
    save_model(tmp_path / "network", build_affinity_net(DESCRIPTION), DESCRIPTION)
    return tmp_path, split


def run(folder, model, count, **recipe):
    """The folder of masks made in `count` shards, with the network of `model` or without one."""
    name = f"{'walked' if model else 'seeds'}_{count}"
    outputs = [folder / f"{name}_{index}.npz" for index in range(count)]
    for index, output in enumerate(outputs):
        pseudo_label_shard(
            split=folder / "train.csv",
            maps=folder / "maps.npz",
            model=model and folder / model,
            recipe=canonical(PseudoLabels(seeds="acr", **recipe)),
            execution={"device": "cpu"},
            shard=f"{index}-of-{count}",
            output=output,
            made_from={},
        )
    merge_masks(split=str(folder / "train.csv"), shards=[str(output) for output in outputs], folder=str(folder / name))
    return folder / name


@pytest.mark.parametrize("model", [None, "network/model.safetensors"])
def test_the_number_of_shards_leaves_no_trace(data, model):
    folder, split = data
    one, three = (run(folder, model, count, walk_steps=8) for count in (1, 3))
    names = [f"{record.image_id}.png" for record in split.records]
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in three.iterdir()) == names
    for name, record in zip(names, split.records, strict=True):
        assert (one / name).read_bytes() == (three / name).read_bytes()
        mask = read_mask(one / name)
        assert mask.shape == (22, 30)
        assert set(np.unique(mask)) <= {0, *(index + 1 for index in split.class_indices(record))}
    if model is None:
        assert read_mask(one / "image_1.png").max() == 3


def test_without_a_walk_the_upsampled_seeds_are_thresholded(data):
    folder, _ = data
    masks = run(folder, None, 1, background=0.25)
    maps = upsample(Arrays(folder / "maps.npz")["image_1"].astype(np.float32), 22, 30)
    mask = read_mask(masks / "image_1.png")
    for row, column in itertools.product(range(22), range(30)):
        best = int(maps[:, row, column].argmax())
        expected = (1, 3)[best] if maps[best, row, column] > 0.25 else 0
        assert mask[row, column] == expected
    assert set(np.unique(mask)) == {0, 1, 3}


@pytest.mark.parametrize("shards", [1, 3])
def test_the_level_of_the_split_is_that_of_all_seeds_in_whatever_shard(data, shards):
    folder, split = data
    maps = Arrays(folder / "maps.npz")
    level = otsu_threshold(maps[record.image_id] for record in split.records)
    made = []
    for background in (level, "otsu_of_split", "otsu"):
        folder_of_masks = run(folder, None, shards, background=background)
        made.append([(folder_of_masks / f"{record.image_id}.png").read_bytes() for record in split.records])
    assert made[0] == made[1] != made[2]


def test_a_network_is_read_as_it_was_written(data):
    folder, _ = data
    network, offsets = read_affinity(folder / "network/model.safetensors")
    assert offsets == neighbours(3)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    torch.manual_seed(0)
    same = build_affinity_net(DESCRIPTION)
    assert all((same.state_dict()[name] == tensor).all() for name, tensor in network.state_dict().items())
